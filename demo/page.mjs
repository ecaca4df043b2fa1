// What the demo prints, and how it fails.

const bold = (text) => (process.stdout.isTTY && !process.env.NO_COLOR ? `\x1b[1m${text}\x1b[22m` : text);

export const heading = (text) => console.log(`\n${bold(text)}`);
export const line = (text) => console.log(`  ${text}`);
export const fact = (name, value) => line(`${name.padEnd(46)} ${value}`);
export const ms = (value) => `${value.toFixed(value < 10 ? 2 : 0)} ms`;
export const count = (value) => value.toLocaleString('en');

/** One row of a table; `columns` are [text, width], a negative width is aligned left. */
export const row = (columns) => line(columns.map(([text, width]) => (width < 0 ? `${text}`.padEnd(-width) : `${text}`.padStart(width))).join('  '));

/** A claim of the demo; if it does not hold, the demo ends with this sentence. */
export function expect(holds, sentence) {
  if (!holds) throw new Error(sentence);
}

/** JSON in which whatever fits into a line stays in one. */
export function json(value, indent = '') {
  const short = JSON.stringify(value, null, 1).replace(/\s*\n\s*/g, ' ');
  if (short.length + indent.length <= 110) return short;
  const inner = `${indent}  `;
  const entries = Object.entries(value).map(([key, part]) => `${inner}"${key}": ${json(part, inner)}`);
  return `{\n${entries.join(',\n')}\n${indent}}`;
}
