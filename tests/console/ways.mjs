// Peers and volumes on their way, as somebody with a mouse works with them. `at` is what the tests have in common:
// `{base, fake, isAccessible, picture}`.

import assert from 'node:assert/strict';

/** From a token to a peer that is gone again. */
export async function pairing(page, { base, isAccessible, picture }) {
  await page.getByRole('link', { name: 'Volumes' }).click();
  await page.getByRole('link', { name: 'Peers' }).click();
  await page.getByText('which others reach at port 10810').waitFor();
  await page.getByRole('button', { name: 'Make a token' }).click();
  const secret = await page.getByLabel('Secret').inputValue();
  assert.match(secret, /^ferrite_pair_[0-9a-f]{64}$/);
  // The page is at 127.0.0.1, so the appliance is behind the host.
  await page.getByText('ferrite peer add 10.0.2.2:10810').waitFor();
  await page.getByText('user-mode network').waitFor();
  await isAccessible(page, 'a pairing token');
  await picture(page, 'fake-pairing-token');
  await page.getByRole('button', { name: 'I have kept it' }).click();
  assert.ok(!(await page.content()).includes(secret), 'shown once');

  await page.getByRole('button', { name: 'Add a peer' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Its address').fill('rack5');
  await dialog.getByLabel('Token that was made there').fill(`ferrite_pair_${'00'.repeat(32)}`);
  await dialog.getByRole('button', { name: 'Pair' }).click();
  await dialog.locator('.error:visible', { hasText: 'must be an address' }).waitFor();
  await dialog.getByLabel('Its address').fill('10.20.0.5');
  await dialog.getByRole('button', { name: 'Pair' }).click();
  await dialog.getByText('nobody answers at').waitFor();
  await isAccessible(page, 'a refused pairing');
  await dialog.getByLabel('Token that was made there').fill(`ferrite_pair_${'cd'.repeat(32)}`);
  await dialog.getByRole('button', { name: 'Pair' }).click();
  const peer = page.getByRole('group', { name: 'Peer rack5-a' });
  await peer.getByRole('button', { name: 'Change address' }).click();
  await dialog.getByLabel('Its address').fill('10.20.0.6:10811');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await page.getByText('10.20.0.6:10811').waitFor();
  await peer.getByRole('button', { name: 'Remove' }).click();
  await picture(page, 'fake-remove-peer');
  await dialog.getByRole('button', { name: 'Remove the peer' }).click();
  await peer.waitFor({ state: 'detached' });
  // Who is needed is said to be.
  await page.getByRole('group', { name: 'Peer rack4-a' }).getByRole('button', { name: 'Remove' }).click();
  await dialog.getByText('It is still needed for wiki.').waitFor();
  await page.keyboard.press('Escape');
  await page.goto(`${base}/#/volumes`);
}

/** There, back, and by force. */
export async function moving(page, { base, fake, isAccessible, picture }) {
  const dialog = page.getByRole('dialog');
  await page.goto(`${base}/#/volumes/scratch`);
  await page.getByRole('button', { name: 'Move', exact: true }).click();
  await dialog.getByLabel('To', { exact: true }).selectOption('rack4-b');
  await dialog.getByLabel('Hand it over').selectOption('wait');
  await dialog.getByLabel('the copy here').selectOption('snapshot');
  await dialog.getByLabel('Bytes in a second').fill('fast');
  await isAccessible(page, 'the dialog of a move');
  await picture(page, 'fake-move');
  await dialog.getByRole('button', { name: 'Move it' }).click();
  await dialog.locator('.error:visible', { hasText: '“rate” must be a number' }).waitFor();
  await dialog.getByLabel('Bytes in a second').fill('50 MiB');
  await dialog.getByRole('button', { name: 'Move it' }).click();
  await page.getByRole('heading', { name: 'rack4-b is ready to take it' }).waitFor();
  assert.equal(fake.volumes.get('scratch').after, 'snapshot');
  assert.equal(fake.jobs.at(-1).rate_max, 50 * 1024 ** 2);
  assert.equal(await page.getByRole('button', { name: 'Move', exact: true }).count(), 0, 'one way at a time');
  await page.getByRole('button', { name: 'Hand over' }).click();
  await dialog.getByRole('button', { name: 'Hand over' }).click();
  await page.getByRole('heading', { name: 'With rack4-b now' }).waitFor();
  await page.getByRole('button', { name: 'Take back' }).click();
  await dialog.getByRole('button', { name: 'Take back' }).click();
  await page.getByRole('button', { name: 'Move', exact: true }).waitFor();

  await page.goto(`${base}/#/volumes/ledger`);
  await page.getByRole('button', { name: 'Call it off' }).click();
  await dialog.getByRole('button', { name: 'Call it off' }).click();
  await page.getByRole('heading', { name: 'rack4-b is ready to take it' }).waitFor({ state: 'detached' });

  await page.goto(`${base}/#/volumes/wiki`);
  await page.getByText('Its blocks follow').waitFor();
  await page.getByRole('button', { name: 'Take over by force' }).click();
  await dialog.getByLabel('to confirm').fill('something else');
  await dialog.getByRole('button', { name: 'Take it over' }).click();
  await dialog.getByText('That is not its name').waitFor();
  await picture(page, 'fake-take-over');
  await dialog.getByLabel('to confirm').fill('wiki');
  await dialog.getByRole('button', { name: 'Take it over' }).click();
  await page.getByRole('heading', { name: 'With rack4-a now' }).waitFor({ state: 'detached' });

  fake.peers = [];
  await page.getByRole('button', { name: 'Move', exact: true }).click();
  await dialog.getByRole('button', { name: 'To the peers' }).click();
  await page.getByText('This appliance is paired with no other one.').waitFor();
}

/** Disks from elsewhere, and one whose origin is away. */
export async function adopting(page, { base, fake, isAccessible, picture }) {
  const dialog = page.getByRole('dialog');
  await page.goto(`${base}/#/volumes`);
  await page.getByRole('rowheader', { name: 'files' }).getByText('arriving, 62 % still elsewhere').waitFor();
  await page.getByRole('rowheader', { name: 'wiki' }).getByText('with rack4-a now').waitFor();
  await page.getByRole('button', { name: 'Bring a disk in' }).click();
  await dialog.getByLabel('Name of the new volume').fill('brought');
  await dialog.getByLabel('From').selectOption('rack4-a');
  await dialog.getByText('VOLUME@SNAPSHOT as it is called at rack4-a').waitFor();
  await dialog.getByLabel('Which disk').fill('db');
  await dialog.getByRole('button', { name: 'Adopt' }).click();
  await dialog.locator('.error:visible', { hasText: 'must be a snapshot' }).waitFor();
  assert.equal(await dialog.getByLabel('Which disk').getAttribute('aria-invalid'), 'true');
  await isAccessible(page, 'the dialog of an adoption');
  await picture(page, 'fake-adopt');
  await dialog.getByLabel('Which disk').fill('db@monday');
  await dialog.getByRole('button', { name: 'Adopt' }).click();
  await page.getByText('ferrite://rack4-a/db@monday').waitFor();
  await page.getByText('Nothing brings in the rest').waitFor();

  await page.goto(`${base}/#/volumes/files`);
  const bar = page.getByRole('img', { name: 'Of 100 GiB: here 21 GiB, known zeros 17 GiB, still elsewhere 62 GiB' });
  await bar.waitFor();
  await page.getByText('which answers').waitFor();
  fake.volumes.get('files').hydration.error = 'the origin does not answer';
  await page.getByText('the origin does not answer. What is here can be used').waitFor();
  await page.getByText('which answers').waitFor({ state: 'detached' });
  await picture(page, 'fake-origin-away');
  await page.goto(`${base}/#/`);
  await page.getByText('Volume files is held up.').first().waitFor();
  fake.volumes.get('files').hydration.error = null;
}

/** The jobs that bring volumes in and away. */
export async function carrying(page, { base, fake }) {
  const dialog = page.getByRole('dialog');
  await page.goto(`${base}/#/jobs`);
  await page.getByText('rack4-a has it, and its blocks follow').waitFor();
  await page.getByText('210 MiB on demand, 7 GiB in the background, 340 KiB of metadata').waitFor();
  await page.getByText('rack4-b is ready, and waits for the hand-over').waitFor();
  assert.equal(await page.getByRole('group', { name: 'migrate 12' }).getByRole('button', { name: 'Cancel' }).count(), 0, 'it is over there');
  const bringIn = page.getByRole('group', { name: 'hydrate 11' });
  await bringIn.getByRole('button', { name: 'Rate' }).click();
  await dialog.getByLabel('Bytes in a second').fill('20 MiB');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await page.getByText('at most 20 MiB/s').waitFor();
  assert.equal(fake.jobs.find((job) => job.id === 11).rate_max, 20 * 1024 ** 2);
  await bringIn.getByRole('button', { name: 'Pause' }).click();
  await bringIn.getByRole('button', { name: 'Resume' }).click();
  await bringIn.getByRole('button', { name: 'Cancel' }).click();
  await dialog.getByText('for good').waitFor();
  await dialog.getByRole('button', { name: 'Cancel the job' }).click();
  await bringIn.waitFor({ state: 'detached' });
  await page.getByRole('group', { name: 'migrate 13' }).getByRole('button', { name: 'Cancel' }).click();
  await page.getByRole('group', { name: 'migrate 13' }).waitFor({ state: 'detached' });
}
