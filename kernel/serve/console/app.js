// The console: who is logged in, which view is shown, and how it is kept up to date.

import { audit, AUDIT_FEW, may, tokens } from './access.js';
import { api, session } from './api.js';
import { clearCursor, onCursor } from './charts.js';
import { form } from './dialogs.js';
import { h, icon, update } from './dom.js';
import { duration } from './format.js';
import { History, INTERVAL_MS } from './live.js';
import { drives, jobs, log } from './machine.js';
import { overview, troubles } from './overview.js';
import { peers } from './peers.js';
import { schedules } from './schedules.js';
import { detail, list } from './volumes.js';

const LOG_LINES = 500;
/** Snapshots whose own space is asked for; each is a question of its own. */
const USAGES = 12;
const USAGE_MS = 30_000;

/** Those `under` another one are reached from there; `needs` is the role that sees them. */
const VIEWS = [
  { path: '/', name: 'overview', title: 'Overview' },
  { path: '/volumes', name: 'volumes', title: 'Volumes' },
  { path: '/schedules', name: 'schedules', title: 'Schedules', under: 'volumes' },
  { path: '/peers', name: 'peers', title: 'Peers', under: 'volumes' },
  { path: '/drives', name: 'drives', title: 'Drives' },
  { path: '/jobs', name: 'jobs', title: 'Jobs' },
  { path: '/log', name: 'log', title: 'Log' },
  { path: '/audit', name: 'audit', title: 'Changes', under: 'log', needs: 'operator' },
  { path: '/tokens', name: 'tokens', title: 'Tokens', needs: 'admin' },
];

const app = document.getElementById('app');
let state = null;

function blank() {
  return {
    history: new History(), who: null, node: null, volumes: null, volume: null, snapshots: null, schedule: null, drives: null, jobs: null,
    schedules: null, peers: null, tokens: null, audit: null, auditWanted: { text: '', limit: AUDIT_FEW },
    log: { lines: null, wanted: { text: '', level: 'debug' } },
    only: null, problem: null, metricsProblem: null, silent: false, actions,
  };
}

const actions = {
  refresh: () => refresh(),
  go: (path) => { location.hash = path; },
  showOnly: (volume) => { state.only = volume; draw(); },
  filterAudit: (change) => {
    Object.assign(state.auditWanted, change);
    draw();
    if (change.limit) refresh();
  },
  filterLog: (change) => { Object.assign(state.log.wanted, change); draw(); },
};

/** `/volumes/db` as its view and name. */
function route() {
  const path = location.hash.slice(1) || '/';
  const [, first = '', second] = path.split('/');
  const view = VIEWS.find((one) => one.path === `/${first}`) ?? VIEWS[0];
  return { view, name: view.name === 'volumes' && second ? decodeURIComponent(second) : null };
}

function logIn(message) {
  state = null;
  document.title = 'Ferrite';
  const { element, first } = form({
    action: 'Log in',
    fields: [{
      name: 'token', label: 'Token', type: 'password', mono: true, required: true, autocomplete: 'current-password',
      hint: 'The appliance was started with one, or somebody with the role admin made one for you. It is forgotten when this tab is closed.',
    }],
    submit: async ({ token }) => {
      try {
        await api.check(token);
      } catch (problem) {
        if (problem.status === 401 && !problem.message.includes('try again')) problem.message = 'The appliance does not know this token.';
        if (problem.status === 401) problem.field = 'token';
        throw problem;
      }
      session.token = token;
      begin();
    },
  });
  app.replaceChildren(h('main.login', {},
    brand(), h('h1.visually-hidden', {}, 'Log in'), message && h('p.error', { role: 'alert' }, message), element));
  first.focus();
}

function brand() {
  return h('div.brand', {},
    h('svg', { viewBox: '0 0 32 32', 'aria-hidden': 'true' },
      h('rect', { width: 32, height: 32, rx: 7 }), h('path', { d: 'M10 25V7h13M10 16h10' }), h('circle', { cx: 23, cy: 24, r: 2.6 })),
    h('span', {}, 'ferrite'));
}

