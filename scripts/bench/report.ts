/** What a bench has found, and how it is written: as a section of RESULTS.md and as lines on a terminal. */
import { figure } from "./statistics.ts";

export interface Table {
  readonly caption: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** A figure that was promised. `atMost`: smaller is better. */
export interface Goal {
  readonly what: string;
  readonly value: number;
  readonly must: number;
  readonly aim: number;
  readonly sense: "atLeast" | "atMost";
  readonly unit: string;
}

export interface Report {
  readonly title: string;
  /** Sentences that say what was measured and what is not comparable. */
  readonly notes: readonly string[];
  /** One line a peer. */
  readonly peers: readonly string[];
  readonly tables: readonly Table[];
  readonly goals: readonly Goal[];
  /** Every single measurement, for --json. */
  readonly data: unknown;
}

/** Whether a goal is reached. */
export function isReached(goal: Goal, limit = goal.must): boolean {
  return goal.sense === "atLeast" ? goal.value >= limit : goal.value <= limit;
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}

function markdownTable({ caption, columns, rows }: Table): string[] {
  const heading = caption === "" ? [] : [`**${caption}**`, ""];
  return [
    ...heading,
    row(columns),
    row(columns.map((_, index) => (index === 0 ? "---" : "--:"))),
    ...rows.map(row),
    "",
  ];
}

function goalTable(goals: readonly Goal[]): Table {
  const sign = (goal: Goal) => (goal.sense === "atLeast" ? ">=" : "<=");
  const verdict = (goal: Goal) => (isReached(goal, goal.aim) ? "aim reached" : isReached(goal) ? "reached" : "missed");
  return {
    caption: "Against the goals",
    columns: ["goal", "measured", "must", "aim", ""],
    rows: goals.map((goal) => [
      goal.what,
      `${figure(goal.value)} ${goal.unit}`,
      `${sign(goal)} ${goal.must} ${goal.unit}`,
      `${sign(goal)} ${goal.aim} ${goal.unit}`,
      verdict(goal),
    ]),
  };
}

/** The body of a section, without its heading. */
export function toMarkdown(report: Report, facts: { command: string; machine: string; date: string }): string {
  const lines = [
    `\`${facts.command}\`, ${facts.date}, ${facts.machine}.`,
    "",
    ...report.notes.flatMap((note) => [note, ""]),
    ...report.peers.map((peer) => `- ${peer}`),
    "",
    ...report.tables.flatMap(markdownTable),
    ...(report.goals.length === 0 ? [] : markdownTable(goalTable(report.goals))),
  ];
  return `${lines.join("\n").trimEnd()}\n`;
}
