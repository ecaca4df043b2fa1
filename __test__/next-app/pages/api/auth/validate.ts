import { release } from '../../../lib/release';
import { signedIn } from '../../../lib/session';

export default signedIn((request, response, { userId, email, firstName, lastName, expiresAt }) =>
  response.json({ userId, email, firstName, lastName, expiresAt, release }),
);
