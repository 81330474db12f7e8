/** A line plot as SVG text: axes, a grid, one line a series with its name at its end. Readable on light and dark pages: it brings its own paper. */

export interface Line {
  readonly name: string;
  readonly colour: string;
  /** In the order of x; at least one. */
  readonly points: readonly { readonly x: number; readonly y: number }[];
}

export interface PlotOptions {
  readonly title: string;
  readonly xTitle: string;
  readonly yTitle: string;
  readonly yMax: number;
  /** A horizontal dashed line: a limit. */
  readonly reference?: { readonly y: number; readonly name: string };
  readonly lines: readonly Line[];
}

const WIDTH = 760;
const HEIGHT = 420;
const AREA = { left: 64, top: 52, right: 660, bottom: 364 };
/** Names at the ends of lines keep this distance. */
const LABEL_PX = 16;

function escapeXml(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

function round(value: number): string {
  return String(Math.round(value * 10) / 10);
}

/** Steps of 1, 2, 2.5 or 5 times a power of ten that give 4 to 7 marks. */
export function ticks(max: number): number[] {
  const rough = max / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const marks: number[] = [];
  for (let index = 0; index * step <= max * 1.000001; index += 1) marks.push(index * step);
  return marks;
}

/** Moves positions apart, down from the uppermost, so that labels do not cover each other. */
export function spreadLabels(positions: readonly number[]): number[] {
  const order = positions.map((_, index) => index).toSorted((a, b) => (positions[a] ?? 0) - (positions[b] ?? 0));
  const placed = [...positions];
  let least = Number.NEGATIVE_INFINITY;
  for (const index of order) {
    const at = Math.max(placed[index] ?? 0, least);
    placed[index] = at;
    least = at + LABEL_PX;
  }
  return placed;
}

/** The whole picture. */
export function linePlot(options: PlotOptions): string {
  const xMax = Math.max(1, ...options.lines.flatMap((line) => line.points.map(({ x }) => x)));
  const toX = (x: number) => AREA.left + (x / xMax) * (AREA.right - AREA.left);
  const toY = (y: number) => AREA.bottom - (Math.min(y, options.yMax) / options.yMax) * (AREA.bottom - AREA.top);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img" ` +
      `aria-label="${escapeXml(options.title)}" font-family="system-ui, sans-serif" font-size="13">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" rx="6" fill="#ffffff"/>`,
    `<text x="${AREA.left}" y="28" font-size="16" font-weight="600" fill="#1a1a1a">${escapeXml(options.title)}</text>`,
    ...axes(options, xMax, toX, toY),
    ...reference(options, toY),
    ...series(options, toX, toY),
    "</svg>",
    "",
  ];
  return parts.join("\n");
}

function axes(options: PlotOptions, xMax: number, toX: (x: number) => number, toY: (y: number) => number): string[] {
  const grid = ticks(options.yMax).flatMap((y) => [
    `<line x1="${AREA.left}" x2="${AREA.right}" y1="${round(toY(y))}" y2="${round(toY(y))}" stroke="${y === 0 ? "#1a1a1a" : "#e3e3e3"}"/>`,
    `<text x="${AREA.left - 8}" y="${round(toY(y) + 4)}" text-anchor="end" fill="#555555">${y}</text>`,
  ]);
  const marks = ticks(xMax).flatMap((x) => [
    `<line x1="${round(toX(x))}" x2="${round(toX(x))}" y1="${AREA.bottom}" y2="${AREA.bottom + 5}" stroke="#1a1a1a"/>`,
    `<text x="${round(toX(x))}" y="${AREA.bottom + 20}" text-anchor="middle" fill="#555555">${x}</text>`,
  ]);
  const middle = (AREA.left + AREA.right) / 2;
  return [
    ...grid,
    ...marks,
    `<text x="${middle}" y="${HEIGHT - 14}" text-anchor="middle" fill="#1a1a1a">${escapeXml(options.xTitle)}</text>`,
    `<text x="${AREA.left - 8}" y="${AREA.top - 8}" text-anchor="end" fill="#1a1a1a">${escapeXml(options.yTitle)}</text>`,
  ];
}

function reference({ reference: limit }: PlotOptions, toY: (y: number) => number): string[] {
  if (limit === undefined) return [];
  const y = round(toY(limit.y));
  return [
    `<line x1="${AREA.left}" x2="${AREA.right}" y1="${y}" y2="${y}" stroke="#888888" stroke-dasharray="5 4"/>`,
    `<text x="${AREA.left + 6}" y="${round(toY(limit.y) - 6)}" fill="#666666">${escapeXml(limit.name)}</text>`,
  ];
}

function series({ lines }: PlotOptions, toX: (x: number) => number, toY: (y: number) => number): string[] {
  const labels = spreadLabels(lines.map((line) => toY(line.points.at(-1)?.y ?? 0)));
  return lines.flatMap(({ name, colour, points }, index) => {
    const at = points.map(({ x, y }) => `${round(toX(x))},${round(toY(y))}`);
    return [
      `<polyline points="${at.join(" ")}" fill="none" stroke="${colour}" stroke-width="2.5" stroke-linejoin="round"/>`,
      ...points.map(
        ({ x, y }) =>
          `<circle cx="${round(toX(x))}" cy="${round(toY(y))}" r="3.5" fill="${colour}"><title>${escapeXml(name)}: ${round(y)}</title></circle>`,
      ),
      `<text x="${AREA.right + 10}" y="${round((labels[index] ?? 0) + 4)}" font-weight="600" fill="${colour}">${escapeXml(name)}</text>`,
    ];
  });
}
