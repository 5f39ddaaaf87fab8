// Line charts of the last minutes: SVG without text, stretched to its box, with the words around it as HTML.
//
// All charts share one cursor, so that pointing at a moment in one tells what the others were then.

import { h } from './dom.js';
import { clock } from './format.js';
import { INTERVAL_MS, SAMPLES } from './live.js';

const HEIGHT = 100;

/** The moment that is looked at: samples back from now, or `null`. */
let cursor = null;
let redraw = () => {};

/** Says what to call when another moment is looked at. */
export function onCursor(callback) {
  redraw = callback;
}

export function clearCursor() {
  cursor = null;
}

function look(back) {
  const next = back === null ? null : Math.max(0, Math.min(SAMPLES - 1, back));
  if (next !== cursor) {
    cursor = next;
    redraw();
  }
}

/** The least of 1, 2, 5, 10, … times a power of `base` (1024 for bytes) that is at least `value`. */
function ceiling(value, base) {
  if (value <= 0) return 1;
  const power = base ** Math.floor(Math.log(value) / Math.log(base));
  const steps = base === 10 ? [1, 2, 5, 10] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  return power * steps.find((step) => step * power >= value * 0.999);
}

/**
 * A chart.
 *
 * `lines` are `{name, label, dashed?, area?, values}`, the values oldest first, `null` where there is none; the newest is at the right.
 * `base` is what round numbers of its unit are powers of, `least` the lowest top of the scale.
 */
export function chart({ title, lines, times, format, base = 10, least = 1 }) {
  const filled = times.length;
  // Samples are where their time is: a page that was asleep has a gap.
  const x = (index) => round(SAMPLES - 1 - (times.at(-1) - times[index]) / INTERVAL_MS);
  const top = ceiling(Math.max(least, ...lines.flatMap((line) => line.values.filter((v) => v !== null))), base);
  const y = (value) => round(HEIGHT - (value / top) * HEIGHT);
  const shown = cursor === null ? filled - 1 : nearest(times, times.at(-1) - cursor * INTERVAL_MS);
  const told = (line) => format(line.values[shown] ?? null);
  const when = cursor === null ? 'now' : times[shown] ? clock(new Date(times[shown])) : '–';
  const words = `${when}: ${lines.map((line) => `${line.label} ${told(line)}`).join(', ')}`;
  return h('figure.chart', {},
    h('figcaption', {},
      h('h3', {}, title),
      h('span.when', {}, cursor === null ? '' : when),
      h('dl.readout', {}, lines.map((line) => h('div', {},
        h('dt', { class: `key ${line.name}` }, line.label),
        h('dd', {}, told(line)))))),
    h('div.plot', {
      role: 'slider',
      tabindex: '0',
      'aria-label': `${title}, last ${Math.round((SAMPLES * INTERVAL_MS) / 60_000)} minutes`,
      'aria-orientation': 'horizontal',
      'aria-valuemin': 1 - SAMPLES,
      'aria-valuemax': 0,
      'aria-valuenow': -(cursor ?? 0),
      'aria-valuetext': words,
      onpointermove: pointed,
      onpointerleave: () => look(null),
      onblur: () => look(null),
      onkeydown: pressed,
    },
    h('svg', { viewBox: `0 0 ${SAMPLES - 1} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
      [0, 0.5].map((share) => h('line.grid', { x1: 0, x2: SAMPLES - 1, y1: HEIGHT * share, y2: HEIGHT * share })),
      lines.filter((line) => line.area).map((line) => h('path', { class: `area ${line.name}`, d: area(line.values, times, x, y) })),
      lines.map((line) => h('path', {
        class: `line ${line.name}${line.dashed ? ' dashed' : ''}`,
        d: path(line.values, times, x, y),
      })),
      cursor !== null && filled > 0 && h('line.cursor', { x1: x(shown), x2: x(shown), y1: 0, y2: HEIGHT })),
    h('span.scale.top', { 'aria-hidden': 'true' }, format(top)),
    h('span.scale.middle', { 'aria-hidden': 'true' }, format(top / 2))),
    h('div.axis', { 'aria-hidden': 'true' }, axis()));
}

function axis() {
  const minutes = Math.round((SAMPLES * INTERVAL_MS) / 60_000);
  const marks = Array.from({ length: minutes }, (_, index) => `−${minutes - index}${index === 0 ? ' min' : ''}`);
  return [...marks, 'now'].map((mark) => h('span', {}, mark));
}

function pointed(event) {
  const box = event.currentTarget.getBoundingClientRect();
  look(Math.round((1 - (event.clientX - box.left) / box.width) * (SAMPLES - 1)));
}

function pressed(event) {
  const now = cursor ?? 0;
  const steps = {
    ArrowLeft: now + 1, ArrowDown: now + 1, ArrowRight: now - 1, ArrowUp: now - 1,
    PageUp: now - 15, PageDown: now + 15, Home: SAMPLES - 1, End: 0, Escape: null,
  };
  if (!(event.key in steps)) return;
  event.preventDefault();
  look(steps[event.key]);
}

const round = (value) => Math.round(value * 100) / 100;

/** The sample of about that time. */
function nearest(times, wanted) {
  return times.reduce((best, time, index) => (Math.abs(time - wanted) < Math.abs(times[best] - wanted) ? index : best), 0);
}

/** The values as stretches without gaps: `[[index, value], …]`. */
function stretches(values, times) {
  const found = [];
  let open = null;
  values.forEach((value, index) => {
    if (value === null || value === undefined) {
      open = null;
    } else if (open && times[index] - times[index - 1] < 3 * INTERVAL_MS) {
      open.push([index, value]);
    } else {
      open = [[index, value]];
      found.push(open);
    }
  });
  return found;
}

function path(values, times, x, y) {
  const one = (points) => {
    // A sample alone is seen, too.
    const [first] = points;
    const dot = points.length === 1 ? 'h.6' : '';
    return `M${x(first[0])} ${y(first[1])}${dot}${points.slice(1).map(([at, value]) => `L${x(at)} ${y(value)}`).join('')}`;
  };
  return stretches(values, times).map(one).join('');
}

function area(values, times, x, y) {
  const one = (points) => {
    const line = points.map(([at, value]) => `L${x(at)} ${y(value)}`).join('');
    return `M${x(points[0][0])} ${HEIGHT}${line}L${x(points.at(-1)[0])} ${HEIGHT}Z`;
  };
  return stretches(values, times).map(one).join('');
}

/** A line without scale, for a row of a table. */
export function spark(values, times) {
  const top = Math.max(1, ...values);
  const x = (index) => round(SAMPLES - 1 - (times.at(-1) - times[index]) / INTERVAL_MS);
  const y = (value) => round(23 - (value / top) * 21);
  return h('svg.spark', { viewBox: `0 0 ${SAMPLES - 1} 24`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    h('path', { class: 'line read', d: path(values, times, x, y) }));
}

/** How much of a whole is what: a bar and its legend. `parts` are `{name, label, bytes}`. */
export function bar(parts, total, format, label) {
  return h('div.bar', { role: 'img', 'aria-label': label ?? parts.map((part) => `${part.label} ${format(part.bytes)}`).join(', ') },
    parts.map((part) => h('span', {
      class: part.name,
      'width%': total > 0 ? Math.max(part.bytes > 0 ? 0.4 : 0, (100 * part.bytes) / total) : 0,
    })));
}
