// Volumes on their way: how much of one is here, to and from which appliance it goes, and what can be done about that.

import { may } from './access.js';
import { api } from './api.js';
import { bar } from './charts.js';
import { ask, tell } from './dialogs.js';
import { h } from './dom.js';
import { duration, parseSize, percent, rate, size } from './format.js';

const isActive = (job) => ['queued', 'running', 'paused'].includes(job.state);
const other = ({ peer }) => peer ?? 'another appliance';

/** Of `volume`: bytes that arrived, that are known to be zeros (or were written here), and the rest. */
function parts({ size: whole, hydration: { known, stored } }) {
  const here = Math.min(stored, whole);
  const zeros = Math.max(0, Math.min(known, whole) - here);
  return [
    { name: 'used', label: 'here', bytes: here },
    { name: 'reserved', label: 'known zeros', bytes: zeros },
    { name: 'free', label: 'still elsewhere', bytes: Math.max(0, whole - here - zeros) },
  ];
}

/** Where a volume is on its way, in a few words; `null` of one that is at rest. */
export function brief(volume) {
  const { move, hydration } = volume;
  switch (move?.state) {
    case 'offered': return `${move.confirmed ? 'ready to go' : 'about to go'} to ${other(move)}`;
    case 'prepared': return `still with ${other(move)}`;
    case 'given': return `with ${other(move)} now`;
    case 'left': return 'left behind';
    default: return hydration ? `arriving, ${percent(parts(volume)[2].bytes / volume.size)} still elsewhere` : null;
  }
}

/** The same for who wants to know what it means: a title, and a text. */
function told({ move, name }, job) {
  const peer = other(move);
  switch (move.state) {
    case 'offered':
      return move.confirmed
        ? [`${peer} is ready to take it`, `Clients use it here as before. At ${peer} it can be opened and read, and it is written there as soon as it is handed over.`]
        : [`${peer} gets ready to take it`, 'Clients use it here as before.'];
    case 'prepared':
      return [`Still with ${peer}`, `It can be opened and read here, and writes are refused until it is handed over at ${peer}.`];
    case 'given':
      if (!move.confirmed) return [`Handed over to ${peer}, which has not answered yet`, 'Nobody can use it here any more. The other appliance is told as soon as it can be reached.'];
      return [`With ${peer} now`, job
        ? `Clients use it there. Its blocks follow, so ${peer} must reach this appliance until all of them have arrived.`
        : 'Clients use it there. What stayed here is a copy that nobody can use: should the volume come back, only differences have to.'];
    default:
      return ['What stayed of a volume that is elsewhere', `Nobody can use it here. Delete ${name} if it is not needed for its snapshots.`];
  }
}

/** Why `volume` does not arrive or go on, or `null`. */
export const keptBy = ({ hydration, move }) => move?.trouble ?? hydration?.error ?? null;

/** The part of a volume's page that is about its way. */
export function wayOf(state, volume) {
  const { move } = volume;
  const jobOf = (id) => state.jobs?.find((job) => job.id === id && isActive(job));
  return [
    move && move.state !== 'owned' && moving(state, volume, jobOf(move.job)),
    volume.hydration && arriving(volume, jobOf(volume.hydration.job)),
  ];
}

function moving(state, volume, job) {
  const { move } = volume;
  const [title, text] = told(volume, job);
  const button = (what, label, act) => h(what, { type: 'button', onclick: () => act(state, volume) }, label);
  return h('section.way', { 'aria-labelledby': 'way' },
    h('header.bar-head', {},
      h('h2', { id: 'way' }, title),
      may(state, 'operator') && h('div.actions', { role: 'group', 'aria-label': 'Its move' },
        move.state === 'offered' && move.confirmed && button('button.primary', 'Hand over', handOver),
        move.state === 'offered' && button('button', 'Call it off', takeBack),
        move.state === 'given' && button('button', 'Take back', takeBack),
        move.state === 'given' && button('button.danger', 'Take over by force', takeOver))),
    h('p.quiet', {}, text),
    progress(job),
    move.trouble && h('p.error', {}, move.trouble));
}

