// Draws groups of bars. A panel has one or more plots side by side, each with a scale of its own. It follows the
// reader's dark mode.

const WIDTH = 1000;
/** Room for the labels of an axis. */
const LEFT = 70;
const RIGHT = 16;
const PLOT_HEIGHT = 190;
const PANEL_HEIGHT = PLOT_HEIGHT + 100;
const TOP = 64;

/** On white, and on black. */
const COLOURS = {
  grey: ['#8c959f', '#6e7681'],
  orange: ['#d4762c', '#e08b45'],
  blue: ['#0969da', '#4493f8'],
  yellow: ['#d4a72c', '#d29922'],
  green: ['#4a9d5b', '#57ab5a'],
  purple: ['#8a63d2', '#986ee2'],
};

function style(series) {
  const fills = (dark) => series.map(({ colour }, index) => `.s${index} { fill: ${COLOURS[colour][dark]} }`).join(' ');
  return `
  .back { fill: #ffffff } text { fill: #24292f; font: 12px system-ui, sans-serif } .title { font-size: 15px; font-weight: 600 }
  .quiet { fill: #57606a } .value { font-size: 10.5px } .grid { stroke: #d0d7de }
  ${fills(0)}
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117 } text { fill: #e6edf3 } .quiet { fill: #9198a1 } .grid { stroke: #30363d }
    ${fills(1)}
  }`;
}

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
function plot({ axis, groups }, series, { left, right, top }) {
  const floor = top + 34 + PLOT_HEIGHT;
  const highest = Math.max(...groups.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const unit = step(Math.max(highest, Number.EPSILON));
  const steps = Math.ceil(highest / unit);
  const y = (value) => floor - (value / (unit * steps)) * PLOT_HEIGHT;
  const width = (right - left) / groups.length;
  // A kind of bar that no group has takes no room.
  const present = series.map((_, index) => index).filter((index) => groups.some(({ values }) => values[index] !== undefined));
  const bar = Math.min(34, (width - 18) / present.length);
  const parts = [text(left - LEFT + 18, floor - PLOT_HEIGHT / 2, axis, { kind: 'quiet', rotate: true })];
  for (let index = 0; index <= steps; index += 1) {
    const height = y(index * unit);
    parts.push(`<line x1="${left}" x2="${right}" y1="${height}" y2="${height}" class="grid"/>`);
    parts.push(text(left - 8, height + 4, Number((index * unit).toPrecision(6)), { kind: 'quiet', anchor: 'end' }));
  }
  groups.forEach(({ label, quiet, values }, position) => {
    const middle = left + width * (position + 0.5);
    present.forEach((index, place) => {
      const value = values[index];
      if (value === undefined) return;
      const x = middle + (place - present.length / 2) * bar;
      const height = y(value);
      parts.push(`<rect x="${x + 1}" y="${height}" width="${bar - 2}" height="${floor - height}" rx="2" class="s${index}"/>`);
      parts.push(text(x + bar / 2, height - 4, short(value), { kind: 'value' }));
    });
    parts.push(text(middle, floor + 18, label));
    if (quiet) parts.push(text(middle, floor + 34, quiet, { kind: 'quiet' }));
  });
  return parts.join('\n');
}

function panel({ title, plots }, series, top) {
  const group = (WIDTH - plots.length * (LEFT + RIGHT)) / plots.flatMap(({ groups }) => groups).length;
  const parts = [text(LEFT, top + 12, title, { kind: 'title', anchor: 'start' })];
  let left = LEFT;
  for (const each of plots) {
    const right = left + group * each.groups.length;
    parts.push(plot(each, series, { left, right, top }));
    left = right + RIGHT + LEFT;
  }
  return parts.join('\n');
}

/**
 * The text of an SVG file. `series` are the kinds of bars: their `label` and `colour`; `panels` have a `title` and `plots`,
 * a plot has an `axis` and `groups`, and a group has its `label`s and one value a series, `undefined` for none.
 */
export function chart({ title, series, panels }) {
  const height = TOP + panels.length * PANEL_HEIGHT;
  const between = Math.min(220, (WIDTH - LEFT) / series.length);
  const legend = series.map(({ label }, index) => {
    const x = LEFT + index * between;
    return `<rect x="${x}" y="20" width="14" height="14" rx="2" class="s${index}"/>${text(x + 20, 32, label, { anchor: 'start' })}`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">
<title>${title}</title>
<style>${style(series)}
</style>
<rect width="${WIDTH}" height="${height}" rx="8" class="back"/>
${legend.join('\n')}
${panels.map((each, index) => panel(each, series, TOP + index * PANEL_HEIGHT)).join('\n')}
</svg>
`;
}
