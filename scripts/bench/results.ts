/** RESULTS.md: one section a bench, each replaced as a whole by the newest run. */
import { existsSync } from "node:fs";
import { readFile, rename, writeFile } from "node:fs/promises";

const HEAD = `# Results

Every figure is a median of runs made side by side in one go against peers that the same command started; the ratios are what counts, the
absolute figures belong to the machine named. Each section is written by the command it begins with.
`;

/** `text` with the section \`## heading\` replaced by `body`, or added where its name belongs in the order. */
export function replaceSection(text: string, heading: string, body: string): string {
  const [head = "", ...parts] = text.split(/^## /m);
  const sections = new Map(
    parts.map((part) => {
      const end = part.indexOf("\n");
      return [part.slice(0, end), part.slice(end + 1).trim()];
    }),
  );
  sections.set(heading, body.trim());
  const ordered = [...sections].toSorted(([a], [b]) => (a < b ? -1 : 1));
  return [head.trim(), ...ordered.map(([name, content]) => `## ${name}\n\n${content}`)].join("\n\n").concat("\n");
}

/** Writes `body` as the section `heading` of the file at `path`. */
export async function saveSection(path: string, heading: string, body: string): Promise<void> {
  const text = existsSync(path) ? await readFile(path, "utf8") : HEAD;
  const partial = `${path}.partial`;
  await writeFile(partial, replaceSection(text, heading, body));
  await rename(partial, path);
}
