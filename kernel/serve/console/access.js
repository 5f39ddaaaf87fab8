// Who may do what, and who did what: tokens, and the audit log.

import { api } from './api.js';
import { ask, reveal } from './dialogs.js';
import { h, icon } from './dom.js';
import { many, moment } from './format.js';

const ROLES = ['read-only', 'operator', 'admin'];
/** Changes that are asked for at first, and the most. */
export const AUDIT_FEW = 100;
const AUDIT_MANY = 1000;

/** Whether whoever is logged in has `role`, or more. Whatever is offered, the appliance decides. */
export function may({ who }, role) {
  return !role || (who !== null && ROLES.indexOf(who.role) >= ROLES.indexOf(role));
}

const waiting = (title, problem) => [h('h1', { tabindex: '-1' }, title), h('p.quiet', {}, problem ?? 'Asking the appliance …')];

export function tokens(state) {
  const { tokens: all, who } = state;
  if (!all) return waiting('Tokens', state.problem);
  return [
    h('header.head.row', {},
      h('div', {},
        h('h1', { tabindex: '-1' }, 'Tokens'),
        h('p.quiet', {}, `${many(all.length, 'token')}; whoever has the secret of one is let in`)),
      h('button.primary', { type: 'button', onclick: () => create(state) }, icon('add'), 'New token')),
    h('ul.items', {}, all.map((token) => h('li', { 'data-key': token.name },
      h('header', {},
        h('h2.mono', {}, token.name),
        h('span.tag', {}, token.role),
        token.name === who?.name && h('span.tag', {}, 'yours'),
        !token.configured && h('div.actions', { role: 'group', 'aria-label': `Token ${token.name}` },
          h('button.danger', { type: 'button', onclick: () => revoke(state, token) }, 'Revoke'))),
      h('p.quiet', {}, [
        token.configured ? 'of the configuration, and taken out there' : token.created_at && `made ${moment(token.created_at)}`,
        token.last_seen_at ? `last seen ${moment(token.last_seen_at)}` : 'not seen since the start',
      ].filter(Boolean).join(' · '))))),
  ];
}

function create({ actions }) {
  ask({
    title: 'New token',
    action: 'Make it',
    fields: [
      { name: 'name', label: 'Name', hint: 'Who or what it is for: 1 to 63 of a–z 0–9 . _ -. The list of changes shows it.', mono: true, required: true },
      {
        name: 'role', label: 'Role', value: 'operator',
        hint: 'Admins also make tokens, give up drives and turn the appliance off.',
        options: [['read-only', 'read-only: looks'], ['operator', 'operator: works with volumes'], ['admin', 'admin: everything']],
      },
    ],
    submit: async (values) => {
      const made = await api.createToken(values);
      await actions.refresh();
      setTimeout(() => reveal({
        title: `Token ${made.name}`,
        about: 'This is the only time that its secret is shown: the appliance keeps none, only what it can be recognised by.',
        secret: made.token,
      }));
    },
  });
}

function revoke({ actions, who }, token) {
  ask({
    title: `Revoke ${token.name}?`,
    action: 'Revoke the token',
    danger: true,
    intro: h('p', {}, 'Its secret opens nothing any more, at once and for good.',
      token.name === who?.name && h('strong', {}, ' It is the one that you are logged in with.')),
    fields: [],
    submit: async () => {
      await api.revokeToken(token.name);
      await actions.refresh();
    },
    done: `Token ${token.name} is revoked.`,
  });
}

export function audit(state) {
  const { audit: page, auditWanted: wanted, actions } = state;
  if (!page) return waiting('Changes', state.problem);
  const text = wanted.text.toLowerCase();
  const shown = page.entries.filter((entry) => !text
    || [entry.who, entry.from, entry.what, entry.with, entry.status, entry.error ?? ''].join(' ').toLowerCase().includes(text));
  const are = `${many(page.entries.length, 'change')}, newest first`;
  return [
    h('header.head.row', {},
      h('div', {},
        h('h1', { tabindex: '-1' }, 'Changes'),
        h('p.quiet', {}, shown.length === page.entries.length ? are : `${shown.length} of ${are}`)),
      h('div.filters', { role: 'search' },
        h('label', {}, h('span.visually-hidden', {}, 'Only changes with'),
          h('input', { type: 'search', placeholder: 'Only changes with …', value: wanted.text, oninput: (event) => actions.filterAudit({ text: event.target.value }) })))),
    shown.length === 0 && h('p.quiet', {}, text ? 'No such change.' : 'Nobody has changed anything yet.'),
    h('ol.audit', {}, shown.map((entry) => h('li', { 'data-key': String(entry.id) },
      h('span.quiet', {}, moment(entry.at)),
      h('span.who', {}, h('b', {}, entry.who), h('span.from.quiet', {}, ` ${entry.from}`)),
      h('span.what', {}, h('code', {}, entry.what), entry.with && h('code.with.quiet', {}, entry.with),
        entry.error && h('span.with.error', {}, entry.error)),
      h('span', { class: `result state ${mood(entry.status)}` }, entry.status)))),
    page.areMore && wanted.limit < AUDIT_MANY
      && h('button', { type: 'button', onclick: () => actions.filterAudit({ limit: AUDIT_MANY }) }, 'Show older ones'),
  ];
}

const mood = (status) => (status < 400 ? 'good' : status < 500 ? 'warn' : 'bad');
