// The console in a browser: against an appliance that is not there (`fake.mjs`), and against a real one if FERRITE_API (its URL),
// FERRITE_TOKEN and FERRITE_NBD (HOST:PORT) say where it is. Pictures go to the folder that PICTURES names.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';

import { chromium } from 'playwright-core';

import { Fake } from './fake.mjs';
import { load } from './load.mjs';
import { adopting, carrying, moving, pairing } from './ways.mjs';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const ARGUMENTS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];
const DESK = { viewport: { width: 1280, height: 900 }, colorScheme: 'light' };
const NIGHT = { ...DESK, colorScheme: 'dark' };
const PHONE = { viewport: { width: 360, height: 740 }, colorScheme: 'light', hasTouch: true, isMobile: true };
const VIEWS = [
  '/', '/volumes', '/volumes/db', '/volumes/files', '/volumes/wiki', '/volumes/ledger', '/volumes/photos', '/schedules', '/peers', '/drives', '/jobs', '/log', '/audit', '/tokens',
];
/** Machines that run tests are busy. */
const PATIENCE_MS = 30_000;

let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGUMENTS });
});
after(() => browser?.close());

/** A page whose faults are collected: errors of its own, refusals of its policy, requests to somewhere else. */
async function open(base, options) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(error.stack));
  page.on('console', (message) => {
    // Refused requests are errors to the browser; what becomes of them is tested.
    if (message.type() === 'error' && !/status of (4|50[24])|ERR_/.test(message.text())) faults.push(message.text());
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(base)) faults.push(`asked for ${request.url()}`);
  });
  await page.goto(base);
  return { page, faults, close: () => context.close() };
}

async function logIn(page, token) {
  await page.getByLabel('Token').fill(token);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Capacity' }).waitFor();
}

