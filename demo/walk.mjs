// The walk through the package, as a client of demo/server.mjs. Each step prints what it saw and checks what it claims.

import { setTimeout as sleep } from 'node:timers/promises';
import { ask, stream } from './client.mjs';
import { count, expect, fact, heading, json, line, ms, row } from './page.mjs';

const HOLD_POSTGRES_MS = 500;
const PER_SECOND = 200;
const ROW_SECONDS = 3;
/** Seconds after the start of the traffic. */
const STOP_REDIS_AT = 1;
/** Redis stays away until the breaker has opened, and this much longer. The breaker tries again 15 to 18 s after that. */
const AWAY_AFTER_OPEN = 2;
const OPEN_AT_LATEST = 15;
const CLOSED_AT_LATEST = 45;

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
const validate = (server, token) => ask(`${server.url}/api/auth/validate`, { token });

/** `world`: the two `servers`, `postgres`, `redis` (or null), the `tokens`, and `sessionQueries()`, what Postgres has executed. */
export async function walk(world) {
  const tokens = [...world.tokens.valid];
  await coldAndWarm(world, tokens.splice(0, 100));
  await refusals(world);
  await stampede(world, tokens.shift());
  await signOut(world, tokens.shift());
  await limits(world, tokens.splice(0, 10));
  await outage(world, tokens.splice(0, 100));
  await finalHealth(world);
}

async function coldAndWarm({ servers: [server], sessionQueries, redis }, tokens) {
  heading('1. A hundred people, one after the other (time in validateSessionWithCache)');
  const first = await validate(server, tokens[0]);
  expect(first.status === 200, `The first validation was answered ${first.status}, not 200.`);
  fact('the first, which opens the connections', ms(first.validationMs));
  for (const name of ['cold, each token for the first time', 'warm, the same tokens again']) {
    const before = sessionQueries();
    const times = [];
    for (const token of tokens.slice(1)) {
      const { status, validationMs } = await validate(server, token);
      expect(status === 200, `A valid session was answered ${status}, not 200.`);
      times.push(validationMs);
    }
    const queries = sessionQueries() - before;
    fact(name, `median ${ms(median(times))}, slowest ${ms(Math.max(...times))}, Postgres queries ${queries}`);
    const expected = name.startsWith('cold') || !redis ? times.length : 0;
    expect(queries === expected, `Postgres executed ${queries} queries for the ${times.length} tokens (${name}), not ${expected}.`);
  }
}

async function refusals({ servers, tokens: { refused } }) {
  const tokens = { ...refused, 'no token': '' };
  for (const server of servers) {
    for (const [kind, token] of Object.entries(tokens)) {
      const { status } = await validate(server, token);
      expect(status === 401, `${kind}: answered ${status}, not 401.`);
    }
  }
  fact('refused with 401, by both processes', Object.keys(tokens).join(', '));
}

async function stampede({ servers: [server], postgres, sessionQueries, redis }, token) {
  heading('2. 1,000 requests at once for one token that nobody has asked for yet');
  const metrics = async () => (await ask(`${server.url}/api/metrics`)).body.sessions;
  const [queriesBefore, before] = [sessionQueries(), await metrics()];
  // While Postgres is held, none can be answered: they are under way together.
  postgres.freeze();
  const requests = Array.from({ length: 1000 }, () => validate(server, token));
  await sleep(HOLD_POSTGRES_MS);
  postgres.thaw();
  const answers = await Promise.all(requests);
  const [queries, after] = [sessionQueries() - queriesBefore, await metrics()];
  const [reads, joined, copies] = ['databaseReads', 'coalesced', 'redisHits'].map((name) => after[name] - before[name]);
  const accepted = answers.filter(({ status }) => status === 200).length;
  fact(`Postgres was held for ${HOLD_POSTGRES_MS} ms; answered 200`, `${count(accepted)} of 1,000, the slowest after ${ms(Math.max(...answers.map((it) => it.ms)))}`);
  fact('queries that Postgres executed', `${count(queries)}, by its own log of statements`);
  fact('by the metrics of the package', `${count(reads)} asked Postgres, ${count(joined)} joined it, ${count(copies)} found its copy`);
  expect(accepted === 1000, `${1000 - accepted} of 1,000 simultaneous requests were not answered 200.`);
  expect(reads === queries, `The package counted ${reads} queries where Postgres executed ${queries}.`);
  if (redis) expect(queries === 1, `1,000 simultaneous requests cost ${queries} queries, not 1.`);
  else line('Without Redis only requests that overlap share a query.');
}

async function signOut({ servers }, token) {
  heading('3. Sign-out, seen by two processes that both had accepted the token');
  const [here, there] = servers;
  for (const server of servers) expect((await validate(server, token)).status === 200, 'A valid session was not accepted.');
  const { status, body, ms: took } = await ask(`${here.url}/api/auth/signout`, { method: 'POST', token });
  const answered = performance.now();
  expect(status === 200 && body.signedOut, `Sign-out was answered ${status} ${JSON.stringify(body)}.`);
  fact('signed out', `in ${ms(took)}`);
  let refusal = null;
  let asked = 0;
  while (refusal?.status !== 401) {
    refusal = await validate(there, token);
    asked += 1;
    expect(performance.now() - answered < 3000, 'The other process accepted the token for 3 s after the sign-out.');
  }
  fact('the other process answers 401', `${ms(performance.now() - answered)} later (request ${asked})`);
  const again = await validate(here, token);
  expect(again.status === 401, `The process that signed out answered ${again.status} afterwards, not 401.`);
  fact('the process that signed out answers', again.status);
}

