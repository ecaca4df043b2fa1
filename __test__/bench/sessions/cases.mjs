// What is measured: which sessions are asked for, where they are cached, and by how many callers at once.

/** Sessions that the cached cases go round: more than callers, so that hardly ever two calls in flight share a token. */
export const CACHED_SESSIONS = 1000;

/** Simultaneous first calls for one token, before the case of that token. */
export const STAMPEDE = 500;

/** Sessions of each user who is signed out everywhere, and how many users that happens to. */
export const SESSIONS_A_USER = 20;
export const REVOKED_USERS = 120;

/** What a running server sees. */
export const STEADY = { sessions: 5000, callsASecond: 1000 };

/** About how many sessions a cache is filled with in a second, to say how long it will take. */
const READ_A_SECOND = 8000;

const localOff = () => ({ environment: { SESSION_CACHE_LOCAL_ENABLED: 'false' } });
/** Room in the process for all the sessions of a case, and some. */
const roomy = ({ many }) => ({ environment: { SESSION_CACHE_LOCAL_ENTRIES: String(Math.ceil(many * 1.1)) } });

/** `local`: whether peers have their tier in the process. */
const sets = {
  hot: { title: (inFlight) => `hot, ${inFlight} in flight`, local: true },
  redis: { title: (inFlight) => `Redis hit, ${inFlight} in flight`, local: false, settings: localOff },
  cold: { title: (inFlight) => `cold, ${inFlight} in flight`, local: true },
  'one-token': { title: (inFlight) => `Redis hit, ${inFlight} in flight, all for one token`, local: false, settings: localOff },
};

const make = (set, inFlight) => {
  const { title, ...rest } = sets[set];
  return { id: `${set}-${inFlight}`, set, inFlight, title: title(inFlight), ...rest };
};

const revocation = (cached) => ({
  id: `revoke-${cached}`,
  set: 'revoke',
  inFlight: 1,
  cached,
  title: `all ${SESSIONS_A_USER} sessions of a user revoked, ${cached.toLocaleString('en-US')} others cached`,
  local: true,
  last: true,
  secondsMore: () => cached / READ_A_SECOND,
  settings: (scale) => ({ ...roomy(scale), warmUpMs: 0, measuredMs: 60_000, patienceMs: 300_000 }),
});

export const CASES = [
  ...[1, 50, 500].map((inFlight) => make('hot', inFlight)),
  ...[1, 50, 500].map((inFlight) => make('redis', inFlight)),
  ...[1, 50, 500].map((inFlight) => make('cold', inFlight)),
  make('one-token', 500),
  {
    id: 'steady',
    set: 'steady',
    inFlight: 1,
    title: `${STEADY.sessions.toLocaleString('en-US')} sessions, ${STEADY.callsASecond.toLocaleString('en-US')} validations a second`,
    local: true,
    once: true,
    secondsMore: ({ ttlSeconds }) => 2 * ttlSeconds,
    // One life of a copy to get there, the next is measured.
    settings: ({ ttlSeconds }) => ({
      environment: { SESSION_CACHE_TTL_SECONDS: String(ttlSeconds) },
      warmUpMs: ttlSeconds * 1000,
      measuredMs: ttlSeconds * 1000,
      ttlSeconds,
    }),
  },
  revocation(CACHED_SESSIONS),
  revocation(100_000),
  {
    id: 'million',
    set: 'million',
    inFlight: 1,
    title: 'hot among a million, 1 in flight',
    local: true,
    once: true,
    optional: true,
    secondsMore: ({ many }) => many / READ_A_SECOND / 2,
    settings: (scale) => ({ ...roomy(scale), many: scale.many, patienceMs: 600_000 }),
  },
];
