// Volumes: all of them as the family that clones make them, and what can be done to one.

import { api } from './api.js';
import { may } from './access.js';
import { ask, copy, tell, unlessAttached } from './dialogs.js';
import { h, icon } from './dom.js';
import { count, latency, many, moment, parseSize, percent, size } from './format.js';
import { adopt, brief, send, wayOf } from './move.js';
import { scheduleOf } from './schedules.js';

/** What is said of names; the API checks them. */
const NAMES = '1 to 63 of a–z 0–9 . _ -, beginning with a letter or digit.';

/** Where NBD clients find a volume; the port need not be the appliance's own, if something forwards to it. */
export const exportOf = (node, name) => `nbd://${location.hostname}:${node?.nbd_port ?? 10809}/${name}`;

/** Volumes in the order of the family tree: `[{volume, depth}]`, clones below what they were cloned from. */
function family(volumes) {
  const names = new Set(volumes.map((volume) => volume.name));
  const parent = (volume) => {
    const name = volume.origin?.split('@')[0];
    return name && name !== volume.name && names.has(name) ? name : null;
  };
  const ordered = [];
  const seen = new Set();
  const visit = (volume, depth) => {
    if (seen.has(volume.name)) return;
    seen.add(volume.name);
    ordered.push({ volume, depth });
    volumes.filter((child) => parent(child) === volume.name).forEach((child) => visit(child, depth + 1));
  };
  volumes.filter((volume) => !parent(volume)).forEach((volume) => visit(volume, 0));
  // Rollbacks can make two volumes each other's origin.
  volumes.forEach((volume) => visit(volume, 0));
  return ordered;
}

export function list(state) {
  const { volumes, history } = state;
  const add = () => h('div.actions', {},
    h('button', { type: 'button', onclick: () => adopt(state, NAMES) }, 'Bring a disk in'),
    h('button.primary', { type: 'button', onclick: () => create(state) }, icon('add'), 'New volume'));
  const head = h('header.head.row', {},
    h('div', {},
      h('h1', { tabindex: '-1' }, 'Volumes'),
      volumes && h('p.quiet', {}, summary(volumes))),
    volumes && may(state, 'operator') && add());
  if (!volumes) return [head, h('p.quiet', {}, state.problem ?? 'Asking the appliance …')];
  if (volumes.length === 0) {
    return [head, h('div.empty', {},
      h('p', {}, 'There is no volume yet.'),
      h('p.quiet', {}, 'A volume is a disk that clients attach by NBD. It is thin: it takes space only for what is written to it.'))];
  }
  return [head, h('div.scroll', { tabindex: '0', role: 'region', 'aria-label': 'Volumes' },
    h('table.rows', {},
      h('thead', {}, h('tr', {},
        h('th', { scope: 'col' }, 'Name'),
        h('th.num', { scope: 'col' }, 'Size'),
        h('th', { scope: 'col' }, 'In use'),
        h('th.num', { scope: 'col' }, 'Snapshots'),
        h('th.num', { scope: 'col' }, 'Clients'),
        h('th.num', { scope: 'col' }, 'Requests/s'),
        h('th.wide', { scope: 'col' }, 'Created'))),
      h('tbody', {}, family(volumes).map(({ volume, depth }) => row(volume, depth, history.latest(volume.name))))))];
}

function summary(volumes) {
  const promised = volumes.reduce((sum, volume) => sum + volume.size, 0);
  const snapshots = volumes.reduce((sum, volume) => sum + volume.snapshots, 0);
  return `${many(volumes.length, 'volume')} of ${size(promised)} in all · ${many(snapshots, 'snapshot')}`;
}

function row(volume, depth, now) {
  return h('tr', { 'data-key': volume.uuid },
    h('th', { scope: 'row', class: `depth-${Math.min(depth, 4)}` },
      h('a.name', { href: `#/volumes/${volume.name}` }, volume.name),
      volume.read_only && h('span.tag', {}, 'read-only'),
      volume.origin && h('span.origin', {}, h('span.visually-hidden', {}, 'clone '), `of ${volume.origin}`),
      brief(volume) && h('span.origin', {}, brief(volume))),
    h('td.num', {}, size(volume.size)),
    h('td.use', {}, use(volume.allocated, volume.size)),
    h('td.num', { 'data-label': volume.snapshots === 1 ? ' snapshot' : ' snapshots' }, count(volume.snapshots)),
    h('td.num', { 'data-label': volume.clients === 1 ? ' client' : ' clients' }, count(volume.clients)),
    h('td.num', {}, now ? count(now.iops.read + now.iops.write) : '–'),
    h('td.wide.quiet', {}, moment(volume.created_at)));
}