function arriving(volume, job) {
  const { hydration, size: whole } = volume;
  const all = parts(volume);
  return h('section.way', { 'aria-labelledby': 'arriving' },
    h('h2', { id: 'arriving' }, 'Its blocks arrive'),
    h('p.quiet', {}, 'from ', h('code', {}, hydration.from), hydration.error ? null : ', which answers'),
    bar(all, whole, size, `Of ${size(whole)}: ${all.map((part) => `${part.label} ${size(part.bytes)}`).join(', ')}`),
    h('ul.legend', {}, all.map((part) => h('li', {}, h('i', { class: part.name }), `${part.label} `, h('b', {}, size(part.bytes))))),
    progress(job) ?? h('p.quiet', {}, 'Nothing brings in the rest: what clients read comes when they want it, and the origin is needed as long.'),
    hydration.error && h('p.error', {}, `${hydration.error}. What is here can be used; reads of the rest wait for half a minute, and then fail.`));
}

const progress = (job) => (job ? h('p.quiet', {}, h('a', { href: '#/jobs' }, `job ${job.id}`),
  [job.state, percent(job.progress), job.rate !== null && rate(job.rate), job.time_left_ms !== null && `${duration(job.time_left_ms)} left`]
    .filter(Boolean).map((text) => ` · ${text}`)) : null);

const PHASES = {
  offering: (to) => `${to} gets ready`,
  prepared: (to) => `${to} is ready, and waits for the hand-over`,
  giving: (to) => `being handed over to ${to}`,
  following: (to) => `${to} has it, and its blocks follow`,
};

/** What a job is about: `hydrate`'s or `migrate`'s title, its phase, and the bytes that went; `null` of others. */
export function journey({ kind, volume, result, state }) {
  if (kind === 'hydrate') return { title: `Bring in ${volume ?? 'a volume that is gone'}`, facts: `${size(result.fetched)} of data fetched in the background` };
  if (kind !== 'migrate') return null;
  const { bytes, phase, to } = result;
  return {
    title: `Move ${volume} to ${to}`,
    phase: ['running', 'queued', 'paused'].includes(state) ? PHASES[phase]?.(to) ?? phase : null,
    facts: `${size(bytes.on_demand)} on demand, ${size(bytes.background)} in the background, ${size(bytes.metadata)} of metadata`,
  };
}

const RATE = { name: 'rate', label: 'Bytes in a second', hint: 'At most so many in the background, like 50 MiB. Empty: as fast as clients leave room for.' };

/** The rate that was written; what is none is sent as it is, and the API says what it should be. */
const rateOf = (text) => (text === '' ? 0 : parseSize(text) ?? text);

export function limit({ actions }, job) {
  ask({
    title: `Rate of job ${job.id}`,
    action: 'Save',
    fields: [{ ...RATE, value: job.rate_max ? size(job.rate_max) : '' }],
    submit: async (values) => {
      await api.changeJob(job.id, { rate: rateOf(values.rate) });
      await actions.refresh();
    },
    done: 'Saved.',
  });
}

/** The peers' names, or `null` after saying why they cannot be known. */
async function names() {
  try {
    return (await api.peers()).peers.map((peer) => peer.name);
  } catch (problem) {
    tell(problem.message, true);
    return null;
  }
}

/** Asks to which appliance a volume is to go. */
export async function send({ actions }, { name, snapshots }) {
  const peers = await names();
  if (!peers) return;
  if (peers.length === 0) {
    ask({
      title: `Move ${name}`,
      action: 'To the peers',
      intro: h('p', {}, 'There is no appliance to which it could move: pair this one with another one first.'),
      fields: [],
      submit: async () => actions.go('/peers'),
    });
    return;
  }
  ask({
    title: `Move ${name}`,
    action: 'Move it',
    intro: h('p', {}, 'Clients go on while it moves: here until it is handed over, and from then on there. ',
      snapshots > 0 && 'Snapshots stay here, and so does its schedule.'),
    fields: [
      { name: 'to', label: 'To', options: peers.map((peer) => [peer, peer]) },
      {
        name: 'hand_over', label: 'Hand it over', value: 'now', options: [['now', 'as soon as the other one is ready'], ['wait', 'when I say so']],
      },
      {
        name: 'after', label: 'Once all of it is there, the copy here', value: 'keep',
        options: [['keep', 'stays, unused'], ['free', 'goes'], ['snapshot', 'stays, with a snapshot of the hand-over']],
        hint: 'With a copy, only differences come back should the volume return. One with snapshots stays.',
      },
      RATE,
    ],
    submit: async (values) => {
      await api.migrate(name, { ...values, rate: rateOf(values.rate) });
      await actions.refresh();
    },
    done: (_, { to }) => `${name} is about to move to ${to}.`,
  });
}

