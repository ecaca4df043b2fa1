// What is measured: which sessions are asked for, and by how many callers at once.

/** Sessions that the warm cases go round: more than callers, so that hardly ever two calls in flight share a token. */
export const WARM_SESSIONS = 1000;

/** Simultaneous first calls for one token, before the case of the hot token. */
export const STAMPEDE = 500;

const sets = {
  warm: (inFlight) => `warm, ${inFlight} in flight`,
  cold: (inFlight) => `cold, ${inFlight} in flight`,
  hot: (inFlight) => `warm, ${inFlight} in flight, all for one token`,
};

const make = (set, inFlight) => ({ id: `${set}-${inFlight}`, set, inFlight, title: sets[set](inFlight) });

export const CASES = [
  ...[1, 50, 500].map((inFlight) => make('warm', inFlight)),
  ...[1, 50, 500].map((inFlight) => make('cold', inFlight)),
  make('hot', 500),
];
