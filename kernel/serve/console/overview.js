// Overview: is everything well, how full is it, and what goes on right now.

import { bar, chart, spark } from './charts.js';
import { h, icon } from './dom.js';
import { count, duration, latency, many, percent, rate, size } from './format.js';
import { keptBy } from './move.js';

/** What is not as it should be, most urgent first: `{bad, text, more, link}`. */
export function troubles({ node, jobs, volumes }) {
  const found = [];
  const add = (bad, text, more, link) => found.push({ bad, text, more, link });
  const { pool, drives } = node;
  if (node.crash) add(false, 'The run before this one ended in a crash.', node.crash.split('\n')[0], '#/log');
  if (!pool) add(true, 'There is no pool.', 'Nothing can be served until its drives are there.', '#/drives');
  if (pool?.state === 'read-only') add(true, 'The pool takes no writes.', pool.reason, '#/log');
  for (const drive of drives) {
    if (drive.state === 'failing') add(true, `Drive ${drive.id} is failing.`, 'It answers, but with errors.', '#/drives');
    if (drive.state === 'failed') add(true, `Drive ${drive.id} failed.`, 'Reads and writes that need it fail.', '#/drives');
  }
  if (pool) {
    const free = `${size(pool.writable)} of ${size(pool.size)} can still be written.`;
    if (pool.fullness === 'full') add(true, 'The pool is full.', 'Writes fail until something is deleted or discarded.', '#/volumes');
    if (pool.fullness === 'critical') add(true, 'The pool is almost full.', free, '#/volumes');
    if (pool.fullness === 'low') add(false, 'Space is getting low.', free, '#/volumes');
    if (pool.damaged_reads > 0) {
      add(true, `${many(pool.damaged_reads, 'block')} could not be read.`, 'A scrub tells which volumes they belong to.', '#/jobs');
    }
  }
  const damaged = jobs?.findLast((job) => job.kind === 'scrub' && job.state === 'done')?.result?.damaged_blocks ?? 0;
  if (damaged > 0) add(true, `The last scrub found ${many(damaged, 'damaged block')}.`, null, '#/jobs');
  for (const volume of volumes ?? []) {
    const reason = keptBy(volume);
    if (reason) add(false, `Volume ${volume.name} is held up.`, reason, `#/volumes/${volume.name}`);
  }
  return found;
}

export function overview(state) {
  const { node, volumes } = state;
  if (!node) return [h('h1', { tabindex: '-1' }, 'Overview'), h('p.quiet', {}, 'Asking the appliance …')];
  const found = troubles(state);
  const clients = volumes?.reduce((sum, volume) => sum + volume.clients, 0);
  return [
    h('header.head', {},
      h('h1.status', { tabindex: '-1', class: found.some((one) => one.bad) ? 'bad' : found.length > 0 ? 'warn' : 'good' },
        found[0]?.text ?? 'Everything is fine'),
      h('p.quiet', {},
        [
          volumes && many(volumes.length, 'volume'),
          clients !== undefined && `${many(clients, 'client')} attached`,
          many(node.drives.length, 'drive'),
          `up ${duration(node.uptime_ms)}`,
        ].filter(Boolean).join(' · '))),
    found.length > 0 && h('ul.troubles', {}, found.map((one) => h('li', { class: one.bad ? 'bad' : 'warn' },
      icon('warning'), h('a', { href: one.link }, one.text), one.more && h('span', {}, one.more)))),
    node.pool && capacity(node),
    charts(state),
    busiest(state),
  ];
}