async function picture(page, name) {
  const folder = process.env.PICTURES;
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`) });
}

async function isAccessible(page, where) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  const told = violations.map(({ id, help, nodes }) => `${id}: ${help}\n    ${nodes.map((node) => node.html).slice(0, 3).join('\n    ')}`);
  assert.deepEqual(told, [], `${where} is not accessible`);
}

const isWide = (page) => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);

/** From an empty name to a volume that is gone, as somebody with a mouse would. */
async function story(page, { base, token, name }) {
  await page.getByLabel('Token').fill('wrong');
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByText('The appliance does not know this token.').waitFor();
  await logIn(page, token);

  await page.getByRole('link', { name: 'Volumes' }).click();
  await page.getByRole('button', { name: 'New volume' }).click();
  await page.getByLabel('Name').fill('Bad Name');
  await page.getByLabel('Size').fill('64 MiB');
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByText('which begins with a letter or digit').waitFor();
  assert.equal(await page.getByLabel('Name').getAttribute('aria-invalid'), 'true');
  await picture(page, `${token === 'fake' ? 'fake' : 'real'}-bad-name`);
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Size').fill('sixty');
  await page.getByRole('button', { name: 'Create' }).click();
  await page.locator('.error:visible', { hasText: 'Not a size' }).waitFor();
  await page.getByLabel('Size').fill('64 MiB');
  await page.getByRole('button', { name: 'Create' }).click();
  await page.getByRole('heading', { name, exact: true }).waitFor();

  await page.getByRole('button', { name: 'Change' }).click();
  await page.getByLabel('Requests in a second').fill('many');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('“iops_max” must be a number').waitFor();
  await page.getByLabel('Requests in a second').fill('500');
  await page.getByLabel('Bytes in a second').fill('10 MiB');
  await page.getByLabel('Clients may come from').fill('somewhere');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.locator('.error:visible', { hasText: 'networks like 10.0.0.0/8' }).waitFor();
  await page.getByLabel('Clients may come from').fill('10.0.0.0/8, 2001:db8::/32');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('at most 500 requests and 10 MiB in a second').waitFor();
  await page.getByText('from 10.0.0.0/8, 2001:db8::/32').waitFor();

  await page.getByRole('button', { name: 'Set a schedule' }).click();
  await page.getByLabel('Every').fill('often');
  await page.getByRole('button', { name: 'Set', exact: true }).click();
  await page.locator('.error:visible', { hasText: '“every”' }).waitFor();
  await page.getByLabel('Every').fill('6h');
  for (const rule of ['hourly', 'daily', 'weekly']) await page.getByLabel(rule).fill('');
  await page.getByRole('button', { name: 'Set', exact: true }).click();
  await page.locator('.error:visible', { hasText: 'at least one' }).waitFor();
  await page.getByLabel('daily').fill('14');
  await page.getByRole('button', { name: 'Set', exact: true }).click();
  await page.getByText('every 6 hours · keeps 14 daily').waitFor();
  await page.goto(`${base}/#/schedules`);
  const schedule = page.getByRole('group', { name: `Schedule of ${name}` });
  await schedule.getByRole('button', { name: 'Edit' }).click();
  await page.getByLabel('monthly').fill('12');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('keeps 14 daily, 12 monthly').waitFor();
  await schedule.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('button', { name: 'Delete the schedule' }).click();
  await schedule.waitFor({ state: 'detached' });
  await page.goto(`${base}/#/volumes/${name}`);

  await page.getByRole('button', { name: 'Snapshot', exact: true }).click();
  await page.getByLabel('Name').fill('monday');
  await page.getByRole('button', { name: 'Take snapshot' }).click();
  const monday = page.getByRole('group', { name: 'Snapshot monday' });
  await monday.getByRole('button', { name: 'Clone' }).click();
  await page.getByLabel('Name of the new volume').fill(name);
  await page.getByRole('dialog').getByRole('button', { name: 'Clone' }).click();
  await page.getByRole('dialog').locator('.error:visible').waitFor();
  await page.getByLabel('Name of the new volume').fill(`${name}-test`);
  await page.getByRole('dialog').getByRole('button', { name: 'Clone' }).click();
  await page.getByRole('list', { name: 'Clones of monday' }).getByRole('link', { name: `${name}-test` }).waitFor();

  await monday.getByRole('button', { name: 'Roll back' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Roll back' }).click();
  await page.getByText(/^before-rollback-/).waitFor();
  await picture(page, `${token === 'fake' ? 'fake' : 'real'}-volume`);
  await monday.getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('button', { name: 'Delete the snapshot' }).click();
  await monday.waitFor({ state: 'detached' });

  for (const gone of [`${name}-test`, name]) {
    await page.goto(`${base}/#/volumes/${gone}`);
    await page.getByRole('heading', { name: gone, exact: true }).waitFor();
    await page.getByRole('button', { name: 'Delete', exact: true }).first().click();
    await page.getByLabel('to confirm').fill('something else');
    await page.getByRole('button', { name: 'Delete the volume' }).click();
    await page.getByText('That is not its name').waitFor();
    await page.getByLabel('to confirm').fill(gone);
    await page.getByRole('button', { name: 'Delete the volume' }).click();
    await page.getByRole('heading', { name: 'Volumes' }).waitFor();
    await page.getByRole('rowheader', { name: gone }).and(page.getByText(gone, { exact: true })).waitFor({ state: 'detached' });
  }
}

/** Whether the lines are of something, and of something new a little later. */
async function chartsMove(page, base) {
  await page.goto(`${base}/#/`);
  const chart = page.locator('.chart', { hasText: 'Requests per second' });
  const line = () => chart.locator('.line.write').getAttribute('d');
  const figure = () => chart.locator('dd').nth(1).textContent();
  const positive = async () => Number((await figure()).replaceAll(',', '')) > 0;
  await until(positive, 'no writes are shown');
  const before = await line();
  await until(async () => (await line()) !== before, 'the line stands still');
}

async function until(is, otherwise) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await is())) {
    assert.ok(Date.now() < deadline, otherwise);
    await new Promise((done) => setTimeout(done, 200));
  }
}

