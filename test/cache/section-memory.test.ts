/** Memory that is used again, and goes back to the machine when nobody needs it. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { REST_MS, SectionMemory } from "../../src/cache/section-memory.ts";
import { FakeClock } from "../support/fake-clock.ts";

const SECTION = 64;

function setUp(idleMax = 16) {
  const clock = new FakeClock();
  const memory = new SectionMemory(SECTION, idleMax, clock);
  /** Uses so many at the same time. */
  const use = (count: number): Set<Buffer> => {
    const taken = Array.from({ length: count }, () => memory.take());
    for (const each of taken) memory.give(each);
    return new Set(taken);
  };
  return { clock, memory, use };
}

describe("memory of sections", () => {
  it("is used again, also when all of it was idle in between", () => {
    const { clock, use } = setUp();
    const first = use(10);
    clock.advance(REST_MS - 1);
    assert.deepEqual(use(10), first);
  });

  it("goes back when nobody has needed it for a while, but for a little, and nobody looks any more", () => {
    const { clock, memory, use } = setUp();
    use(10);
    clock.advance(2 * REST_MS);
    assert.equal(memory.idleCount, 4);
    assert.equal(clock.pendingCount, 0);
  });

  it("stays as far as it was needed meanwhile, and goes when it is not any more", () => {
    const { clock, memory, use } = setUp();
    use(10);
    clock.advance(REST_MS / 2);
    use(7);
    clock.advance(REST_MS / 2);
    assert.equal(memory.idleCount, 7);
    const held = memory.take();
    clock.advance(REST_MS);
    memory.give(held);
    assert.equal(memory.idleCount, 5, "what was in use was needed");
    clock.advance(2 * REST_MS);
    assert.deepEqual([memory.idleCount, clock.pendingCount], [4, 0]);
  });

  it("is kept up to a bound, and a little of it without a timer", () => {
    const { clock, memory, use } = setUp(6);
    use(4);
    assert.equal(clock.pendingCount, 0);
    use(10);
    assert.equal(memory.idleCount, 6);
  });
});