async function limits({ servers, redis }, tokens) {
  heading('4. A limit of 100 in 60 s: 600 requests of one person at once, to both processes by turns');
  const search = (n, token) => ask(`${servers[n % servers.length].url}/api/search`, { token });
  // The same person may have several sessions; another one opens the connections.
  const [token, other] = [tokens[0], tokens.at(-1)];
  for (const n of servers.keys()) expect((await search(n, other)).status === 200, 'The first request of somebody was denied.');
  const answers = await Promise.all(Array.from({ length: 600 }, (_, n) => search(n, token)));
  const [allowed, denied] = [200, 429].map((status) => answers.filter((it) => it.status === status));
  const metrics = await Promise.all(servers.map(async ({ url }) => (await ask(`${url}/api/metrics`)).body.limits.search));
  const alone = metrics.reduce((sum, { answeredInOutage }) => sum + answeredInOutage, 0);
  fact('answered 200 and 429', `${allowed.length} and ${denied.length}, the slowest after ${ms(Math.max(...answers.map((it) => it.ms)))}`);
  fact('the 429 say when to come back', `in ${denied[0]?.body.retryAfter} s`);
  expect(allowed.length + denied.length === 600, 'Some requests were answered otherwise.');
  if (!redis) line('Without Redis each process counts for itself.');
  else if (alone > 0) line(`${alone} were decided without Redis, which did not answer within 100 ms on this machine.`);
  else expect(allowed.length === 100, `${allowed.length} of 600 requests were allowed by a limit of 100.`);
}

async function outage({ servers: [server], redis, sessionQueries }, tokens) {
  heading(`5. Redis is stopped and started again, under ${PER_SECOND} requests a second of ${tokens.length} people`);
  if (!redis) return line('Left out: there is no Redis on this machine to stop.');
  const widths = [8, -15, -22, 8, 5, 5, 5, 12, 16];
  const print = (cells) => row(cells.map((cell, column) => [cell, widths[column]]));
  print(['seconds', 'Redis', 'breaker', 'requests', '200', '401', '5xx', 'longest wait', 'Postgres queries']);

  const breaker = async () => (await ask(`${server.url}/api/metrics`)).body.breakers.redis;
  const seen = ['closed'];
  const everything = [];
  const traffic = stream(PER_SECOND, (n) => validate(server, tokens[n % tokens.length]));
  const began = performance.now();
  let [stopped, started, openedAt, healedAt, health] = [null, null, null, null, null];
  let queries = sessionQueries();
  let rowOf = { from: 0, redis: 'up', states: new Set(['closed']) };
  try {
    // The last row is one that begins after the breaker has closed: all is as before.
    for (let finished = false; !finished; await sleep(20)) {
      const now = (performance.now() - began) / 1000;
      const state = await breaker();
      rowOf.states.add(state);
      if (state !== seen.at(-1)) seen.push(state);
      if (!stopped && now >= STOP_REDIS_AT) {
        stopped = redis.stop({ keep: true });
        rowOf.redis = `stopped at ${now.toFixed(1)}`;
      }
      if (state === 'open' && !health) {
        openedAt = now;
        health = await ask(`${server.url}/api/health/redis`);
      }
      if (openedAt && !started && now >= openedAt + AWAY_AFTER_OPEN) {
        started = stopped.then(() => redis.restart());
        rowOf.redis = `started at ${now.toFixed(1)}`;
      }
      if (started && state === 'closed') healedAt ??= now;
      expect(openedAt || now < OPEN_AT_LATEST, `The breaker has not opened within ${OPEN_AT_LATEST} s.`);
      expect(healedAt || now < CLOSED_AT_LATEST, `The breaker has not closed again within ${CLOSED_AT_LATEST} s; seen: ${seen.join(', ')}.`);
      if (now < rowOf.from + ROW_SECONDS) continue;
      const answers = traffic.take();
      everything.push(...answers);
      const total = sessionQueries();
      const share = (first) => answers.filter(({ status }) => `${status}`.startsWith(first)).length;
      const longest = ms(Math.max(...answers.map((it) => it.ms)));
      print([`${rowOf.from}-${rowOf.from + ROW_SECONDS}`, rowOf.redis, [...rowOf.states].join(', '), answers.length, share('200'), share('401'), share('5'), longest, total - queries]);
      finished = healedAt !== null && rowOf.from > healedAt;
      if (finished) expect(total - queries < answers.length / 2, 'Redis is back, and sessions are still read from Postgres.');
      queries = total;
      rowOf = { from: rowOf.from + ROW_SECONDS, redis: stopped && !started ? 'away' : 'up', states: new Set([state]) };
    }
    await started;
  } finally {
    await traffic.stop();
  }
  everything.push(...traffic.take());

  const failed = everything.filter(({ status }) => status !== 200).length;
  const longest = Math.max(...everything.map((it) => it.ms));
  fact('signed out or failed', `${failed} of ${count(everything.length)} requests, longest wait ${ms(longest)}`);
  fact('breaker of Redis, asked every 20 ms', seen.join(' > '));
  fact('health while Redis was away', `${health?.status} ${health?.body.status}`);
  expect(failed === 0, `${failed} of ${everything.length} requests were not answered 200 while Redis was away.`);
  expect(longest < 1000, `A request waited ${ms(longest)} while Redis was away.`);
  expect(health?.status === 503, `Health was answered ${health?.status} while the breaker was open, not 503.`);
}

async function finalHealth({ servers: [server], redis }) {
  heading('6. GET /api/health/redis');
  const { status, body } = await ask(`${server.url}/api/health/redis`);
  line(`${status} ${json(body, '  ')}`);
  const expected = redis ? 'healthy' : 'degraded';
  expect(status === 200 && body.status === expected, `Health is ${status} ${body.status}, not 200 ${expected}.`);
}
