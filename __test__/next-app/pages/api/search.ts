import { createRateLimiter } from '@studio/redis-native';
import { release } from '../../lib/release';
import { signedIn } from '../../lib/session';

const PROJECTS = ['atlas', 'borealis', 'cassini', 'deneb', 'electra', 'fornax'];

// By the user, in all processes together.
const limit = createRateLimiter({ requests: Number(process.env.SEARCHES ?? 5), window: 60, name: 'search' });

export default signedIn(async (request, response, session) => {
  // Denied, it throws, and the answer is a 429 with the time to wait.
  await limit(Object.assign(request, { user: { id: session.userId } }), response, () => {});
  const wanted = String(request.query.q ?? '').toLowerCase();
  return response.json({ found: PROJECTS.filter((name) => name.includes(wanted)), release });
});
