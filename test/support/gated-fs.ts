/** A FileSystem whose calls a test can hold up, see and let go one by one. */
import { FsError } from "../../src/base/errors.ts";
import type { FileSystem, RequestContext } from "../../src/vfs/file-system.ts";

/** A call that waits at the gate. */
export interface HeldCall {
  readonly name: string;
  readonly args: readonly unknown[];
  readonly ctx: RequestContext;
  /** Lets it reach the file system behind. */
  pass(): void;
  fail(error: Error): void;
  /** Ends it without the file system behind. */
  answer(value: unknown): void;
}

export class GatedFs {
  /** Calls that wait, oldest first. */
  readonly held: HeldCall[] = [];
  /** Names of all calls, in order. */
  readonly calls: string[] = [];
  /** Methods that are held up. */
  readonly gates = new Set<string>();
  /** Which calls of these methods are held up; default: all. */
  isHeld: (ctx: RequestContext) => boolean = () => true;
  /** Whether a held call ends with EINTR when its signal aborts. */
  heedsSignal = false;
  readonly fileSystem: FileSystem;
  #wake: () => void = () => {};

  constructor(behind: FileSystem) {
    this.fileSystem = new Proxy(behind, {
      get: (target, name: string) => {
        const method = (target as unknown as Record<string, (...args: unknown[]) => unknown>)[name];
        if (typeof method !== "function") return method;
        return (...args: unknown[]) => {
          this.calls.push(name);
          if (!this.gates.has(name) || !this.isHeld(args[0] as RequestContext)) return method.apply(target, args);
          return this.#hold(name, args, () => method.apply(target, args));
        };
      },
    });
  }

  /** Settles when `count` calls wait. */
  async holding(count: number): Promise<void> {
    while (this.held.length < count) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Lets all waiting calls go, and later ones through. */
  open(): void {
    this.gates.clear();
    for (const call of [...this.held]) call.pass();
  }

  #hold(name: string, args: unknown[], go: () => unknown): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const ctx = args[0] as RequestContext;
      const leave = () => {
        const index = this.held.indexOf(call);
        if (index >= 0) this.held.splice(index, 1);
        return index >= 0;
      };
      const call: HeldCall = {
        name,
        args,
        ctx,
        pass: () => {
          if (leave()) new Promise((done) => done(go())).then(resolve, reject);
        },
        fail: (error) => {
          if (leave()) reject(error);
        },
        answer: (value) => {
          if (leave()) resolve(value);
        },
      };
      this.held.push(call);
      if (this.heedsSignal) ctx.signal?.addEventListener("abort", () => call.fail(new FsError("EINTR", name)));
      this.#wake();
    });
  }
}
