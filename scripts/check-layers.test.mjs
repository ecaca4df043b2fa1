import { test } from 'node:test';
import assert from 'node:assert/strict';
import { check, codeOnly } from './check-layers.mjs';

const rules = (file, source) => check(file, source).map(({ line, rule }) => `${line}: ${rule}`);

test('what goes downwards is fine', () => {
  assert.deepEqual(
    rules(
      'sessions/mod.rs',
      'use crate::resilience::guard::Guard;\nuse crate::{error::Result, stores::{Lease, Lookup}};',
    ),
    [],
  );
  assert.deepEqual(rules('config.rs', 'use crate::{error::Error, keys};'), []);
  assert.deepEqual(
    rules('stores/redis/lane.rs', 'use super::link::Link;\nuse super::super::Lease;\nuse redis_protocol::resp3;'),
    [],
  );
  assert.deepEqual(rules('engine.rs', 'use crate::stores::redis::Lane;\nuse crate::sessions::Sessions;'), []);
  assert.deepEqual(rules('process.rs', 'static PROCESS: Lazy<Process> = Lazy::new();\nuse crate::engine::Engine;'), []);
  assert.deepEqual(
    rules('bindings/args.rs', "use napi::Env;\n#[napi]\nfn f(text: &'static str) { crate::process::open() }"),
    [],
  );
});

test('what goes upwards or sideways is not', () => {
  assert.match(
    rules('stores/mod.rs', '\nuse crate::resilience::guard::Guard;')[0],
    /^2: `stores` \(level 1\) must not use `resilience`/,
  );
  assert.match(
    rules('sessions/mod.rs', 'use crate::{error::Result,\n engine::Engine};')[0],
    /^1: `sessions` .* `engine`/,
  );
  assert.match(
    rules('sessions/revoke.rs', 'fn f() { super::super::process::spawn() }')[0],
    /^1: `sessions` .* `process`/,
  );
  assert.match(rules('rate_limit/mod.rs', 'use crate::sessions::Sessions;')[0], /only levels below/);
  assert.match(rules('engine.rs', 'use crate::process;')[0], /must not use `process`/);
  assert.match(rules('keys.rs', 'use crate::stores::Lease;')[0], /holds values/);
});

test('rooms, concrete stores and statics', () => {
  assert.match(rules('engine.rs', '\n\nuse napi::Env;')[0], /^3: only src\/bindings may say `napi`/);
  assert.match(rules('stores/postgres/pool.rs', 'use fred::prelude::*;')[0], /only src\/stores\/redis/);
  assert.match(rules('stores/redis/lane.rs', 'fn f() { sqlx::query("") }')[0], /only src\/stores\/postgres/);
  assert.match(rules('sessions/mod.rs', 'use crate::stores::redis::Lane;')[0], /^1: only engine and process/);
  assert.match(rules('sessions/mod.rs', 'use crate::stores::{Lease, postgres::Pool};')[0], /`stores::postgres`/);
  assert.match(rules('stores/redis/lane.rs', 'use super::super::postgres::Pool;')[0], /`stores::postgres`/);
  assert.match(rules('bindings/mod.rs', 'pub static COUNT: AtomicU64 = AtomicU64::new(0);')[0], /may hold a static/);
  assert.match(rules('bindings/mod.rs', 'thread_local! { }')[0], /may hold a static/);
  assert.match(rules('surprise.rs', '')[0], /no level yet/);
});

test('comments, strings and tests do not count', () => {
  const source = [
    '//! says `napi` and crate::engine',
    '/* crate::engine /* nested */ sqlx */',
    'const A: &str = "crate::engine \\" napi"; const B: &str = r#"use "sqlx" napi"#; const C: char = \'"\';',
    "fn f<'a>(x: &'a str) {}",
    '#[cfg(test)]',
    'mod tests { use crate::engine::Engine; fn g() { if true { sqlx() } } }',
  ].join('\n');
  assert.deepEqual(rules('keys.rs', source), []);
  assert.deepEqual(rules('sessions/tests.rs', 'use crate::engine::Engine;'), []);
  assert.equal(codeOnly(source).split('\n').length, source.split('\n').length);
  assert.equal(rules('keys.rs', `${source}\nuse crate::engine::Engine;`).length, 1);
});
