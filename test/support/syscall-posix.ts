/**
 * `Posix` by real system calls, for a plain directory and for kernel mounts.
 *
 * The calls are made by worker processes (`syscall-worker.ts`), one for each identity, so that the process that serves a mount never waits for
 * itself and an identity is a real one. Calls issued together travel together.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { ErrnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import { type Calls, type Identity, type Posix, ROOT } from "./posix.ts";

/** What a worker is sent: a method of Calls, its arguments, and the umask it is made with. */
export interface WorkerCall {
  method: keyof Calls;
  args: readonly unknown[];
  umask: number;
}

/** One answer, in the order of the calls. */
export type WorkerAnswer = { value: unknown } | { errno: ErrnoName; op: string } | { bug: string };

/** The methods of Calls whose first arguments are paths, and how many. */
const PATH_ARGUMENTS: Partial<Record<keyof Calls, readonly number[]>> = {
  open: [0],
  stat: [0],
  lstat: [0],
  statfs: [0],
  access: [0],
  chmod: [0],
  chown: [0],
  lchown: [0],
  truncate: [0],
  utimens: [0],
  lutimens: [0],
  mkdir: [0],
  rmdir: [0],
  mknod: [0],
  unlink: [0],
  link: [0, 1],
  linkFd: [1],
  symlink: [1],
  readlink: [0],
  rename: [0, 1],
  getxattr: [0],
  lgetxattr: [0],
  listxattr: [0],
  setxattr: [0],
  lsetxattr: [0],
  removexattr: [0],
};

interface Pending {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

class Worker {
  readonly #child: ChildProcess;
  /** Calls not yet sent; they go together at the end of the current turn. */
  #unsent: WorkerCall[] = [];
  readonly #pending: Pending[] = [];
  #ended: string | undefined;

  constructor(identity: Identity) {
    const { uid, gid, groups = [] } = identity;
    this.#child = fork(
      fileURLToPath(new URL("syscall-worker.js", import.meta.url)),
      [JSON.stringify({ uid, gid, groups })],
      {
        serialization: "advanced",
        execArgv: ["--enable-source-maps"],
        // A worker stands in no directory of the test, else it would keep a mount busy.
        cwd: "/",
      },
    );
    this.#child.on("message", (answers) => this.#receive(answers as WorkerAnswer[]));
    this.#child.on("exit", (code, signal) => this.#end(`the worker ended with ${signal ?? code}`));
  }

  call(call: WorkerCall): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#ended !== undefined) return reject(new Error(this.#ended));
      this.#pending.push({ resolve, reject });
      this.#unsent.push(call);
      if (this.#unsent.length === 1) queueMicrotask(() => this.#send());
    });
  }

  #send(): void {
    const calls = this.#unsent;
    this.#unsent = [];
    if (this.#ended === undefined) this.#child.send(calls);
  }

  #receive(answers: WorkerAnswer[]): void {
    for (const answer of answers) {
      const pending = this.#pending.shift();
      if ("value" in answer) pending?.resolve(answer.value);
      else if ("errno" in answer) pending?.reject(new FsError(answer.errno, answer.op));
      else pending?.reject(new Error(answer.bug));
    }
  }

  #end(reason: string): void {
    this.#ended = reason;
    for (const { reject } of this.#pending.splice(0)) reject(new Error(reason));
  }

  async close(): Promise<void> {
    if (this.#ended !== undefined) return;
    const exited = once(this.#child, "exit");
    // Idle workers leave by themselves; one that is stuck in a call of a broken mount is killed.
    if (this.#pending.length === 0) this.#child.disconnect();
    else this.#child.kill("SIGKILL");
    await exited;
  }
}

/** Real system calls below a directory. `close` ends all workers. */
export interface SyscallPosix {
  posix: Posix;
  close(): Promise<void>;
}

/** A driver below `directory`, an absolute path. */
export function startSyscallPosix(directory: string): SyscallPosix {
  const workers = new Map<string, Worker>();
  const workerOf = (identity: Identity): Worker => {
    const { uid, gid, groups = [], process: number = 0 } = identity;
    const key = `${uid} ${gid} ${groups.join(",")} ${number}`;
    let worker = workers.get(key);
    if (worker === undefined) {
      worker = new Worker(identity);
      workers.set(key, worker);
    }
    return worker;
  };
  const make = (identity: Identity, base: string): Posix => {
    const whole = (path: string) => (path === "" ? "" : base + path);
    const own = {
      identity,
      as: (other: Identity) => make(other, base),
      below: (path: string) => make(identity, `${base}${path}/`),
    };
    return new Proxy(own as unknown as Posix, {
      get(target, property) {
        if (property in target || typeof property !== "string" || property === "then")
          return Reflect.get(target, property);
        const method = property as keyof Calls;
        const paths = PATH_ARGUMENTS[method] ?? [];
        return (...args: unknown[]) =>
          workerOf(identity).call({
            method,
            args: args.map((arg, index) => (paths.includes(index) ? whole(arg as string) : arg)),
            umask: identity.umask ?? 0o022,
          });
      },
    });
  };
  const base = Buffer.from(directory, "utf8").toString("latin1");
  return {
    posix: make(ROOT, `${base}/`),
    close: async () => {
      await Promise.all([...workers.values()].map((worker) => worker.close()));
      workers.clear();
    },
  };
}
