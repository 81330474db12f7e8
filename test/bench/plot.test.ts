import assert from "node:assert/strict";
import { test } from "node:test";
import { linePlot, spreadLabels, ticks } from "../../scripts/bench/plot.ts";

test("marks are round numbers that cover the axis", () => {
  assert.deepEqual(ticks(140), [0, 25, 50, 75, 100, 125]);
  assert.deepEqual(ticks(200), [0, 50, 100, 150, 200]);
  assert.deepEqual(ticks(5), [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(ticks(1), [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1]);
});

test("labels that would cover each other are moved apart and keep their order", () => {
  assert.deepEqual(spreadLabels([100, 104, 50]), [100, 116, 50]);
  assert.deepEqual(spreadLabels([10, 10, 10]), [10, 26, 42]);
});

test("a plot has a line through its points, names and titles, and nothing that could break the markup", () => {
  const svg = linePlot({
    title: 'a < b & "c"',
    xTitle: "x",
    yTitle: "y",
    yMax: 100,
    reference: { y: 50, name: "limit" },
    lines: [
      {
        name: "one",
        colour: "#000000",
        points: [
          { x: 0, y: 0 },
          { x: 10, y: 100 },
        ],
      },
    ],
  });
  assert.match(svg, /points="64,364 660,52"/);
  assert.match(svg, /a &#60; b &#38; &#34;c&#34;/);
  assert.match(svg, />limit<.*\n.*<polyline/);
  assert.match(svg, />one</);
  assert.equal(svg.match(/<circle /g)?.length, 2);
  assert.ok(!/NaN|undefined/.test(svg));
});
