/**
 * A seeded list of troubles for a link: pauses as loss causes them, half-open freezes, cuts.
 *
 * The same seed and plan always give the same events, so that a red run is repeated by its seed. Pure: it neither waits nor touches a link.
 */

/** Mean times between events of a kind (exponentially distributed) and the longest such event; absent kinds never happen. */
export interface LinkTroublePlan {
  readonly seed: number;
  readonly stall?: { readonly everyMs: number; readonly durationMsMax: number };
  readonly freeze?: { readonly everyMs: number; readonly durationMsMax: number };
  readonly cut?: { readonly everyMs: number };
}

export interface LinkTrouble {
  /** Since the start of the schedule. */
  readonly atMs: number;
  readonly kind: "stall" | "freeze" | "cut";
  /** 0 for a cut. */
  readonly durationMs: number;
}

/** Numbers of [0, 1) from a seed (mulberry32); good enough for tests and benches, for nothing else. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** The events of a plan in the order of time, without end; nothing if the plan names no trouble. */
export function* linkTroubles(plan: LinkTroublePlan): Generator<LinkTrouble> {
  const random = seededRandom(plan.seed);
  const wait = (everyMs: number) => -Math.log(1 - random()) * everyMs;
  const kinds = [
    { kind: "stall", ...plan.stall },
    { kind: "freeze", ...plan.freeze },
    { kind: "cut", durationMsMax: 0, ...plan.cut },
  ] as const;
  const pending = kinds.flatMap(({ kind, everyMs, durationMsMax }) =>
    everyMs === undefined || durationMsMax === undefined ? [] : [{ kind, everyMs, durationMsMax, atMs: wait(everyMs) }],
  );
  for (;;) {
    const next = pending.reduce<(typeof pending)[number] | undefined>(
      (first, other) => (first === undefined || other.atMs < first.atMs ? other : first),
      undefined,
    );
    if (next === undefined) return;
    const durationMs = random() * next.durationMsMax;
    yield { atMs: next.atMs, kind: next.kind, durationMs };
    next.atMs += durationMs + wait(next.everyMs);
  }
}
