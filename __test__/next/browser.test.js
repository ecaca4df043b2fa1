'use strict';

// The pages in a browser: signed in, limited, signed out.

const { randomBytes, scryptSync } = require('node:crypto');
const path = require('node:path');
const { chromium } = require('playwright-core');
const { Database } = require('../helpers/database.js');
const { startRedis } = require('../helpers/servers.js');
const { startApp } = require('../fixtures/next/server.js');

// SCREENSHOTS names a folder for pictures of what it sees.
const { NEXT_BROWSER, CI, SCREENSHOTS } = process.env;
const MISSING =
  'There is no Chromium here and none could be installed: `apt-get install chromium` for instance, or CHROME_PATH.';
// Where there is none, the setup has said so; but where everything is checked it must run.
const browserTest = NEXT_BROWSER || CI ? test : test.skip;

browserTest('somebody signs in, searches too often and signs out', async () => {
  if (!NEXT_BROWSER) throw new Error(MISSING);
  const database = new Database();
  const redis = await startRedis();
  const env = { REDIS_URL: redis.url, DATABASE_URL: database.url, SEARCHES: '3' };
  const app = await startApp(process.env.NEXT_ALONE, { env });
  const user = await database.createUser();
  const salt = randomBytes(16).toString('hex');
  const hash = `${salt}:${scryptSync('correct horse', salt, 32).toString('hex')}`;
  await database.query('UPDATE platform.users SET password_hash = $2 WHERE id = $1', [user.id, hash]);

  const browser = await chromium.launch({ executablePath: NEXT_BROWSER });
  try {
    const page = await browser.newPage({ viewport: { width: 900, height: 640 } });
    page.setDefaultTimeout(15_000);
    const wrong = [];
    page.on('pageerror', (error) => wrong.push(error.message));
    const take = (name) => SCREENSHOTS && page.screenshot({ path: path.join(SCREENSHOTS, `${name}.png`) });
    const says = (text) => page.getByText(text).waitFor();
    const signIn = async (password) => {
      await page.getByLabel('Email').fill(user.email);
      await page.getByLabel('Password').fill(password);
      await page.getByRole('button', { name: 'Sign in' }).click();
    };

    await page.goto(`${app.url}/`);
    expect(new URL(page.url()).pathname).toBe('/sign-in');
    await signIn('wrong');
    await says('This is not the password of this address.');
    await take('refused');
    await signIn('correct horse');
    await says('Hello, Ada Lovelace.');
    await says(user.email);

    const search = page.getByRole('button', { name: 'Search' });
    await page.getByPlaceholder('Name of a project').fill('a');
    await search.click();
    await says('atlas');
    await take('signed-in');

    const statuses = [];
    for (let number = 0; number < 3; number += 1) {
      const [answer] = await Promise.all([page.waitForResponse(/api\/search/), search.click()]);
      statuses.push(answer.status());
    }
    expect(statuses).toEqual([200, 200, 429]);
    const alert = page.getByRole('main').getByRole('alert');
    await alert.waitFor();
    const [, wait] = /^Too many searches\. Please wait (\d+) s\.$/.exec(await alert.innerText());
    expect(Number(wait)).toBeGreaterThan(0);
    expect(Number(wait)).toBeLessThanOrEqual(60);
    expect(await search.isDisabled()).toBe(true);
    await take('limited');

    // What the page had is of no use any more, wherever it is sent.
    const [{ value: token }] = (await page.context().cookies()).filter(({ name }) => name === 'studio_session');
    expect((await app.ask('/api/me', { token })).status).toBe(200);
    await page.getByRole('button', { name: 'Sign out' }).click();
    await says('Sign in to Studio');
    await take('signed-out');
    expect((await app.ask('/api/me', { token })).status).toBe(401);
    await page.goto(`${app.url}/`);
    expect(new URL(page.url()).pathname).toBe('/sign-in');
    expect(wrong).toEqual([]);
  } finally {
    await browser.close();
    await database.end();
  }
});
