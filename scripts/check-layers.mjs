// Enforces the levels that the crate's documentation (src/lib.rs) describes. A module may use only levels below its own;
// modules of level 0 may use each other. Test modules are free.

import { readFileSync, readdirSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** Lowest first. The modules of the composition build on each other in this order. */
const LEVELS = [
  ['error', 'config', 'clock', 'random', 'redis_url', 'redis_value', 'redis_request', 'keys', 'limit', 'metrics', 'session', 'tls'],
  ['stores'],
  ['resilience'],
  ['sessions', 'client', 'rate_limit', 'query_cache'],
  ['logging'],
  ['engine'],
  ['listeners'],
  ['process'],
  ['bindings'],
];
const levelOf = (module) => LEVELS.findIndex((modules) => modules.includes(module));

/** Crates that only one part of the house may name. */
const ROOMS = {
  napi: ['bindings'],
  napi_derive: ['bindings'],
  fred: ['stores/redis'],
  redis_protocol: ['stores/redis'],
  sqlx: ['stores/postgres'],
};
/** Who may name a concrete store, besides itself. */
const WIRING = ['engine', 'process'];
/** A model test, which runs what a store sends to its server. */
const MODEL = 'sessions/model';

/** Blanks out comments, strings and characters, so that only code is left, on its own lines. */
export function codeOnly(source) {
  const blank = (text) => text.replace(/[^\n]/g, ' ');
  const token = /\/\/[^\n]*|\/\*|\b(?:b|c)?r(#*)"|(?:\b[bc])?"(?:\\[\s\S]|[^"\\])*"|'(?:\\[^\n]*?|[^\\'\n])'/g;
  let code = '';
  let at = 0;
  for (let match = token.exec(source); match; match = token.exec(source)) {
    let end = token.lastIndex;
    if (match[0] === '/*') end = endOfComment(source, end);
    else if (match[1] !== undefined) end = source.indexOf(`"${match[1]}`, end) + 1 + match[1].length;
    code += source.slice(at, match.index) + blank(source.slice(match.index, end));
    at = end;
    token.lastIndex = end;
  }
  return withoutTests(code + source.slice(at));
}

/** Block comments nest in Rust. */
function endOfComment(source, from) {
  const mark = /\/\*|\*\//g;
  mark.lastIndex = from;
  for (let depth = 1; depth > 0;) {
    const match = mark.exec(source);
    if (!match) return source.length;
    depth += match[0] === '/*' ? 1 : -1;
  }
  return mark.lastIndex;
}

/** Blanks out modules under `#[cfg(test)]`. */
function withoutTests(code) {
  const module = /#\[cfg\(test\)\](?:\s*#\[[^\]]*\])*\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+\s*\{/g;
  for (let match = module.exec(code); match; match = module.exec(code)) {
    let end = module.lastIndex;
    for (let depth = 1; depth > 0 && end < code.length; end += 1) {
      if (code[end] === '{') depth += 1;
      if (code[end] === '}') depth -= 1;
    }
    code = code.slice(0, match.index) + code.slice(match.index, end).replace(/[^\n]/g, ' ') + code.slice(end);
  }
  return code;
}

/** All paths that begin at `from`, with the groups of a `use` taken apart: `a::{b, c::d}` is a::b and a::c::d. */
function pathsAt(code, from) {
  const step = /\s*(?:([A-Za-z_]\w*)|(\*)|(\{))/y;
  step.lastIndex = from;
  const match = step.exec(code);
  if (!match) return { paths: [[]], end: from };
  let end = step.lastIndex;
  if (match[3]) {
    const paths = [];
    while (code[end] !== '}' && end < code.length) {
      const inner = pathsAt(code, end);
      paths.push(...inner.paths);
      const rest = /[^,}]*,?\s*/y;
      rest.lastIndex = inner.end;
      rest.exec(code);
      end = Math.max(rest.lastIndex, inner.end);
    }
    return { paths, end: end + 1 };
  }
  const first = match[1] ?? '*';
  const separator = /\s*::\s*(?!<)/y;
  separator.lastIndex = end;
  if (!separator.exec(code)) return { paths: [[first]], end };
  const inner = pathsAt(code, separator.lastIndex);
  end = inner.end;
  return { paths: inner.paths.map((rest) => [first, ...rest]), end };
}

/** The module path of a file: src/stores/redis/lane.rs is ['stores', 'redis', 'lane']. */
function moduleOf(file) {
  const parts = file.replace(/\.rs$/, '').split('/');
  if (['mod', 'lib'].includes(parts.at(-1))) parts.pop();
  return parts;
}

/** Every path of the crate that the code names, as `{ path, offset }`. */
function named(code, module) {
  const start = /(?<![\w:])(?:crate|super)\s*::\s*/g;
  const found = [];
  for (let match = start.exec(code); match; match = start.exec(code)) {
    for (const written of pathsAt(code, match.index).paths) {
      let base = [];
      let rest = written;
      if (written[0] === 'crate') rest = written.slice(1);
      else {
        const ups = written.findIndex((part) => part !== 'super');
        base = module.slice(0, Math.max(0, module.length - (ups < 0 ? written.length : ups)));
        rest = ups < 0 ? [] : written.slice(ups);
      }
      found.push({ path: [...base, ...rest], offset: match.index });
    }
  }
  return found;
}

/** The violations in one file, as `{ line, rule }`. `file` is relative to src, with slashes. */
export function check(file, source) {
  const module = moduleOf(file);
  const own = module[0];
  if (own === undefined || module.at(-1) === 'tests' || module.includes('tests')) return [];
  if (levelOf(own) < 0)
    return [{ line: 1, rule: `the module \`${own}\` has no level yet: give it one in scripts/check-layers.mjs` }];

  const code = codeOnly(source);
  const lineAt = (offset) => code.slice(0, offset).split('\n').length;
  const violations = [];
  const report = (offset, rule) => violations.push({ line: lineAt(offset), rule });

  for (const { path: target, offset } of named(code, module)) {
    const [other, store] = target;
    if (other === undefined || levelOf(other) < 0) continue;
    if (other !== own && levelOf(other) >= levelOf(own) && levelOf(own) > 0) {
      report(
        offset,
        `\`${own}\` (level ${levelOf(own)}) must not use \`${other}\` (level ${levelOf(other)}): only levels below its own`,
      );
    } else if (levelOf(own) === 0 && levelOf(other) > 0) {
      report(offset, `\`${own}\` holds values and must not use \`${other}\``);
    }
    const concrete = other === 'stores' && ['redis', 'postgres'].includes(store);
    const itself = own === 'stores' && (module[1] === store || module.length === 1);
    const modelled = module.join('/').startsWith(MODEL);
    if (concrete && !itself && !modelled && !WIRING.includes(own)) {
      report(offset, `only ${WIRING.join(' and ')} may name the concrete store \`stores::${store}\``);
    }
  }
  for (const [name, rooms] of Object.entries(ROOMS)) {
    if (rooms.some((room) => `${module.join('/')}/`.startsWith(`${room}/`))) continue;
    for (const match of code.matchAll(new RegExp(`\\b${name}\\b`, 'g'))) {
      if (/crate::$|super::$/.test(code.slice(0, match.index))) continue;
      report(match.index, `only src/${rooms.join(', src/')} may say \`${name}\``);
    }
  }
  if (own !== 'process') {
    for (const match of code.matchAll(/(?<!')\bstatic\s+(?:mut\s+)?\w+\s*:|\bthread_local\s*!/g)) {
      report(match.index, 'only src/process.rs may hold a static');
    }
  }
  return violations.sort((a, b) => a.line - b.line);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'src');
  const files = readdirSync(root, { recursive: true })
    .map((file) => file.split(path.sep).join('/'))
    .filter((file) => file.endsWith('.rs'));
  let count = 0;
  for (const file of files.sort()) {
    for (const { line, rule } of check(file, readFileSync(path.join(root, file), 'utf8'))) {
      console.log(`src/${file}:${line}: ${rule}`);
      count += 1;
    }
  }
  console.log(`${files.length} files, ${count} violations`);
  process.exitCode = count > 0 ? 1 : 0;
}