/** Tokens, as an admin makes and revokes them; and what is noted of that. */
async function access(page, { base, prefix }) {
  await page.getByRole('link', { name: 'Tokens' }).click();
  await page.getByRole('button', { name: 'New token' }).click();
  await page.getByLabel('Name').fill('Night Shift');
  await page.getByRole('button', { name: 'Make it' }).click();
  await page.locator('.error:visible', { hasText: 'begins with a letter or digit' }).waitFor();
  await page.getByLabel('Name').fill('night-shift');
  await page.getByLabel('Role').selectOption('read-only');
  await page.getByRole('button', { name: 'Make it' }).click();
  const secret = await page.getByLabel('Secret').inputValue();
  assert.ok(secret.length > 64);
  await isAccessible(page, 'a secret');
  await picture(page, `${prefix}-secret`);
  await page.keyboard.press('Escape');
  assert.equal(await page.getByLabel('Secret').inputValue(), secret, 'Escape must not lose it');
  await page.getByRole('button', { name: 'Copy' }).click();
  await page.getByText('Copied.').waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), secret);
  await page.getByRole('button', { name: 'I have kept it' }).click();
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  assert.ok(!(await page.content()).includes(secret), 'shown once');
  const token = page.getByRole('group', { name: 'Token night-shift' });
  await token.getByRole('button', { name: 'Revoke' }).click();
  await picture(page, `${prefix}-revoke`);
  await page.getByRole('button', { name: 'Revoke the token' }).click();
  await token.waitFor({ state: 'detached' });
  await page.goto(`${base}/#/audit`);
  await page.getByRole('heading', { name: 'Changes' }).waitFor();
  return secret;
}

