// Figures as people read them.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Three digits at most, and no zeros for show. */
function short(value) {
  const digits = value >= 100 || Number.isInteger(value) ? 0 : value >= 10 ? 1 : 2;
  return value.toLocaleString('en', { maximumFractionDigits: digits });
}

/** `1.5 GiB`. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return '–';
  let unit = 0;
  let value = bytes;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${short(value)} ${UNITS[unit]}`;
}

/** Bytes of `10 GiB`, `10g`, `1.5t`, `4096`; `null` if it is no size. */
export function parseSize(text) {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(?:([kmgtp]?)(?:i?b)?)\s*$/i.exec(text);
  if (!match) return null;
  const power = match[2] ? 'kmgtp'.indexOf(match[2].toLowerCase()) + 1 : 0;
  return Math.round(Number(match[1]) * 1024 ** power);
}

export const rate = (bytes) => (bytes === null ? '–' : `${size(bytes)}/s`);

/** `12,400`, `3.2`. */
export const count = (value) => (value === null || value === undefined ? '–' : short(value));

export const percent = (share) => `${share > 0 && share < 0.01 ? '<1' : Math.round(share * 100)} %`;

/** `85 µs`, `1.2 ms`. The appliance does not measure what it answers without waiting for anything. */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  if (seconds === 0) return 'at once';
  if (seconds < 0.001) return `${short(seconds * 1e6)} µs`;
  return seconds < 1 ? `${short(seconds * 1e3)} ms` : `${short(seconds)} s`;
}

/** `3 d 4 h`, `12 s`. */
export function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  const parts = [
    [Math.floor(seconds / 86400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'min'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return '0 s';
  const shown = parts.slice(first, first + 2).filter(([value]) => value > 0);
  return shown.map(([value, unit]) => `${value} ${unit}`).join(' ');
}

/** A moment of the API, in the reader's own time: `today 14:05:09`, `21 Nov 14:05`. */
export function moment(text) {
  if (!text) return '–';
  const date = new Date(text);
  const now = new Date();
  const day = date.toDateString() === now.toDateString()
    ? 'today'
    : date.toLocaleDateString('en-GB', {
      day: 'numeric', month: 'short', year: date.getFullYear() === now.getFullYear() ? undefined : 'numeric',
    });
  return `${day} ${day === 'today' ? clock(date) : clock(date).slice(0, 5)}`;
}

export const clock = (date) => date.toLocaleTimeString('en-GB');

/** `1 snapshot`, `3 snapshots`. */
export const many = (number, what) => `${count(number)} ${what}${number === 1 ? '' : 's'}`;
