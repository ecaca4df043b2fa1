// Who is measured. A peer opens with its cell and checks a key: `check(key)` resolves with an answer, of which `allowed`
// says what it means. Where the case is one of HTTP, it handles a request: it answers by itself, or calls `next`. Of what it
// did so far, `local()` counts the calls that were known to be denied, and `outages()` those that Redis was too late for. A
// peer is imported only where it is measured.

import { createRequire } from 'node:module';
import { CASES, KEYS, limitOf } from './cases.mjs';

const require = createRequire(import.meta.url);

async function connect({ redisUrl }, options = {}) {
  const { Redis } = await import('ioredis');
  return new Redis(redisUrl, options);
}

const yes = () => true;
/** A denial is a rejection there, but not an error. */
const no = (reason) => {
  if (reason instanceof Error) throw reason;
  return false;
};

const flexible = (limiter) => ({
  check: (key) => limiter.consume(key).then(yes, no),
  allowed: (answer) => answer,
});

async function openFlexible(cell, { redis: redisOptions, ...options } = {}) {
  const { RateLimiterRedis } = require('rate-limiter-flexible');
  const redis = await connect(cell, redisOptions);
  const { points, seconds } = limitOf(cell);
  const limiter = new RateLimiterRedis({ storeClient: redis, points, duration: seconds, ...options });
  return { ...flexible(limiter), close: () => redis.quit() };
}

/** Denies in the process what it has once denied, until the window ends; it does not count what it `blocks`. */
const openBlocking = async (cell) => ({ ...(await openFlexible(cell, { inMemoryBlockOnConsumed: limitOf(cell).points + 1 })), blocks: true });

function openFlexibleMemory(cell) {
  const { RateLimiterMemory } = require('rate-limiter-flexible');
  const { points, seconds } = limitOf(cell);
  return { ...flexible(new RateLimiterMemory({ points, duration: seconds })), close: () => {} };
}

/** The store alone, or in front of requests behind the middleware that it was made for. */
async function openExpress(cell) {
  const { RedisStore } = await import('rate-limit-redis');
  const redis = await connect(cell);
  const { points, seconds } = limitOf(cell);
  const store = new RedisStore({ sendCommand: (command, ...args) => redis.call(command, ...args) });
  const close = () => redis.quit();
  if (cell.set !== 'http') {
    await store.init({ windowMs: seconds * 1000 });
    return { check: (key) => store.increment(key), allowed: ({ totalHits }) => totalHits <= points, close };
  }
  const { ipKeyGenerator, rateLimit } = await import('express-rate-limit');
  const handle = rateLimit({
    store,
    limit: points,
    windowMs: seconds * 1000,
    standardHeaders: 'draft-7',
    legacyHeaders: true,
    keyGenerator: ({ headers, socket }) => ipKeyGenerator(headers['x-forwarded-for'] ?? socket.remoteAddress),
    // They look at what Express adds to requests, once.
    validate: false,
  });
  return { handle, close };
}

const ALGORITHM_NAMES = { gcra: 'token-bucket', sliding: 'sliding-window', fixed: 'fixed-window' };

/** `rateLimitMiddleware` for sliding windows, which is the one of the API; the others are made. */
function middlewareOf(limits, { algorithm, points, seconds }) {
  const limit = { requests: points, window: seconds };
  if (algorithm === 'token-bucket') return limits.createRateLimiter({ ...limit, algorithm });
  return (req, res, next) => limits.rateLimitMiddleware(req, res, next, limit);
}

/** How one asks for each algorithm: by a store, which is the shorter way. */
function checkOf(limits, { algorithm, place, points, seconds }) {
  if (place === 'process') {
    const store = new limits.InMemoryRateLimitStore({ algorithm });
    return (key) => store.checkLimit(key, points, seconds);
  }
  const store = new limits.RedisRateLimitStore({ algorithm });
  return (key) => store.checkLimit(key, points, seconds);
}

function openOurs(cell) {
  const limits = require(cell.addon);
  const { set, peer, place } = cell;
  const asked = { ...limitOf(cell), algorithm: ALGORITHM_NAMES[peer], place };
  const close = () => limits.shutdown();
  const outages = () => Object.values(limits.getRateLimitMetrics()).reduce((sum, { answeredInOutage }) => sum + answeredInOutage, 0);
  if (set === 'http') return { handle: middlewareOf(limits, asked), outages, close };
  return {
    check: checkOf(limits, asked),
    allowed: ({ allowed }) => allowed,
    outages: place === 'redis' ? outages : undefined,
    local: () => limits.getRateLimitMetrics().default?.answeredLocally ?? 0,
    close,
  };
}

const casesOf = (wanted) => CASES.filter(wanted).map(({ id }) => id);
const checks = ({ set, place }) => place === 'redis' && set !== 'http';

/** `only` limits a peer to the cases that say something about it; `addon` marks those that need the addon. */
export const PEERS = {
  none: {
    title: 'no limiter',
    open: () => ({ handle: (req, res, next) => next(), close: () => {} }),
    only: casesOf(({ set }) => set === 'http'),
  },
  flexible: { title: '`rate-limiter-flexible`, Redis', open: openFlexible, only: casesOf(checks) },
  'flexible-auto': {
    title: 'the same, `enableAutoPipelining`',
    open: (cell) => openFlexible(cell, { redis: { enableAutoPipelining: true } }),
    // Alone there is nothing to join.
    only: casesOf(({ set, inFlight }) => ['allowed', 'busy'].includes(set) && inFlight > 1),
  },
  'flexible-blocked': {
    title: 'the same, blocked in memory',
    open: openBlocking,
    // Beyond a thousand blocked keys it looks at all of them whenever it blocks another: 100,000 take it minutes.
    only: casesOf(({ set, keys }) => set === 'denied' && keys <= KEYS),
  },
  'flexible-memory': {
    title: '`rate-limiter-flexible`, memory',
    open: openFlexibleMemory,
    only: casesOf(({ place }) => place === 'process'),
  },
  express: { title: '`rate-limit-redis` (`express-rate-limit`)', open: openExpress, only: casesOf(({ place }) => place === 'redis') },
  gcra: { title: '**this package**, GCRA', open: openOurs, only: casesOf(({ set }) => set !== 'busy'), addon: true },
  sliding: { title: '**this package**, sliding window', open: openOurs, addon: true },
  fixed: {
    title: '**this package**, fixed window',
    open: openOurs,
    only: casesOf(({ set }) => !['busy', 'http'].includes(set)),
    addon: true,
  },
};