describe('an appliance that is not there', () => {
  let fake;
  let base;
  before(async () => {
    fake = new Fake();
    base = await fake.listen();
  });
  after(() => fake?.close());

  test('volumes and snapshots from creation to deletion', async () => {
    const { page, faults, close } = await open(base, DESK);
    await story(page, { base, token: 'fake', name: 'new' });
    assert.deepEqual(faults, []);
    await close();
  });

  test('tokens are made, shown once and revoked', async () => {
    const { page, faults, close } = await open(base, { ...DESK, permissions: ['clipboard-read', 'clipboard-write'] });
    await logIn(page, 'fake');
    await access(page, { base, prefix: 'fake' });
    await page.getByPlaceholder('Only changes with').fill('mail');
    await page.getByText('1 of 4 changes').waitFor();
    await page.getByText('DELETE /v1/volumes/mail').waitFor();
    assert.deepEqual(faults, []);
    await close();
  });

  for (const [name, story] of Object.entries({
    'appliances are paired': pairing,
    'jobs tell what they carry, and do as they are told': carrying,
    'disks are brought in, and it is told when their origin is away': adopting,
    'volumes move, come back, and are taken over by their name only': moving,
  })) {
    test(name, async () => {
      // Each of them leaves things changed.
      const mine = new Fake();
      const there = await mine.listen();
      const { page, faults, close } = await open(there, DESK);
      await logIn(page, 'fake');
      await story(page, { base: there, fake: mine, isAccessible, picture });
      assert.deepEqual(faults, []);
      await close();
      mine.close();
    });
  }

  test('nobody is offered what they may not do', async () => {
    const { page, faults, close } = await open(base, DESK);
    fake.role = 'read-only';
    await logIn(page, 'fake');
    await page.getByText('configuration, read-only').waitFor();
    for (const [view, heading] of [['/volumes', 'Volumes'], ['/volumes/db', 'db'], ['/volumes/wiki', 'wiki'], ['/volumes/ledger', 'ledger'],
      ['/schedules', 'Schedules'], ['/peers', 'Peers'], ['/drives', 'Drives'], ['/jobs', 'Jobs']]) {
      await page.goto(`${base}/#${view}`);
      await page.getByRole('heading', { name: heading, exact: true }).waitFor();
      await page.getByText('Asking the appliance').waitFor({ state: 'detached' });
      const offered = await page.locator('main button:not(:has(svg))').count() + await page.locator('main button.primary').count();
      assert.equal(offered, 0, `${view} offers something`);
    }
    assert.equal(await page.getByRole('link', { name: 'Tokens' }).count(), 0);
    await page.goto(`${base}/#/tokens`);
    await page.getByText('this needs the role admin').waitFor();
    fake.role = 'admin';
    assert.deepEqual(faults, []);
    await close();
  });

  test('charts move, and tell of a moment', async () => {
    const { page, faults, close } = await open(base, DESK);
    await logIn(page, 'fake');
    await chartsMove(page, base);
    const plot = page.getByRole('slider', { name: /^Latency/ });
    await plot.focus();
    await page.keyboard.press('ArrowLeft');
    assert.equal(await plot.getAttribute('aria-valuenow'), '-1');
    assert.match(await plot.getAttribute('aria-valuetext'), /^\d\d:\d\d:\d\d: read [\d.]+ µs, write/);
    assert.deepEqual(faults, []);
    await close();
  });

  test('all of it is accessible, by day, by night and on a phone', async () => {
    for (const [name, options] of Object.entries({ DESK, NIGHT, PHONE })) {
      const { page, faults, close } = await open(base, options);
      await isAccessible(page, `log-in, ${name}`);
      await logIn(page, 'fake');
      for (const view of VIEWS) {
        await page.goto(`${base}/#${view}`);
        await page.getByText('Asking the appliance').waitFor({ state: 'detached' });
        await page.locator('main h1').waitFor();
        await isAccessible(page, `${view}, ${name}`);
        assert.equal(await isWide(page), false, `${view} is wider than the screen, ${name}`);
        await picture(page, `fake-${name}-${view.replaceAll('/', '-')}`);
      }
      await page.goto(`${base}/#/volumes/mail`);
      await page.getByRole('group', { name: 'Schedule of mail' }).getByRole('button', { name: 'Edit' }).click();
      await isAccessible(page, `the dialog of a schedule, ${name}`);
      await picture(page, `fake-${name}-schedule`);
      await page.keyboard.press('Escape');
      await page.goto(`${base}/#/volumes/scratch`);
      await page.getByRole('button', { name: 'Delete', exact: true }).click();
      await page.getByRole('button', { name: 'Delete the volume' }).click();
      await isAccessible(page, `a dialog with an error, ${name}`);
      assert.deepEqual(faults, []);
      await close();
    }
  });

  test('the keyboard is enough', async () => {
    const { page, close } = await open(base, DESK);
    const { keyboard } = page;
    // The field of the token has the focus.
    await keyboard.type('fake');
    await keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Capacity' }).waitFor();
    const focused = () => page.evaluate(() => document.activeElement.textContent.trim() || document.activeElement.ariaLabel);
    await tabTo(page, 'Volumes');
    await keyboard.press('Enter');
    await page.getByRole('button', { name: 'New volume' }).waitFor();
    assert.equal(await focused(), 'Volumes');
    await tabTo(page, 'New volume');
    await keyboard.press('Enter');
    await keyboard.type('by-keys');
    await keyboard.press('Tab');
    await keyboard.type('1g');
    await keyboard.press('Enter');
    await page.getByRole('heading', { name: 'by-keys' }).waitFor();
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    await tabTo(page, 'Delete');
    await keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
    await keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    assert.equal(await focused(), 'Delete', 'the focus is where it was before');
    await tabTo(page, 'Log out');
    await keyboard.press('Enter');
    await page.getByLabel('Token').waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length), 0);
    await close();
  });

  test('whoever is attached is cut off only on request', async () => {
    const { page, close } = await open(base, DESK);
    await logIn(page, 'fake');
    await page.goto(`${base}/#/volumes/mail`);
    await page.getByText(':10810/mail').waitFor();
    await page.getByRole('group', { name: 'Snapshot daily-21' }).getByRole('button', { name: 'Roll back' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('button', { name: 'Roll back' }).click();
    await dialog.getByText('a client is attached to “mail”, from 10.0.0.7.').waitFor();
    await dialog.getByLabel('Do it anyway').check();
    await dialog.getByRole('button', { name: 'Roll back' }).click();
    await dialog.waitFor({ state: 'detached' });
    const { snapshots } = fake.volumes.get('mail');
    assert.deepEqual(snapshots.map((one) => one.name.slice(0, 15)), ['daily-21', 'before-rollback'], 'kept once');
    await close();
  });

  test('troubles are said first, and what text says is no markup', async () => {
    const { page, faults, close } = await open(base, DESK);
    await logIn(page, 'fake');
    fake.fullness = 'critical';
    Object.assign(fake.drives[0], { state: 'failing', errors: 12, detail: 'its last write failed: unreadable or unwritable blocks; 12 operations failed since the start' });
    fake.log.push('[   99.000] error nbd: <img src=x onerror=alert(1)>');
    await page.getByRole('heading', { name: 'Drive nvme0n1 is failing.' }).waitFor();
    await page.getByText('The pool is almost full.').waitFor();
    await picture(page, 'fake-troubles');
    await page.goto(`${base}/#/drives`);
    await page.getByText('12 operations failed since the start').waitFor();
    await isAccessible(page, 'a failing drive');
    await picture(page, 'fake-failing');
    Object.assign(fake.drives[0], { state: 'serving', errors: 0, detail: undefined });
    await page.goto(`${base}/#/log`);
    await page.getByText('<img src=x onerror=alert(1)>').waitFor();
    await page.getByPlaceholder('Only lines with').fill('gpt');
    await page.getByText('1 of the last 6 lines').waitFor();
    await page.waitForTimeout(2500);
    assert.equal(await page.getByPlaceholder('Only lines with').inputValue(), 'gpt');
    fake.silent = true;
    await page.getByText('The appliance does not answer.').waitFor();
    fake.silent = false;
    await page.getByText('The appliance does not answer.').waitFor({ state: 'detached' });
    fake.token = 'another';
    await page.getByText('does not know this token any more').waitFor();
    fake.token = 'fake';
    fake.fullness = 'fine';
    assert.deepEqual(faults, []);
    await close();
  });

  test('jobs are paused, and drives given up, only with their serial number', async () => {
    const { page, close } = await open(base, PHONE);
    await logIn(page, 'fake');
    await page.goto(`${base}/#/jobs`);
    const scrub = page.getByRole('group', { name: 'scrub 2' });
    await scrub.getByRole('button', { name: 'Pause' }).click();
    await scrub.getByRole('button', { name: 'Resume' }).waitFor();
    await page.goto(`${base}/#/drives`);
    await page.getByRole('button', { name: 'Make blank' }).click();
    await page.getByLabel('serial number').fill('wrong');
    await page.getByRole('dialog').getByRole('button', { name: 'Make blank' }).click();
    await page.getByText("must be the drive's serial number").waitFor();
    await page.getByLabel('serial number').fill('S64FNE0R');
    await page.getByRole('dialog').getByRole('button', { name: 'Make blank' }).click();
    await page.getByText('Drive nvme1n1 is blank.').waitFor();
    await close();
  });
});

