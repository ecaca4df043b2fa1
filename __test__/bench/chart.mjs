// The picture: throughput and main-thread time, one group of bars a case; warm and cold have scales of their own,
// because a cache is an order of magnitude. It follows the reader's dark mode.

import { CASES } from './cases.mjs';

const SERIES = [
  { peer: 'postgres', label: 'Postgres by pg' },
  { peer: 'cache-aside', label: 'cache-aside on ioredis + pg' },
  { peer: 'addon', label: 'this package' },
];
const PANELS = [
  { measure: 'throughput', title: 'Throughput (more is better)', axis: 'thousand calls a second', scale: 1 / 1000 },
  { measure: 'mainThread', title: 'Main-thread time (less is better)', axis: 'microseconds a call', scale: 1 },
];
const WIDTH = 1000;
/** Room for the labels of an axis. */
const LEFT = 70;
const RIGHT = 16;
const PLOT_HEIGHT = 190;
const PANEL_HEIGHT = PLOT_HEIGHT + 100;
const TOP = 64;

const STYLE = `
  .back { fill: #ffffff } text { fill: #24292f; font: 12px system-ui, sans-serif } .title { font-size: 15px; font-weight: 600 }
  .quiet { fill: #57606a } .value { font-size: 10.5px } .grid { stroke: #d0d7de }
  .s0 { fill: #8c959f } .s1 { fill: #d4762c } .s2 { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 } .grid { stroke: #30363d }
    .s0 { fill: #6e7681 } .s1 { fill: #e08b45 } .s2 { fill: #4493f8 }
  }`;

const short = (value) => (value >= 99.5 ? value.toFixed(0) : value >= 9.95 ? value.toFixed(1) : value.toFixed(2));

/** A round number of which at most five steps reach `highest`. */
function step(highest) {
  const rough = highest / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
}

function text(x, y, content, { kind = '', anchor = 'middle', rotate = false } = {}) {
  const turned = rotate ? ` transform="rotate(-90 ${x} ${y})"` : '';
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" class="${kind}"${turned}>${content}</text>`;
}

/** One scale with its groups of bars, between `left` and `right`. */
function plot({ measure, axis, scale }, rows, cases, { left, right, top }) {
  const floor = top + 34 + PLOT_HEIGHT;
  const of = (id, peer) => rows.find((row) => row.case === id && row.peer === peer)?.[measure].median;
  const values = cases.flatMap(({ id }) => SERIES.map(({ peer }) => (of(id, peer) ?? 0) * scale));
  const unit = step(Math.max(...values, Number.EPSILON));
  const steps = Math.ceil(Math.max(...values) / unit);
  const y = (value) => floor - (value / (unit * steps)) * PLOT_HEIGHT;
  const group = (right - left) / cases.length;
  const bar = Math.min(34, (group - 18) / SERIES.length);
  const parts = [text(left - LEFT + 18, floor - PLOT_HEIGHT / 2, axis, { kind: 'quiet', rotate: true })];
  for (let index = 0; index <= steps; index += 1) {
    const height = y(index * unit);
    parts.push(`<line x1="${left}" x2="${right}" y1="${height}" y2="${height}" class="grid"/>`);
    parts.push(text(left - 8, height + 4, Number((index * unit).toPrecision(6)), { kind: 'quiet', anchor: 'end' }));
  }
  cases.forEach((each, position) => {
    const middle = left + group * (position + 0.5);
    SERIES.forEach(({ peer }, index) => {
      const value = of(each.id, peer);
      if (value === undefined) return;
      const x = middle + (index - SERIES.length / 2) * bar;
      const height = y(value * scale);
      parts.push(`<rect x="${x + 1}" y="${height}" width="${bar - 2}" height="${floor - height}" rx="2" class="s${index}"/>`);
      parts.push(text(x + bar / 2, height - 4, short(value * scale), { kind: 'value' }));
    });
    parts.push(text(middle, floor + 18, each.set === 'hot' ? 'warm, one token' : each.set));
    parts.push(text(middle, floor + 34, `${each.inFlight} in flight`, { kind: 'quiet' }));
  });
  return parts.join('\n');
}

function panel(measured, rows, halves, top) {
  const group = (WIDTH - halves.length * (LEFT + RIGHT)) / halves.flat().length;
  const parts = [text(LEFT, top + 12, measured.title, { kind: 'title', anchor: 'start' })];
  let left = LEFT;
  for (const cases of halves) {
    const right = left + group * cases.length;
    parts.push(plot(measured, rows, cases, { left, right, top }));
    left = right + RIGHT + LEFT;
  }
  return parts.join('\n');
}

/** The picture of a summary's rows, as the text of an SVG file. */
export function chart(rows) {
  const cases = CASES.filter(({ id }) => rows.some((row) => row.case === id));
  const halves = [cases.filter(({ set }) => set !== 'cold'), cases.filter(({ set }) => set === 'cold')].filter(({ length }) => length > 0);
  const height = TOP + PANELS.length * PANEL_HEIGHT;
  const legend = SERIES.map(({ label }, index) => {
    const x = LEFT + index * 220;
    return `<rect x="${x}" y="20" width="14" height="14" rx="2" class="s${index}"/>${text(x + 20, 32, label, { anchor: 'start' })}`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">
<title>Session validation: throughput and main-thread time a call</title>
<style>${STYLE}
</style>
<rect width="${WIDTH}" height="${height}" rx="8" class="back"/>
${legend.join('\n')}
${PANELS.map((each, index) => panel(each, rows, halves, TOP + index * PANEL_HEIGHT)).join('\n')}
</svg>
`;
}
