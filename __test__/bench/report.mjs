// What the pages have in common, as Markdown.

const inEnglish = (digits) => (value) => value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });
/** Three digits say what a benchmark knows. */
export const readable = (value) => inEnglish(value < 1 ? 2 : value < 100 ? 1 : 0)(value);
export const whole = inEnglish(0);

export function spread({ median, min, max }, format = readable) {
  const [middle, lowest, highest] = [median, min, max].map(format);
  return lowest === highest ? middle : `${middle} (${lowest}–${highest})`;
}

const line = (cells) => `| ${cells.join(' | ')} |`;

/** The first `texts` columns are text, the others numbers. */
export const table = (head, rows, texts = 1) => [line(head), line(head.map((_, index) => (index < texts ? '---' : '--:'))), ...rows.map(line)];

/** Says of rows with rejected calls what was rejected. */
export const failures = (rows, nameOf) =>
  rows
    .filter(({ failed }) => failed > 0)
    .map((row) => `${nameOf(row)}: ${whole(row.failed)} calls were rejected, the first with \`${row.failure}\`.\n`);

const VERDICTS = new Map([
  [true, 'met'],
  [false, '**missed**'],
  [null, ''],
]);

/** `picture` is the file beside the page, if there is one; `command` runs this table without building. */
export function page({ title, command, run, picture, pictureText, targets, body }) {
  return [
    `# ${title}`,
    '',
    `Written by \`make bench\`. To run it again: \`make bench\`; without building: \`${command}\`.`,
    '',
    ...run.facts.map(([name, value]) => `- ${name}: ${value}`),
    ...run.warnings.map((warning) => `- **Warning**: ${warning}`),
    '',
    ...(picture ? [`![${pictureText}](${picture})`, ''] : []),
    '## Targets',
    '',
    line(['target', 'measured', '']),
    line(['---', '--:', '---']),
    ...targets.map(({ text, measured, met }) => line([text, measured, VERDICTS.get(met)])),
    '',
    ...body,
    '',
  ].join('\n');
}

/** What `mainThread`, `loop` and `cpu` are. */
export const processNote = ({ mainThreadMeasure }) =>
  `- Main thread: ${mainThreadMeasure} by calls. Event loop busy: \`performance.eventLoopUtilization\`, which counts waiting for a processor as work. Process CPU: \`process.cpuUsage\`, all threads, by calls. All include what the benchmark itself does, which is the same for every peer.`;
