// What is measured: the validated route of a Next.js server, with sessions that are cached in its process or in Redis.

export const SESSIONS = 1000;
export const CONNECTIONS = 50;

const make = (id, title, serverEnvironment) => ({
  id,
  set: 'route',
  inFlight: CONNECTIONS,
  title,
  serverEnvironment,
  // It starts with the cell, and reads every session before anything is measured.
  secondsMore: () => 3,
});

export const CASES = [
  make('process', `${SESSIONS.toLocaleString('en-US')} sessions, cached in the process where the peer can`, {}),
  make('redis', 'the same, cached in Redis alone', { SESSION_CACHE_LOCAL_ENABLED: 'false' }),
];

/** `route.ts` has what they do. */
export const PEERS = {
  none: { title: 'no session asked for', only: ['process'] },
  'cache-aside': { title: 'cache-aside on `ioredis` + `pg`' },
  addon: { title: '**this package**', addon: true },
};
