import { setTimeout as sleep } from 'node:timers/promises';
import { signedIn } from '../../lib/session';

/** Something long that is sent as it comes: one line every 50 ms. */
export default signedIn(async (request, response, { email }) => {
  const lines = Number(request.query.lines ?? 20);
  response.writeHead(200, { 'Content-Type': 'text/csv' });
  for (let line = 1; line <= lines; line += 1) {
    response.write(`${line},${email}\n`);
    await sleep(50);
  }
  response.end('end\n');
});