function leave(message) {
  session.token = null;
  clearCursor();
  for (const dialog of document.querySelectorAll('dialog')) dialog.close();
  logIn(message);
}

session.onEnd = () => state && leave('The appliance does not know this token any more.');

function begin() {
  state = blank();
  app.replaceChildren();
  draw();
  refresh();
  sample();
}

/** Rounds of questions that were begun, that are not answered yet, and the youngest one that was. */
let begun = 0;
let underWay = 0;
let answered = 0;

/** Asks for what the present view shows. */
async function refresh() {
  const mine = state;
  const round = (begun += 1);
  const { view, name } = route();
  const ask = [['node', api.node], ['volumes', api.volumes], ['jobs', api.jobs]];
  if (!mine.who) ask.push(['who', api.whoami]);
  if (view.name === 'schedules') ask.push(['schedules', api.schedules]);
  if (view.name === 'peers') ask.push(['peers', api.peers]);
  if (view.name === 'tokens') ask.push(['tokens', api.tokens]);
  if (view.name === 'audit') ask.push(['audit', () => api.audit(mine.auditWanted.limit)]);
  if (view.name === 'drives') ask.push(['drives', api.drives]);
  if (view.name === 'log') ask.push(['lines', () => api.log(LOG_LINES)]);
  if (name) {
    ask.push(['volume', () => api.volume(name)], ['list', () => api.snapshots(name)]);
    ask.push(['schedule', async () => ({ of: name, one: await api.schedule(name) })]);
  }
  underWay += 1;
  const answers = await Promise.allSettled(ask.map(([, call]) => call()));
  underWay -= 1;
  // Who was slow does not overwrite what came after.
  if (!mine || state !== mine || round < answered) return;
  answered = round;
  mine.problem = null;
  mine.silent = answers.every(({ reason }) => reason?.status === 0);
  answers.forEach(({ status, value, reason }, index) => {
    const what = ask[index][0];
    if (status === 'rejected') {
      if (!(name && reason.status === 404)) mine.problem = reason.message;
      if (reason.status === 404 && what === 'volume') mine.volume = null;
    } else if (what === 'lines') {
      mine.log.lines = value;
    } else if (what === 'list') {
      mine.snapshots = { of: name, list: value.map((one) => ({ ...one, unique: usages.get(one.uuid)?.unique })) };
      learnUsages(mine, name, value);
    } else {
      mine[what] = value;
    }
  });
  draw();
}

/** What snapshots use of their own, by UUID, and when that was. */
const usages = new Map();

/** Asks what the newest snapshots use of their own, which lists do not tell. */
async function learnUsages(mine, volume, snapshots) {
  for (const { name, uuid } of snapshots.slice(-USAGES).reverse()) {
    if (Date.now() - (usages.get(uuid)?.at ?? 0) < USAGE_MS) continue;
    usages.set(uuid, { ...usages.get(uuid), at: Date.now() });
    const { unique } = await api.snapshot(volume, name).catch(() => ({}));
    usages.set(uuid, { unique, at: Date.now() });
    const shown = mine.snapshots?.list.find((one) => one.uuid === uuid);
    if (shown && state === mine) {
      shown.unique = unique;
      draw();
    }
  }
}

/** Takes a sample of the live numbers. */
async function sample() {
  const mine = state;
  try {
    const text = await api.metrics();
    if (state !== mine) return;
    mine.history.take(text, performance.timeOrigin + performance.now());
    mine.metricsProblem = null;
  } catch (problem) {
    if (!mine) return;
    mine.metricsProblem = problem.message;
  }
  if (state === mine && mine) draw();
}