/** Presses Tab until what is called so has the focus. */
async function tabTo(page, name) {
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press('Tab');
    const here = await page.evaluate(() => (document.activeElement.ariaLabel ?? document.activeElement.textContent).trim());
    if (here === name) return;
  }
  assert.fail(`${name} cannot be reached by Tab`);
}

const { FERRITE_API: api, FERRITE_TOKEN: token, FERRITE_NBD: nbd } = process.env;
describe('a real appliance', { skip: api ? false : 'FERRITE_API is not set' }, () => {
  test('volumes and snapshots from creation to deletion', async () => {
    const { page, faults, close } = await open(api, DESK);
    await story(page, { base: api, token, name: 'from-the-console' });
    assert.deepEqual(faults, []);
    await close();
  });

  test('tokens let in, until they are revoked', async () => {
    const { page, faults, close } = await open(api, { ...DESK, permissions: ['clipboard-read', 'clipboard-write'] });
    await logIn(page, token);
    const secret = await access(page, { base: api, prefix: 'real' });
    await page.getByText('POST /v1/tokens').first().waitFor();
    await page.getByText('DELETE /v1/tokens/night-shift').first().waitFor();
    await picture(page, 'real-audit');
    await page.getByRole('button', { name: 'Log out' }).click();
    await page.getByLabel('Token').fill(secret);
    await page.keyboard.press('Enter');
    await page.getByText('The appliance does not know this token.').waitFor();
    assert.deepEqual(faults, []);
    await close();
  });

  test('charts show what a client does', async () => {
    const { page, faults, close } = await open(api, NIGHT);
    await logIn(page, token);
    const stop = new AbortController();
    const [host, port] = nbd.split(':');
    const client = load({ host, port: Number(port), volume: 'demo', signal: stop.signal });
    await chartsMove(page, api);
    await page.waitForTimeout(8000);
    await picture(page, 'real-overview');
    for (const view of ['/schedules', '/tokens', '/drives', '/jobs', '/log', '/volumes/demo']) {
      await page.goto(`${api}/#${view}`);
      await page.getByText('Asking the appliance').waitFor({ state: 'detached' });
      await isAccessible(page, view);
      await picture(page, `real-${view.slice(1).replaceAll('/', '-')}`);
    }
    stop.abort();
    assert.ok((await client) > 0);
    assert.deepEqual(faults, []);
    await close();
  });
});
