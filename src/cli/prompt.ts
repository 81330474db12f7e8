/**
 * Questions to the person at the terminal: on standard error, answered on standard input, both of which must be one.
 */
import { createInterface } from "node:readline";
import { StringDecoder } from "node:string_decoder";
import { Exit, failure } from "./failure.ts";

const CTRL_C = "\u0003";
const CTRL_D = "\u0004";
const CTRL_U = "\u0015";
const BACKSPACES = new Set(["\b", "\u007f"]);
const ANSWER_CHARS_MAX = 1024;

/** Whether there is somebody to ask. */
export function isTerminal(): boolean {
  return process.stdin.isTTY === true && process.stderr.isTTY === true;
}

const interrupted = () => failure(Exit.FAILED, "interrupted");

/** Whether the answer is yes; only "y" and "yes" are. @throws CommanderError FAILED on Ctrl-C, and when `signal` aborts. */
export function askYesNo(question: string, signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return Promise.reject(interrupted());
  return new Promise((resolve, reject) => {
    const lines = createInterface({ input: process.stdin, output: process.stderr });
    const leave = () => {
      process.stderr.write("\n");
      reject(interrupted());
      lines.close();
    };
    lines.once("SIGINT", leave);
    signal.addEventListener("abort", leave);
    lines.once("close", () => {
      signal.removeEventListener("abort", leave);
      resolve(false);
    });
    lines.question(`${question} [y/N] `, (answer) => {
      resolve(/^(y|yes)$/i.test(answer.trim()));
      lines.close();
    });
  });
}

/** A line that is not shown while it is typed. @throws CommanderError FAILED on Ctrl-C and Ctrl-D, and when `signal` aborts. */
export function askSecret(question: string, signal?: AbortSignal): Promise<string> {
  if (signal?.aborted === true) return Promise.reject(interrupted());
  const { stdin, stderr } = process;
  stderr.write(`${question} `);
  const decoder = new StringDecoder("utf8");
  let text = "";
  stdin.setRawMode(true);
  stdin.resume();
  return new Promise((resolve, reject) => {
    const end = (settle: () => void) => {
      stdin.off("data", onData);
      signal?.removeEventListener("abort", leave);
      stdin.setRawMode(false);
      stdin.pause();
      stderr.write("\n");
      settle();
    };
    const leave = () => end(() => reject(interrupted()));
    const onData = (chunk: Buffer) => {
      const chars = [...decoder.write(chunk)];
      for (const [index, char] of chars.entries()) {
        if (char === "\r" || char === "\n") {
          end(() => resolve(text));
          // Typed ahead: for the next question.
          const rest = chars.slice(index + 1).join("");
          if (rest !== "") stdin.unshift(Buffer.from(rest));
          return;
        }
        if (char === CTRL_C || char === CTRL_D) return leave();
        if (char === CTRL_U) text = "";
        else if (BACKSPACES.has(char)) text = [...text].slice(0, -1).join("");
        else if (text.length < ANSWER_CHARS_MAX) text += char;
      }
    };
    stdin.on("data", onData);
    signal?.addEventListener("abort", leave);
  });
}