export function use(part, whole) {
  return [
    h('span.meter', { 'aria-hidden': 'true' }, h('span', { 'width%': whole > 0 ? Math.min(100, (100 * part) / whole) : 0 })),
    h('span.nowrap', {}, size(part), h('span.quiet', {}, ` ${percent(whole > 0 ? part / whole : 0)}`)),
  ];
}

/** One volume, with its snapshots and what was cloned from them. */
export function detail(state, name) {
  const one = state.volume?.name === name ? state.volume : state.volumes?.find((volume) => volume.name === name);
  const back = h('a.back', { href: '#/volumes' }, icon('back'), 'Volumes');
  if (!one) {
    const text = state.volumes ? `There is no volume ${name}.` : 'Asking the appliance …';
    return [back, h('h1', { tabindex: '-1' }, name), h('p.quiet', {}, text)];
  }
  const snapshots = state.snapshots?.of === name ? state.snapshots.list : null;
  const now = state.history.latest(name);
  return [
    back,
    h('header.head.row', {},
      h('div', {},
        h('h1.mono', { tabindex: '-1' }, name),
        h('p.quiet', {},
          `${size(one.size)} · created ${moment(one.created_at)}`,
          one.origin && [' · clone of ', h('a.name', { href: `#/volumes/${one.origin.split('@')[0]}` }, one.origin)],
          one.read_only && h('span.tag', {}, 'read-only'))),
      may(state, 'operator') && h('div.actions', {},
        h('button.primary', { type: 'button', onclick: () => snapshot(state, one) }, icon('camera'), 'Snapshot'),
        h('button', { type: 'button', onclick: () => change(state, one) }, 'Change'),
        (one.move?.state ?? 'owned') === 'owned' && h('button', { type: 'button', onclick: () => send(state, one) }, 'Move'),
        h('button.danger', { type: 'button', onclick: () => remove(state, one, snapshots) }, 'Delete'))),
    h('dl.facts', {},
      fact('In use', size(one.allocated), percent(one.size > 0 ? one.allocated / one.size : 0)),
      fact('Its own', size(one.unique), 'freed by its deletion'),
      fact('Shared', size(one.shared), 'with snapshots and clones'),
      fact('Clients', count(one.clients), one.allow.length > 0 ? `from ${one.allow.join(', ')}` : 'from anywhere'),
      fact('Requests', now ? `${count(now.iops.read + now.iops.write)}/s` : '–',
        limits(one) ?? (now && (now.latency.read ?? now.latency.write) !== null ? `${latency(now.latency.read ?? now.latency.write)} each` : 'none now'))),
    h('p.export', {},
      h('span.quiet', {}, 'NBD '), h('code', {}, exportOf(state.node, name)),
      h('button.quiet', { type: 'button', 'aria-label': 'Copy the NBD address', onclick: () => copyAddress(exportOf(state.node, name)) }, icon('copy'))),
    wayOf(state, one),
    scheduleOf(state, name),
    h('section', { 'aria-labelledby': 'snapshots' },
      h('h2', { id: 'snapshots' }, 'Snapshots'),
      snapshots ? tree(state, one, snapshots) : h('p.quiet', {}, state.problem ?? 'Asking the appliance …')),
  ];
}

function fact(name, value, more) {
  return h('div', {}, h('dt', {}, name), h('dd', {}, h('b', {}, value), more && h('span.quiet', {}, more)));
}

async function copyAddress(text) {
  if (await copy(text)) tell('Copied.');
  else tell('The browser does not let this page copy; select the address instead.', true);
}