function draw() {
  if (!state) return;
  const { view, name } = route();
  const views = { overview, volumes: name ? (all) => detail(all, name) : list, schedules, peers, drives, jobs, log, audit, tokens };
  const shown = name ? `volume ${name}` : view.name;
  const isNew = app.dataset.view !== shown;
  const logBox = app.querySelector('.log');
  const atBottom = !logBox || logBox.scrollHeight - logBox.scrollTop - logBox.clientHeight < 40;
  document.title = `${name ?? view.title} – ${state.node?.name ?? 'Ferrite'}`;
  app.dataset.view = shown;
  update(app, h('div.shell', {}, side(view),
    h('main', { id: 'main', 'data-key': shown }, state.silent && h('p.silence', { role: 'alert' },
      icon('warning'), 'The appliance does not answer. What is shown is what it said last; it is asked again every few seconds.'),
    !name && tabs(view), views[view.name](state))));
  for (const bar of app.querySelectorAll('progress')) bar.value = Number(bar.dataset.progress);
  const box = app.querySelector('.log');
  if (box && (isNew || atBottom)) box.scrollTop = box.scrollHeight;
}

/** The views that belong together with this one. */
function tabs(view) {
  const group = view.under ?? view.name;
  const all = VIEWS.filter((one) => (one.under ?? one.name) === group && may(state, one.needs));
  return all.length > 1 && h('nav.tabs', { 'aria-label': 'In this part' }, all.map((one) => h('a',
    { href: `#${one.path}`, 'aria-current': one === view ? 'page' : null }, one.title)));
}

function side(view) {
  const { node } = state;
  const active = state.jobs?.filter((job) => job.state === 'running').length ?? 0;
  const bad = node ? troubles(state) : [];
  const badge = {
    overview: bad.length > 0 && h('span', { class: `badge ${bad.some((one) => one.bad) ? 'bad' : 'warn'}` }, bad.length,
      h('span.visually-hidden', {}, ' to look at')),
    jobs: active > 0 && h('span.badge', {}, active, h('span.visually-hidden', {}, ' running')),
  };
  return h('div.side', {},
    h('a.skip', { href: '#main', onclick: skip }, 'Skip to the content'),
    h('header', {}, brand(), h('p.node', { title: node?.name }, node?.name ?? ' ')),
    h('nav', { 'aria-label': 'Console' }, h('ul', {}, VIEWS.filter((one) => !one.under && may(state, one.needs)).map((one) => h('li', {},
      h('a', { href: `#${one.path}`, 'aria-current': one === view ? 'page' : one.name === view.under ? 'true' : null },
        icon(one.name), h('span', {}, one.title), badge[one.name]))))),
    h('footer', {},
      state.who && h('p.quiet.who', {}, `${state.who.name}, ${state.who.role}`),
      node && h('p.quiet', {}, `version ${node.version}`, h('br'), `up ${duration(node.uptime_ms)}`),
      h('button.quiet', { type: 'button', 'aria-label': 'Log out', onclick: () => leave() }, icon('out'), h('span', {}, 'Log out'))));
}

function skip(event) {
  event.preventDefault();
  document.querySelector('main h1')?.focus();
}

addEventListener('hashchange', () => {
  if (!state) return;
  clearCursor();
  draw();
  scrollTo(0, 0);
  // Where one is now is told to who cannot see it; a dialog that closes gives the focus back by itself.
  if (!document.querySelector('dialog')) document.querySelector('main h1')?.focus({ preventScroll: true });
  refresh();
});

onCursor(draw);

let ticks = 0;
setInterval(() => {
  if (!state) return;
  sample();
  ticks += 1;
  const { view } = route();
  const isDue = view.name === 'log' || view.name === 'jobs' || ticks % 2 === 0;
  if (isDue && !document.hidden && underWay === 0) refresh();
}, INTERVAL_MS);
document.addEventListener('visibilitychange', () => {
  if (state && !document.hidden) refresh();
});

if (session.token) begin();
else logIn();
