/** How changes of the network are noticed: by word, and by looking where there is none. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import type { NetworkChange } from "../../src/sys/network-watch.ts";
import { SystemNetwork } from "../../src/transport/network.ts";
import { FakeClock } from "../support/fake-clock.ts";

const ROUTES: NetworkChange = { hasInterfaces: false, hasRoutes: true };
const INTERFACES: NetworkChange = { hasInterfaces: true, hasRoutes: false };

/** A machine with one address, which says what the test says or, `isMute`, nothing. */
function machine({ isMute = false } = {}) {
  const clock = new FakeClock();
  const state = { addresses: "eth0 192.0.2.1", watches: 0, told: 0, say: (_change: NetworkChange) => {} };
  const source = {
    look: () => state.addresses,
    watch(changed: (change: NetworkChange) => void) {
      if (isMute) throw new FsError("EPERM", "netlink");
      state.watches += 1;
      state.say = changed;
      return {
        close() {
          state.watches -= 1;
        },
      };
    },
  };
  const network = new SystemNetwork({ clock, log: silentLog, source });
  const tell = () => {
    state.told += 1;
  };
  return { clock, state, network, tell, listener: network.onChange(tell) };
}

test("an address that comes or goes is told at once, and nothing else that is said of interfaces", () => {
  const { clock, state } = machine();
  state.say(INTERFACES);
  assert.equal(state.told, 0);
  state.addresses = "";
  state.say(INTERFACES);
  assert.equal(state.told, 1);
  clock.advance(1000);
  state.say(INTERFACES);
  clock.advance(1000);
  assert.equal(state.told, 1);
});

test("a route is told a moment later, because it comes before its interface can be used", () => {
  const { clock, state } = machine();
  state.say(ROUTES);
  assert.equal(state.told, 0);
  clock.advance(100);
  assert.equal(state.told, 1);
  clock.advance(1000);
  state.say(ROUTES);
  state.addresses = "tun0 192.0.2.9";
  state.say(INTERFACES);
  assert.equal(state.told, 2, "the interface can be used now");
  clock.advance(1000);
  assert.equal(state.told, 2, "with it all that came before");
});

test("a burst is told twice, and one that goes on ten times a second", () => {
  const { clock, state } = machine();
  const change = () => {
    state.addresses += ".";
    state.say({ hasInterfaces: true, hasRoutes: true });
  };
  for (let count = 0; count < 50; count += 1) change();
  assert.equal(state.told, 1);
  clock.advance(100);
  assert.equal(state.told, 2);
  clock.advance(1000);
  assert.equal(state.told, 2);
  for (let count = 0; count < 500; count += 1) {
    change();
    clock.advance(2);
  }
  assert.ok(state.told <= 2 + 11, `${state.told}`);
});

test("where the kernel tells nothing, looking finds what has changed", () => {
  const { clock, state, listener } = machine({ isMute: true });
  clock.advance(10_000);
  assert.equal(state.told, 0);
  state.addresses = "wlan0 198.51.100.7";
  clock.advance(500);
  assert.equal(state.told, 1);
  clock.advance(10_000);
  assert.equal(state.told, 1);
  listener.stop();
  assert.equal(clock.pendingCount, 0);
});

test("the machine is watched while anybody wants to know, and nobody is told after that", () => {
  const { clock, state, network, tell, listener } = machine();
  const other = network.onChange(tell);
  assert.equal(state.watches, 1);
  state.addresses = "";
  state.say(INTERFACES);
  assert.equal(state.told, 2);
  state.say(ROUTES);
  listener.stop();
  listener.stop();
  assert.equal(state.watches, 1);
  other.stop();
  assert.deepEqual([state.watches, clock.pendingCount], [0, 0]);
  clock.advance(1000);
  assert.equal(state.told, 2);
  network.onChange(() => {}).stop();
  assert.equal(state.watches, 0);
});
