// Peers: appliances that this one was paired with.

import { may } from './access.js';
import { api } from './api.js';
import { ask, reveal, tell } from './dialogs.js';
import { h, icon } from './dom.js';
import { duration, many, moment } from './format.js';

/** How the host of appliances in QEMU's user-mode network looks to them. */
const USER_MODE_HOST = '10.0.2.2';
const ADDRESS = {
  name: 'address', label: 'Its address', mono: true, required: true, placeholder: '10.0.0.5',
  hint: 'Like 10.0.0.5 or [fd00::5], and :PORT behind it if that is not 10810. Names of machines cannot be looked up.',
};

export function peers(state) {
  const title = h('h1', { tabindex: '-1' }, 'Peers');
  const { peers: known } = state;
  if (!known) return [title, h('p.quiet', {}, state.problem ?? 'Asking the appliance …')];
  const isAdmin = may(state, 'admin');
  return [
    h('header.head.row', {},
      h('div', {}, title,
        h('p.quiet', {}, `${known.peers.length > 0 ? many(known.peers.length, 'appliance') : 'None'}; volumes can move between this one and its peers`)),
      isAdmin && h('div.actions', {},
        h('button', { type: 'button', onclick: () => makeToken(known) }, 'Make a token'),
        h('button.primary', { type: 'button', onclick: () => add(state) }, icon('add'), 'Add a peer'))),
    known.peers.length === 0
      ? h('div.empty', {}, h('p', {}, 'This appliance is paired with no other one.'),
        h('p.quiet', {}, 'One of the two makes a token, and the other one is given it, with the address. What they then say to each other is encrypted.'))
      : h('ul.items', {}, known.peers.map((peer) => h('li', { 'data-key': peer.name },
        h('header', {},
          h('h2.mono', {}, peer.name),
          h('span.mono', {}, peer.address),
          isAdmin && h('div.actions', { role: 'group', 'aria-label': `Peer ${peer.name}` },
            h('button', { type: 'button', onclick: () => move(state, peer) }, 'Change address'),
            h('button.danger', { type: 'button', onclick: () => remove(state, peer) }, 'Remove'))),
        h('p.quiet', {}, peer.paired_at ? `paired ${moment(peer.paired_at)}` : 'paired when the appliance had no clock'),
        key(peer.key)))),
    h('section', { 'aria-labelledby': 'self' },
      h('h2', { id: 'self' }, 'This appliance'),
      h('p', {}, h('b.mono', {}, known.name), h('span.quiet', {}, `, which others reach at port ${known.port}`)),
      key(known.key)),
  ];
}

const key = (text) => h('p.key-of.quiet', {}, 'key ', h('code', {}, text));

/** Where another appliance finds this one, as far as one can tell from here; and what is to be said of that. */
function whereabouts({ port }) {
  const { hostname } = location;
  if (/^(localhost|127\.[\d.]+|\[::1\])$/.test(hostname)) {
    return [`${USER_MODE_HOST}:${port}`, 'That is this host as appliances in QEMU’s user-mode network see it.'];
  }
  if (/^(\d+\.){3}\d+$|^\[/.test(hostname)) return [`${hostname}:${port}`, null];
  return [`ADDRESS:${port}`, 'ADDRESS is that of this appliance; names cannot be looked up there.'];
}

async function makeToken(known) {
  try {
    const made = await api.createPairingToken();
    const [address, note] = whereabouts(known);
    reveal({
      title: 'A token for one other appliance',
      about: `It can be used once, within ${duration(made.expires_in_ms)}, and is shown only now.`,
      secret: made.token,
      more: h('div.then', {},
        h('p', {}, 'There, ', h('b', {}, 'Add a peer'), ' takes it, with the address ', h('code', {}, address), ', or this command, which asks for it:'),
        h('code.command', {}, `ferrite peer add ${address}`),
        note && h('p.hint', {}, note)),
    });
  } catch (problem) {
    tell(problem.message, true);
  }
}

function add({ actions }) {
  ask({
    title: 'Add a peer',
    action: 'Pair',
    intro: h('p', {}, 'The other appliance makes a token. A peer may ask for all volumes of this one, so pair only what you trust with them.'),
    fields: [
      ADDRESS,
      { name: 'token', label: 'Token that was made there', mono: true, required: true, type: 'password', placeholder: 'ferrite_pair_…' },
    ],
    submit: async (values) => {
      const peer = await api.pair(values);
      await actions.refresh();
      return peer;
    },
    done: (peer) => `${peer.name} is a peer.`,
  });
}

function move({ actions }, { name, address }) {
  ask({
    title: `Where ${name} is`,
    action: 'Save',
    fields: [{ ...ADDRESS, value: address }],
    submit: async (values) => {
      await api.changePeer(name, values);
      await actions.refresh();
    },
    done: 'Saved.',
  });
}

function remove({ actions, volumes }, { name }) {
  const isNeeded = ({ hydration, move: way }) => (way?.peer === name && way.state !== 'owned')
    || hydration?.from === `ferrite://${name}` || hydration?.from.startsWith(`ferrite://${name}/`);
  const needed = (volumes ?? []).filter(isNeeded).map((volume) => volume.name);
  ask({
    title: `Remove ${name}?`,
    action: 'Remove the peer',
    danger: true,
    intro: h('p', {}, 'It is a stranger from then on, at once. It knows this appliance until that is removed there, too.',
      needed.length > 0 && h('strong', {}, ` It is still needed for ${needed.join(', ')}.`)),
    fields: [],
    submit: async () => {
      await api.removePeer(name);
      await actions.refresh();
    },
    done: `${name} is no peer any more.`,
  });
}