function capacity({ pool, memory }) {
  // What is being freed counts as used, and what is kept back as free: these two are all there is.
  const parts = [
    { name: 'used', label: 'used', bytes: Math.max(0, pool.used - pool.pending) },
    { name: 'pending', label: 'being freed', bytes: pool.pending },
    { name: 'reserved', label: 'kept back', bytes: Math.max(0, pool.free - pool.writable) },
    { name: 'free', label: 'free to write', bytes: pool.writable },
  ];
  return h('section.capacity', { 'aria-labelledby': 'capacity' },
    h('h2', { id: 'capacity' }, 'Capacity'),
    h('p.figure', {}, h('strong', {}, size(pool.writable)), ` free of ${size(pool.size)}`,
      h('span.quiet', {}, ` · ${percent(pool.used / pool.size)} used`)),
    bar(parts, pool.size, size, `Pool: ${parts.map((part) => `${part.label} ${size(part.bytes)}`).join(', ')}`),
    h('ul.legend', {},
      parts.map((part) => h('li', {}, h('i', { class: part.name }), `${part.label} `, h('b', {}, size(part.bytes)))),
      h('li.apart', {}, 'memory ', h('b', {}, `${size(memory.total - memory.free)} of ${size(memory.total)}`))));
}

function charts({ history, only, volumes, actions, metricsProblem }) {
  const series = history.series(only);
  const times = series.map((one) => one.at);
  const of = (what, line) => series.map((one) => one[what][line]);
  const pair = (what) => [
    { name: 'read', label: 'read', values: of(what, 'read'), area: true },
    { name: 'write', label: 'write', values: of(what, 'write'), area: true },
  ];
  const time = [
    { name: 'read', label: 'read', values: of('latency', 'read') },
    { name: 'write', label: 'write', values: of('latency', 'write') },
    { name: 'slow', label: '99 % within', values: of('latency', 'slow'), dashed: true },
  ];
  return h('section', { 'aria-labelledby': 'activity' },
    h('header.bar-head', {},
      h('h2', { id: 'activity' }, 'Activity'),
      h('label.pick', {}, h('span', {}, 'of'),
        h('select', { onchange: (event) => actions.showOnly(event.target.value || null) },
          h('option', { value: '' }, 'all volumes'),
          volumes?.map((volume) => h('option', { value: volume.name, selected: volume.name === only }, volume.name))))),
    metricsProblem && h('p.error', {}, `No live numbers: ${metricsProblem}`),
    h('div.charts', {},
      chart({ title: 'Requests per second', lines: pair('iops'), times, format: count, least: 10 }),
      chart({ title: 'Throughput', lines: pair('throughput'), times, format: rate, base: 1024, least: 65536 }),
      chart({ title: 'Latency', lines: time, times, format: latency, least: 0.0001 })));
}

function busiest({ history, volumes }) {
  if (!volumes?.length) return null;
  const rows = volumes.map((volume) => ({ volume, now: history.latest(volume.name) }));
  const sum = ({ now }) => (now ? now.iops.read + now.iops.write : 0);
  rows.sort((a, b) => sum(b) - sum(a) || a.volume.name.localeCompare(b.volume.name));
  const line = (name) => {
    const series = history.series(name);
    return spark(series.map((one) => one.iops.read + one.iops.write), series.map((one) => one.at));
  };
  return h('section', { 'aria-labelledby': 'busiest' },
    h('h2', { id: 'busiest' }, 'By volume'),
    h('div.scroll', { tabindex: '0', role: 'group', 'aria-label': 'Requests by volume' },
      h('table', {},
        h('thead', {}, h('tr', {},
          h('th', { scope: 'col' }, 'Volume'),
          h('th.wide', { scope: 'col' }, 'Last 5 minutes'),
          ['Reads/s', 'Writes/s', 'Throughput', 'Read', 'Write'].map((title) => h('th.num', { scope: 'col' }, title)))),
        h('tbody', {}, rows.slice(0, 10).map(({ volume, now }) => h('tr', { 'data-key': volume.uuid },
          h('th', { scope: 'row' }, h('a.name', { href: `#/volumes/${volume.name}` }, volume.name)),
          h('td.wide', {}, line(volume.name)),
          h('td.num', {}, count(now?.iops.read)),
          h('td.num', {}, count(now?.iops.write)),
          h('td.num', {}, now ? rate(now.throughput.read + now.throughput.write) : '–'),
          h('td.num', {}, latency(now?.latency.read)),
          h('td.num', {}, latency(now?.latency.write))))))));
}
