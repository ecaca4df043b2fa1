// What is measured: which command, and how many loops at once that each await their call.

/** Keys that each command goes round. */
export const KEYS = 500;

/** Keys of an MGET, commands of a pipeline. */
export const BATCH = 100;

export const SMALL = 100;
export const LARGE = 10 * 1024;

/**
 * `commands` is how many one call sends, where that is more than one; `through` is where it goes: to one `plain` server, to
 * one through `tls`, to a `cluster`.
 */
export const OPERATIONS = [
  { set: 'get', title: 'GET of 100 bytes', short: 'GET' },
  { set: 'set', title: 'SET of 100 bytes', short: 'SET' },
  { set: 'hgetall', title: 'HGETALL of 12 fields', short: 'HGETALL' },
  { set: 'incr', title: 'INCR', short: 'INCR' },
  { set: 'mget', title: `MGET of ${BATCH} keys`, short: `MGET of ${BATCH}` },
  { set: 'pipeline', title: `pipeline of ${BATCH} GETs`, short: `pipeline of ${BATCH}`, commands: BATCH },
  { set: 'get-10k', title: 'GET of 10 KB', short: 'GET 10 KB' },
  { set: 'set-10k', title: 'SET of 10 KB', short: 'SET 10 KB' },
  { set: 'get-tls', title: 'GET of 100 bytes through TLS', short: 'GET, TLS', through: 'tls' },
  { set: 'get-cluster', title: 'GET of 100 bytes from a Cluster', short: 'GET, Cluster', through: 'cluster' },
];

export const IN_FLIGHT = [1, 50, 500];

export const CASES = OPERATIONS.flatMap((operation) =>
  IN_FLIGHT.map((inFlight) => ({
    through: 'plain',
    ...operation,
    id: `${operation.set}-${inFlight}`,
    inFlight,
    title: `${operation.title}, ${inFlight} in flight`,
  })),
);
