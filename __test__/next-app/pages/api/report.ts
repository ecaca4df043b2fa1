import { setTimeout as sleep } from 'node:timers/promises';
import { validateSessionWithCache } from '@studio/redis-native';
import { signedIn, tokenOf } from '../../lib/session';

/** Something that takes its time, and asks again at the end whether it may still say it. */
export default signedIn(async (request, response) => {
  await sleep(Number(request.query.milliseconds ?? 1000));
  const session = await validateSessionWithCache(tokenOf(request));
  return response.status(session ? 200 : 401).json({ report: session?.email ?? null });
});