/** The snapshots as a line through time, newest at the top, with clones as its branches. */
function tree(state, volume, snapshots) {
  const clones = (name) => (state.volumes ?? []).filter((other) => other.origin === `${volume.name}@${name}`);
  return h('ol.tree', {},
    h('li.now', {},
      h('span.node', {}),
      h('div.what', {}, h('strong', {}, 'now'), h('span.quiet', {}, ['given', 'left'].includes(volume.move?.state) ? 'what stayed of it here' : 'what clients see and change'))),
    snapshots.length === 0 && h('li.none', {},
      h('div.what', {}, h('span.quiet', {}, 'No snapshot yet. One costs next to nothing, and the volume can be rolled back to it.'))),
    [...snapshots].reverse().map((one) => h('li', { 'data-key': one.uuid },
      h('span.node', {}),
      h('div.what', {},
        h('strong.mono', {}, one.name),
        h('span.quiet', {}, moment(one.created_at)),
        h('span.quiet', {},
          `${size(one.allocated)} in use`, one.unique !== undefined && `, ${size(one.unique)} its own`,
          one.clients > 0 && `, ${many(one.clients, 'client')}`)),
      may(state, 'operator') && h('div.actions', { role: 'group', 'aria-label': `Snapshot ${one.name}` },
        h('button', { type: 'button', onclick: () => clone(state, volume, one) }, 'Clone'),
        h('button', { type: 'button', onclick: () => rollback(state, volume, one) }, 'Roll back'),
        h('button.danger', { type: 'button', onclick: () => removeSnapshot(state, volume, one) }, 'Delete')),
      clones(one.name).length > 0 && h('ul.branches', { 'aria-label': `Clones of ${one.name}` },
        clones(one.name).map((other) => h('li', { 'data-key': other.uuid },
          h('a.name', { href: `#/volumes/${other.name}` }, other.name),
          h('span.quiet', {}, ` clone, ${size(other.allocated)} in use`)))))),
    volume.origin && h('li.begin', {},
      h('span.node', {}),
      h('div.what', {}, h('span.quiet', {}, 'began as '),
        h('a.name', { href: `#/volumes/${volume.origin.split('@')[0]}` }, volume.origin))));
}

const sized = (text) => {
  const bytes = parseSize(text);
  if (text.trim() === '') return 'Like 10 GiB or 512M.';
  return bytes === null ? 'Not a size. Write it like 10 GiB or 512M.' : `${bytes.toLocaleString('en')} bytes`;
};

/** Bytes of what was written, or the problem of its field. */
function bytesOf(text) {
  const bytes = parseSize(text);
  if (bytes !== null) return bytes;
  const problem = new Error('Not a size. Write it like 10 GiB or 512M.');
  problem.field = 'size';
  throw problem;
}

/** A limit as the API takes it; what is none is sent as it is, and the API says what it should be. */
const limitOf = (text, number) => (text === '' ? null : Number.isInteger(number) ? number : text);

/** A volume's limits in words; `null` if it has none. */
function limits({ iops_max: iops, rate_max: bytes }) {
  const words = [iops && `${count(iops)} requests`, bytes && size(bytes)].filter(Boolean);
  return words.length > 0 ? `at most ${words.join(' and ')} in a second` : null;
}

function create({ actions }) {
  ask({
    title: 'New volume',
    action: 'Create',
    fields: [
      { name: 'name', label: 'Name', hint: NAMES, mono: true, required: true },
      { name: 'size', label: 'Size', hint: sized(''), placeholder: '10 GiB', required: true, onInput: sized },
    ],
    submit: async ({ name, size: text }) => {
      const volume = await api.createVolume({ name, size: bytesOf(text) });
      await actions.refresh();
      actions.go(`/volumes/${volume.name}`);
      return volume;
    },
    done: (volume) => `Volume ${volume.name} is there.`,
  });
}

function change({ actions }, volume) {
  ask({
    title: `Change ${volume.name}`,
    action: 'Save',
    fields: [
      { name: 'name', label: 'Name', hint: `${NAMES} Clients attach by it.`, mono: true, value: volume.name, required: true },
      { name: 'size', label: 'Size', hint: 'It can only grow.', value: size(volume.size), required: true, onInput: sized },
      { name: 'read_only', label: 'Read-only', hint: 'Writes are refused, of clients that are attached now, too.', type: 'check', value: volume.read_only },
      {
        name: 'allow', label: 'Clients may come from', mono: true, value: volume.allow.join(' '),
        hint: 'Networks like 10.0.0.0/8, with spaces between. Empty: from anywhere.',
      },
      { name: 'iops_max', label: 'Requests in a second', hint: 'At most so many, of all clients. Empty: no limit.', value: volume.iops_max ?? '' },
      { name: 'rate_max', label: 'Bytes in a second', hint: 'At most so many, like 50 MiB. Empty: no limit.', value: volume.rate_max ? size(volume.rate_max) : '' },
    ],
    submit: async (values) => {
      const wanted = {};
      if (values.name !== volume.name) wanted.name = values.name;
      if (values.size !== size(volume.size)) wanted.size = bytesOf(values.size);
      if (values.read_only !== volume.read_only) wanted.read_only = values.read_only;
      if (values.allow !== volume.allow.join(' ')) wanted.allow = values.allow.split(/[\s,]+/).filter(Boolean);
      if (values.iops_max !== String(volume.iops_max ?? '')) wanted.iops_max = limitOf(values.iops_max, Number(values.iops_max));
      if (values.rate_max !== (volume.rate_max ? size(volume.rate_max) : '')) wanted.rate_max = limitOf(values.rate_max, parseSize(values.rate_max));
      if (Object.keys(wanted).length > 0) await api.changeVolume(volume.name, wanted);
      await actions.refresh();
      if (wanted.name) actions.go(`/volumes/${wanted.name}`);
    },
    done: 'Saved.',
  });
}

