// Drives, jobs, and the log.

import { may } from './access.js';
import { api } from './api.js';
import { ask, tell } from './dialogs.js';
import { h } from './dom.js';
import { count, duration, many, moment, percent, rate, size } from './format.js';
import { journey, limit } from './move.js';
import { use } from './volumes.js';

const waiting = (title, problem) => [h('h1', { tabindex: '-1' }, title), h('p.quiet', {}, problem ?? 'Asking the appliance …')];

const DRIVE_STATES = {
  serving: ['good', 'serving'],
  failing: ['bad', 'failing'],
  blank: ['', 'blank'],
  foreign: ['warn', 'holds something else'],
  failed: ['bad', 'failed'],
};

export function drives(state) {
  const all = state.drives;
  if (!all) return waiting('Drives', state.problem);
  const isMember = (drive) => ['serving', 'failing'].includes(drive.state);
  const serving = all.filter(isMember);
  return [
    h('header.head', {},
      h('h1', { tabindex: '-1' }, 'Drives'),
      h('p.quiet', {}, `${many(all.length, 'drive')}, ${serving.length} in the pool`)),
    h('ul.drives', {}, all.map((drive) => {
      const [mood, word] = DRIVE_STATES[drive.state] ?? ['', drive.state];
      return h('li', { 'data-key': drive.id },
        h('header', {},
          h('h2.mono', {}, drive.id),
          h('span', { class: `state ${mood}` }, word),
          drive.state === 'foreign' && may(state, 'admin') && h('button.danger', { type: 'button', onclick: () => format(state, drive) }, 'Make blank')),
        drive.detail && h('p', {}, drive.detail),
        isMember(drive) && h('div.use', {}, use(drive.used, drive.size)),
        h('dl.facts', {},
          [['Model', drive.model], ['Serial', drive.serial], ['Slot', drive.slot], ['Size', size(drive.size)], ['Errors', count(drive.errors)]]
            .map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))));
    })),
  ];
}

function format({ actions }, drive) {
  ask({
    title: `Give up what ${drive.id} holds?`,
    action: 'Make blank',
    danger: true,
    intro: h('p', {}, `${drive.model}, ${size(drive.size)}: ${drive.detail ?? 'holds something that is no part of the pool'}. That will be gone for good.`),
    fields: [{ name: 'confirm', label: `Type its serial number, “${drive.serial}”, to confirm`, mono: true, required: true }],
    submit: async ({ confirm }) => {
      await api.formatDrive(drive.id, confirm);
      await actions.refresh();
    },
    done: `Drive ${drive.id} is blank.`,
  });
}

const JOB_STATES = { failed: 'bad', done: 'good', running: 'busy', paused: 'warn' };

export function jobs(state) {
  const all = state.jobs;
  if (!all) return waiting('Jobs', state.problem);
  const isActive = (job) => ['queued', 'running', 'paused'].includes(job.state);
  const active = all.filter(isActive);
  return [
    h('header.head.row', {},
      h('div', {},
        h('h1', { tabindex: '-1' }, 'Jobs'),
        h('p.quiet', {}, active.length > 0 ? `${active.length} under way` : 'Nothing is under way')),
      may(state, 'operator') && !active.some((job) => job.kind === 'scrub') && h('button', { type: 'button', onclick: () => act(state, api.scrub()) }, 'Start a scrub')),
    all.length === 0
      ? h('div.empty', {}, h('p', {}, 'There was no job yet.'),
        h('p.quiet', {}, 'A scrub reads every block in use and verifies it. It yields to clients, and goes on after a restart.'))
      : h('ul.items', {}, [...all].reverse().map((job) => jobItem(state, job, isActive(job)))),
  ];
}