function handOver({ actions }, { name, move, clients }) {
  ask({
    title: `Hand ${name} over to ${other(move)}?`,
    action: 'Hand over',
    intro: h('p', {}, 'From then on it is used there, and nobody can use it here.',
      clients > 0 && h('strong', {}, ' Clients are attached to it here; they are refused.')),
    fields: [],
    submit: async () => {
      try {
        await api.handOver(name);
      } finally {
        await actions.refresh();
      }
    },
    done: `${name} is with ${other(move)}.`,
  });
}

function takeBack({ actions }, { name, move }) {
  const isGiven = move.state === 'given';
  ask({
    title: isGiven ? `Take ${name} back?` : `Call off the move of ${name}?`,
    action: isGiven ? 'Take back' : 'Call it off',
    intro: h('p', {}, isGiven
      ? `${other(move)} stops taking writes, and what was written there comes back. Clients there are refused, and go on here.`
      : 'It stays here, and the other appliance forgets about it.'),
    fields: [],
    submit: async () => {
      try {
        await api.takeBack(name);
      } finally {
        await actions.refresh();
      }
    },
    done: `${name} is this appliance’s.`,
  });
}

function takeOver({ actions }, { name, move }) {
  ask({
    title: `Take ${name} over by force?`,
    action: 'Take it over',
    danger: true,
    intro: h('p', {}, `Only if ${other(move)} is lost for good. `,
      h('strong', {}, 'What was written there is lost'),
      '; should it come back, there are two volumes with one past. Remove that peer first.'),
    fields: [{ name: 'confirm', label: `Type “${name}” to confirm`, mono: true, required: true }],
    submit: async ({ confirm }) => {
      if (confirm !== name) throw Object.assign(new Error(`That is not its name; it is ${name}.`), { field: 'confirm' });
      await api.takeOver(name, confirm);
      await actions.refresh();
    },
    done: `${name} is this appliance’s again.`,
  });
}

/** Asks for a disk that is elsewhere, of which a volume is to be made. */
export async function adopt({ actions }, nameHint) {
  const peers = await names();
  if (!peers) return;
  const hint = (from) => (from ? `Below: VOLUME@SNAPSHOT as it is called at ${from}.` : 'Below: its address, like nbd://10.0.0.5/disk.');
  ask({
    title: 'Bring a disk in',
    action: 'Adopt',
    intro: h('p', {}, 'A volume that is at once what the other disk is: what clients read comes first, and the rest in the background.'),
    fields: [
      { name: 'name', label: 'Name of the new volume', hint: nameHint, mono: true, required: true },
      peers.length > 0 && {
        name: 'peer', label: 'From', value: '', hint: hint(''), onInput: hint,
        options: [['', 'an NBD server'], ...peers.map((peer) => [peer, `a snapshot of ${peer}`])],
      },
      {
        name: 'disk', label: peers.length > 0 ? 'Which disk' : 'NBD address', mono: true, required: true, placeholder: 'nbd://10.0.0.5/disk',
        hint: 'An NBD server’s must not change until all of it is here.',
      },
      { name: 'size', label: 'Size', hint: 'Like 10 GiB. Empty: that of the other disk.' },
    ].filter(Boolean),
    submit: async ({ name, peer, disk, size: text }) => {
      const origin = peer ? { appliance: peer, volume: disk } : { nbd: disk };
      const bytes = text === '' ? {} : { size: parseSize(text) ?? text };
      try {
        const made = await api.createVolume({ name, origin, ...bytes });
        await actions.refresh();
        actions.go(`/volumes/${made.name}`);
        return made;
      } catch (problem) {
        if (/^origin|^(nbd|appliance|volume)$/.test(problem.field)) problem.field = 'disk';
        throw problem;
      }
    },
    done: (made) => `Volume ${made.name} is there, and its blocks arrive.`,
  });
}
