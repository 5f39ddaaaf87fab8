// Snapshot schedules: of all volumes, and of one.

import { may } from './access.js';
import { api } from './api.js';
import { ask } from './dialogs.js';
import { h, icon } from './dom.js';
import { count, many, moment } from './format.js';

const RULES = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly'];
const UNITS = { s: 'second', m: 'minute', h: 'hour', d: 'day', w: 'week' };

/** `every hour`, `every 15 minutes`. */
function pace(every) {
  const [, number, unit] = /^(\d+)(\w)$/.exec(every) ?? [];
  if (!UNITS[unit]) return `every ${every}`;
  return number === '1' ? `every ${UNITS[unit]}` : `every ${number} ${UNITS[unit]}s`;
}

const kept = (keep) => `keeps ${RULES.filter((rule) => keep[rule]).map((rule) => (rule === 'last' ? `the last ${keep.last}` : `${keep[rule]} ${rule}`)).join(', ')}`;

const facts = (one) => [
  pace(one.every),
  kept(one.keep),
  one.next_at ? `next ${moment(one.next_at)}` : 'waits for a clock',
  `${many(one.snapshots, 'snapshot')} there`,
].join(' · ');

export function schedules(state) {
  const { schedules: all, volumes } = state;
  const title = h('h1', { tabindex: '-1' }, 'Schedules');
  if (!all || !volumes) return [title, h('p.quiet', {}, state.problem ?? 'Asking the appliance …')];
  const without = volumes.filter(({ name }) => !all.some((one) => one.volume === name));
  return [
    h('header.head.row', {},
      h('div', {}, title, h('p.quiet', {}, `${count(all.length)} of ${many(volumes.length, 'volume')} ${all.length === 1 ? 'has' : 'have'} one`)),
      may(state, 'operator') && without.length > 0
        && h('button.primary', { type: 'button', onclick: () => edit(state, null, without.map(({ name }) => name)) }, icon('add'), 'New schedule')),
    all.length === 0
      ? h('div.empty', {}, h('p', {}, 'There is no schedule yet.'),
        h('p.quiet', {}, 'A schedule takes snapshots of a volume by the clock, and deletes those of its own that no rule wants any more. It never touches what people made.'))
      : h('ul.items', {}, all.map((one) => h('li', { 'data-key': one.volume },
        h('header', {},
          h('h2', {}, h('a.name', { href: `#/volumes/${one.volume}` }, one.volume)),
          one.problem && h('span.state.bad', {}, 'does not do what it should'),
          buttons(state, one)),
        h('p.quiet', {}, facts(one)),
        one.problem && h('p.error', {}, one.problem)))),
  ];
}

/** The part of a volume's page that is about its schedule. */
export function scheduleOf(state, volume) {
  if (state.schedule?.of !== volume) return null;
  const { one } = state.schedule;
  return h('section', { 'aria-labelledby': 'schedule' },
    h('header.bar-head', {},
      h('h2', { id: 'schedule' }, 'Schedule'),
      one ? buttons(state, one)
        : may(state, 'operator') && h('button', { type: 'button', onclick: () => edit(state, null, [volume]) }, 'Set a schedule')),
    h('p.quiet', {}, one ? facts(one) : 'Snapshots of it are made only by hand.'),
    one?.problem && h('p.error', {}, one.problem));
}

const buttons = (state, one) => may(state, 'operator') && h('div.actions', { role: 'group', 'aria-label': `Schedule of ${one.volume}` },
  h('button', { type: 'button', onclick: () => edit(state, one, [one.volume]) }, 'Edit'),
  h('button.danger', { type: 'button', onclick: () => remove(state, one) }, 'Delete'));

/** Asks for the schedule of one of `volumes`, which begins as `one`. */
function edit({ actions }, one, volumes) {
  const isNew = one === null;
  const keep = one?.keep ?? { hourly: 24, daily: 7, weekly: 4 };
  ask({
    title: volumes.length > 1 ? 'New schedule' : `Schedule of ${volumes[0]}`,
    action: isNew ? 'Set' : 'Save',
    fields: [
      volumes.length > 1 && { name: 'volume', label: 'Volume', options: volumes.map((name) => [name, name]) },
      {
        name: 'every', label: 'Every', mono: true, required: true, value: one?.every ?? '1h', placeholder: '1h',
        hint: 'A number and one of s, m, h, d, w, like 15m or 1d. Snapshots fall on round times (UTC).',
      },
      ...RULES.map((rule) => ({
        name: `keep.${rule}`, also: rule === 'last' ? 'keep' : undefined, group: 'How many stay',
        label: rule, inputmode: 'numeric', value: keep[rule] || '',
      })),
    ].filter(Boolean),
    submit: async (values) => {
      const volume = values.volume ?? volumes[0];
      const wanted = {};
      for (const rule of RULES) {
        const text = values[`keep.${rule}`];
        // What is no number is sent as it is, and the API says what it should be.
        if (text !== '') wanted[rule] = /^\d+$/.test(text) ? Number(text) : text;
      }
      await api.setSchedule(volume, { every: values.every, keep: wanted });
      await actions.refresh();
      return volume;
    },
    done: (volume) => `The schedule of ${volume} is set.`,
  });
}

function remove({ actions }, one) {
  ask({
    title: `Delete the schedule of ${one.volume}?`,
    action: 'Delete the schedule',
    danger: true,
    intro: h('p', {}, 'No further snapshots are made by it. ',
      one.snapshots > 0 ? `The ${many(one.snapshots, 'snapshot')} that it made stay.` : 'There are none that it made.'),
    fields: [],
    submit: async () => {
      await api.deleteSchedule(one.volume);
      await actions.refresh();
    },
    done: `The schedule of ${one.volume} is deleted.`,
  });
}
