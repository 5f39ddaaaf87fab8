// Live numbers: samples of /metrics, and what went on between two of them.

/** Samples that are kept, and the time between two. */
export const SAMPLES = 150;
export const INTERVAL_MS = 2000;

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: '\n' };

/** The samples of a text in Prometheus' format: `[{name, labels, value}]`. */
export function parseMetrics(text) {
  const found = [];
  for (const line of text.split('\n')) {
    const match = line[0] === '#' ? null : LINE.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? '').matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, char) => ESCAPES[char] ?? char);
    }
    found.push({ name: match[1], labels, value: match[3] === '+Inf' ? Infinity : Number(match[3]) });
  }
  return found;
}

const REQUESTS = 'ferrite_volume_request_duration_seconds';
const BYTES = 'ferrite_volume_bytes_total';

/** The counters of each volume: `{db: {read: {bytes, count, sum, buckets: [[limit, number]]}, write: …}}`. */
function counters(text) {
  const volumes = {};
  for (const { name, labels, value } of parseMetrics(text)) {
    const { volume, operation, le } = labels;
    if (!volume || !operation) continue;
    const volumeOf = (volumes[volume] ??= {});
    const of = (volumeOf[operation] ??= { bytes: 0, count: 0, sum: 0, buckets: [] });
    if (name === BYTES) of.bytes = value;
    else if (name === `${REQUESTS}_count`) of.count = value;
    else if (name === `${REQUESTS}_sum`) of.sum = value;
    else if (name === `${REQUESTS}_bucket`) of.buckets.push([le === '+Inf' ? Infinity : Number(le), value]);
  }
  return volumes;
}

const nothing = () => ({ bytes: 0, count: 0, sum: 0, buckets: [] });

/** What was counted from `a` to `b`; counters that begin anew (a restart) begin at zero. */
function difference(a, b) {
  const before = a && a.count <= b.count ? a : nothing();
  return {
    bytes: Math.max(0, b.bytes - before.bytes),
    count: b.count - before.count,
    sum: Math.max(0, b.sum - before.sum),
    buckets: b.buckets.map(([limit, number], index) => [limit, number - (before.buckets[index]?.[1] ?? 0)]),
  };
}

function add(into, more) {
  into.bytes += more.bytes;
  into.count += more.count;
  into.sum += more.sum;
  more.buckets.forEach(([limit, number], index) => {
    (into.buckets[index] ??= [limit, 0])[1] += number;
  });
}

/** The time within which a `share` of the requests was done, from a histogram; `null` without requests. */
function quantile(buckets, share) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total === 0) return null;
  const wanted = share * total;
  let below = [0, 0];
  for (const bucket of buckets) {
    if (bucket[1] >= wanted) {
      if (bucket[0] === Infinity) return below[0];
      const within = (wanted - below[1]) / (bucket[1] - below[1] || 1);
      return below[0] + (bucket[0] - below[0]) * within;
    }
    below = bucket;
  }
  return below[0];
}

/** The last minutes, sample by sample. */
export class History {
  #last = null;
  /** `{at, seconds, volumes: {name: {read, write, …}}}`, oldest first. */
  samples = [];

  /** Notes what /metrics said at `at` (ms). */
  take(text, at) {
    const volumes = counters(text);
    const last = this.#last;
    this.#last = { volumes, at };
    // What happened in a long silence is not what happened in its last seconds.
    if (!last || at <= last.at || at - last.at > 5 * INTERVAL_MS) return;
    const seconds = (at - last.at) / 1000;
    const sample = { at, seconds, volumes: {} };
    for (const [name, operations] of Object.entries(volumes)) {
      const changes = (sample.volumes[name] = {});
      for (const [operation, values] of Object.entries(operations)) {
        changes[operation] = difference(last.volumes[name]?.[operation], values);
      }
    }
    this.samples.push(sample);
    while (at - this.samples[0].at > SAMPLES * INTERVAL_MS) this.samples.shift();
  }

  /** One figure of each sample, for all volumes or the one called `volume`. */
  series(volume = null) {
    return this.samples.map((sample) => figures(sample, volume));
  }

  latest(volume = null) {
    return this.samples.length > 0 ? figures(this.samples.at(-1), volume) : null;
  }
}

/** Rates and latencies of one sample. */
function figures(sample, volume) {
  const sums = { read: nothing(), write: nothing(), all: nothing() };
  for (const [name, operations] of Object.entries(sample.volumes)) {
    if (volume !== null && name !== volume) continue;
    for (const [operation, values] of Object.entries(operations)) {
      if (sums[operation]) add(sums[operation], values);
      if (operation === 'read' || operation === 'write') add(sums.all, values);
    }
  }
  const mean = ({ sum, count }) => (count > 0 ? sum / count : null);
  const { read, write, all } = sums;
  return {
    at: sample.at,
    iops: { read: read.count / sample.seconds, write: write.count / sample.seconds },
    throughput: { read: read.bytes / sample.seconds, write: write.bytes / sample.seconds },
    latency: { read: mean(read), write: mean(write), slow: quantile(all.buckets, 0.99) },
  };
}
