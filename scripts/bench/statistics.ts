/** Medians, ratios of runs made side by side, and figures as text. */

/** The middle value; the mean of the two middle ones of an even number. @throws RangeError without values. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)];
  const lower = sorted[Math.ceil(sorted.length / 2) - 1];
  if (upper === undefined || lower === undefined) throw new RangeError("no values");
  return (upper + lower) / 2;
}

/** The median of `values[i] / bases[i]`: each pair was measured in the same run, so what slows the machine slows both. */
export function medianRatio(values: readonly number[], bases: readonly number[]): number {
  if (values.length !== bases.length) throw new RangeError("pairs are incomplete");
  return median(values.map((value, index) => value / (bases[index] as number)));
}

/** `value` with three significant digits, without exponents. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return "-";
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 6));
}

/** "median (least-greatest)". */
export function spread(values: readonly number[]): string {
  return `${figure(median(values))} (${figure(Math.min(...values))}-${figure(Math.max(...values))})`;
}

/** The order of `items` in run number `run`: rotated, so that none is always the first. */
export function rotated<T>(items: readonly T[], run: number): T[] {
  const shift = items.length === 0 ? 0 : run % items.length;
  return [...items.slice(shift), ...items.slice(0, shift)];
}