function jobItem(state, job, isActive) {
  const { result } = job;
  const name = `${job.kind} ${job.id}`;
  const way = journey(job);
  // What is handed over cannot be cancelled any more; it can be taken back.
  const isOver = result?.phase === 'following' || result?.phase === 'giving';
  const end = job.state === 'paused' ? 'running' : 'paused';
  return h('li', { 'data-key': String(job.id) },
    h('header', {},
      h('h2', {}, `${way?.title ?? 'Scrub'} `, h('span.quiet', {}, `#${job.id}`)),
      h('span', { class: `state ${JOB_STATES[job.state] ?? ''}` }, job.state),
      isActive && may(state, 'operator') && h('div.actions', { role: 'group', 'aria-label': name },
        h('button', { type: 'button', onclick: () => act(state, api.changeJob(job.id, { state: end })) },
          job.state === 'paused' ? 'Resume' : 'Pause'),
        h('button', { type: 'button', onclick: () => limit(state, job) }, 'Rate'),
        !isOver && h('button.danger', { type: 'button', onclick: () => cancel(state, job) }, 'Cancel'))),
    isActive && h('progress', { max: 1, value: job.progress, 'data-progress': job.progress, 'aria-label': name }),
    h('p.quiet', {},
      [
        isActive ? percent(job.progress) : null,
        job.rate_max && `at most ${rate(job.rate_max)}`,
        `${size(job.done)} done`,
        job.rate !== null && rate(job.rate),
        job.time_left_ms !== null && isActive && `${duration(job.time_left_ms)} left`,
        job.ended_at ? `ended ${moment(job.ended_at)}` : job.created_at && `since ${moment(job.created_at)}`,
      ].filter(Boolean).join(' · ')),
    way && h('p', {}, way.phase && h('b', {}, `${way.phase}: `), way.facts,
      job.volume && [' · ', h('a', { href: `#/volumes/${job.volume}` }, 'the volume')]),
    job.error && h('p.error', {}, job.error),
    result?.blocks !== undefined && (job.state === 'done' || result.damaged_blocks > 0) && h('p', {},
      `${count(result.blocks)} blocks verified, `,
      result.damaged_blocks > 0 ? h('strong.bad', {}, `${many(result.damaged_blocks, 'damaged block')}`) : 'all of them sound',
      '.'),
    result?.damaged?.length > 0 && h('ul.damage', {}, result.damaged.map((place) => h('li', {},
      h('code', {}, place.snapshot ? `${place.volume}@${place.snapshot}` : place.volume),
      ` at ${size(place.offset)}, ${size(place.length)}`)),
    result.damaged_more > 0 && h('li', {}, `and ${count(result.damaged_more)} more places`)));
}

function cancel(state, job) {
  if (job.kind !== 'hydrate') {
    act(state, api.cancelJob(job.id));
    return;
  }
  ask({
    title: `Cancel job ${job.id}?`,
    action: 'Cancel the job',
    danger: true,
    intro: h('p', {}, 'Nothing brings in the rest any more, for good: what clients read still comes, so the origin is needed as long as the volume is.'),
    fields: [],
    submit: async () => {
      await api.cancelJob(job.id);
      await state.actions.refresh();
    },
    done: `Job ${job.id} is cancelled.`,
  });
}

/** Waits for what was asked, and says if it was not done. */
async function act({ actions }, request) {
  try {
    await request;
  } catch (problem) {
    tell(problem.message, true);
  }
  await actions.refresh();
}

const LOG_LINE = /^\[\s*([\d.]+)\]\s+(\w+)\s+([^:]+):\s*(.*)$/;
const LEVELS = ['error', 'warn', 'info', 'debug', 'trace'];

export function log(state) {
  const { lines, wanted } = state.log;
  if (!lines) return waiting('Log', state.problem);
  const parsed = lines.map((line) => {
    const match = LOG_LINE.exec(line);
    return match
      ? { at: match[1], level: match[2], module: match[3], text: match[4] }
      : { at: '', level: 'info', module: '', text: line };
  });
  const text = wanted.text.toLowerCase();
  const least = LEVELS.indexOf(wanted.level);
  const shown = parsed.filter((line) => LEVELS.indexOf(line.level) <= least
    && (!text || `${line.module}: ${line.text}`.toLowerCase().includes(text)));
  return [
    h('header.head.row', {},
      h('div', {},
        h('h1', { tabindex: '-1' }, 'Log'),
        h('p.quiet', {}, `${shown.length === parsed.length ? 'The last' : `${shown.length} of the last`} ${many(parsed.length, 'line')}; times are seconds since start`)),
      h('div.filters', { role: 'search' },
        h('label', {}, h('span.visually-hidden', {}, 'Only lines with'),
          h('input', { type: 'search', placeholder: 'Only lines with …', value: wanted.text, oninput: (event) => state.actions.filterLog({ text: event.target.value }) })),
        h('label', {}, h('span.visually-hidden', {}, 'Least important level'),
          h('select', { onchange: (event) => state.actions.filterLog({ level: event.target.value }) },
            LEVELS.slice(0, 4).map((level) => h('option', { value: level, selected: level === wanted.level },
              level === 'error' ? 'errors only' : `${level} and above`)))))),
    h('div.log', { tabindex: '0', role: 'log', 'aria-label': 'Log lines', 'aria-live': 'off', 'data-bottom': 'true' },
      shown.length === 0
        ? h('p.quiet', {}, 'No such line.')
        : shown.map((line) => h('div', { class: `entry ${line.level}` },
          h('span.at', {}, line.at), h('span.level', {}, line.level), h('span.module', {}, line.module), h('span.text', {}, line.text)))),
  ];
}