function remove({ actions }, volume, snapshots) {
  const number = snapshots?.length ?? volume.snapshots;
  ask({
    title: `Delete ${volume.name}?`,
    action: 'Delete the volume',
    danger: true,
    intro: h('p', {}, 'The volume', number > 0 && [' and its ', h('strong', {}, many(number, 'snapshot'))],
      ` will be gone for good${volume.unique ? `, which frees ${size(volume.unique)}` : ''}. Clones live on.`),
    fields: [{ name: 'typed', label: `Type “${volume.name}” to confirm`, mono: true, required: true }],
    submit: async (values, more) => {
      if (values.typed !== volume.name) {
        throw Object.assign(new Error(`That is not its name; it is ${volume.name}.`), { field: 'typed' });
      }
      await unlessAttached(values, more, (force) => api.deleteVolume(volume.name, force));
      actions.go('/volumes');
      await actions.refresh();
    },
    done: `Volume ${volume.name} is deleted.`,
  });
}

/** A name for a snapshot of this minute. */
function nameOfNow(prefix) {
  return prefix + new Date().toISOString().slice(0, 19).replaceAll(':', '').replace('T', '-');
}

function snapshot({ actions }, volume) {
  ask({
    title: `Snapshot of ${volume.name}`,
    action: 'Take snapshot',
    fields: [{ name: 'name', label: 'Name', hint: NAMES, mono: true, required: true, value: nameOfNow('') }],
    submit: async ({ name }) => {
      await api.createSnapshot(volume.name, name);
      await actions.refresh();
    },
    done: (_, { name }) => `Snapshot ${volume.name}@${name} is there.`,
  });
}

function clone({ actions }, volume, { name: from }) {
  ask({
    title: `Clone of ${volume.name}@${from}`,
    action: 'Clone',
    intro: h('p', {}, 'A volume that begins as the snapshot is. It takes space only for what is then written to it.'),
    fields: [{ name: 'name', also: 'from', label: 'Name of the new volume', hint: NAMES, mono: true, required: true }],
    submit: async ({ name }) => {
      const made = await api.createVolume({ name, from: `${volume.name}@${from}` });
      await actions.refresh();
      return made;
    },
    done: (made) => `Volume ${made.name} is a clone of ${volume.name}@${from}.`,
  });
}

function rollback({ actions }, volume, { name: to }) {
  let kept = null;
  ask({
    title: `Roll ${volume.name} back to ${to}?`,
    action: 'Roll back',
    danger: true,
    intro: h('p', {}, 'The volume becomes what it was at that snapshot. All snapshots stay.'),
    fields: [{
      name: 'keep', label: 'Keep what it is now as a snapshot', type: 'check', value: true,
      hint: 'Otherwise everything written since is lost.',
    }],
    submit: async (values, more) => {
      // Not twice, when the rollback itself is refused at first.
      if (values.keep && !kept) {
        kept = nameOfNow('before-rollback-');
        await api.createSnapshot(volume.name, kept);
      }
      await unlessAttached(values, more, (force) => api.rollback(volume.name, to, force));
      await actions.refresh();
    },
    done: `Volume ${volume.name} is what it was at ${to}.`,
  });
}

function removeSnapshot({ actions }, volume, one) {
  ask({
    title: `Delete ${volume.name}@${one.name}?`,
    action: 'Delete the snapshot',
    danger: true,
    intro: h('p', {}, 'The volume, other snapshots and clones are not affected.',
      one.unique > 0 && ` It frees ${size(one.unique)}.`),
    fields: [],
    submit: async (values, more) => {
      await unlessAttached(values, more, (force) => api.deleteSnapshot(volume.name, one.name, force));
      await actions.refresh();
    },
    done: `Snapshot ${volume.name}@${one.name} is deleted.`,
  });
}
