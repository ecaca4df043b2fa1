// What the validated route has to reach, against others in the same run.

import { ratio, target } from '../summary.mjs';

export function targets(cells) {
  const against = (id, peer, measure = 'throughput') => ratio(cells, measure, id, 'addon', peer);
  return [
    target('in the process: requests a second at least 1.2x those with cache-aside', against('process', 'cache-aside'), (times) => times >= 1.2, 'x', 2),
    target('in the process: at least 0.95x those without any session', against('process', 'none'), (times) => times >= 0.95, 'x', 2),
    target('in Redis alone: at least 1.1x those with cache-aside', against('redis', 'cache-aside'), (times) => times >= 1.1, 'x', 2),
  ];
}
