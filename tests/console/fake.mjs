// An appliance that is not there: as much of its API as the console uses, in memory, with made-up load. It makes states
// that a real one is seldom in (a full pool, a failed drive, silence), and serves the console's files from the source tree.
//
//     node fake.mjs [PORT]      then http://127.0.0.1:PORT, token `fake`

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const FILES = fileURLToPath(new URL('../../kernel/serve/console', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml' };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
  + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
const NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const LIMITS = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];
const GIB = 1024 ** 3;
const MIB = 1024 ** 2;

class Problem extends Error {
  constructor(status, detail, field) {
    super(detail);
    Object.assign(this, { status, field });
  }
}

export class Fake {
  token = 'fake';
  /** What whoever presents it may do. */
  role = 'admin';
  started = Date.now();
  /** Whether connections are dropped without an answer. */
  silent = false;
  fullness = 'fine';
  volumes = new Map();
  schedules = new Map();
  tokens = [];
  peers = [];
  audit = [];
  jobs = [];
  counters = new Map();
  drives = [
    { id: 'nvme0n1', model: 'QEMU NVMe Ctrl', serial: 'drive0', slot: '01:00.0', state: 'serving', size: 2048 * GIB, used: 0, errors: 0 },
    { id: 'nvme1n1', model: 'Samsung PM9A3', serial: 'S64FNE0R', slot: '02:00.0', state: 'foreign', detail: 'holds a GPT partition table', size: 960 * GIB, used: 0, errors: 0 },
  ];
  log = [
    '[    0.071] info  ferrite: ferrite 0.1.0, 125 MiB of memory',
    '[    0.100] info  machine: nvme0n1: QEMU NVMe Ctrl (serial drive0) at 01:00.0, 2097152 MiB, sectors of 512',
    '[    0.112] warn  machine: nvme1n1 holds a GPT partition table and is left alone',
    '[    0.125] info  lease: net: address 10.0.2.15/24, lease 86400 s from 10.0.2.2',
    '[    0.227] info  service: NBD at port 10809, HTTP at port 8080 of 10.0.2.15/24',
  ];

  constructor() {
    this.server = createServer((request, response) => this.#serve(request, response));
    setInterval(() => this.#load(), 250).unref();
    this.#populate();
  }

  async listen(port = 0) {
    await new Promise((done) => this.server.listen(port, '127.0.0.1', done));
    return `http://127.0.0.1:${this.server.address().port}`;
  }

  close() {
    this.server.closeAllConnections();
    this.server.close();
  }

  #populate() {
    const hours = (number) => new Date(Date.now() - number * 3_600_000).toISOString();
    const volume = (name, size, allocated, age, more) => this.#addVolume({ name, size, allocated, created_at: hours(age), ...more });
    volume('db', 512 * GIB, 288.4 * GIB, 2100, { clients: 2 });
    volume('mail', 256 * GIB, 91 * GIB, 1900, { clients: 1 });
    volume('scratch', 64 * GIB, 3.2 * GIB, 300, {});
    const take = (of, name, age, allocated) => this.#addSnapshot(of, { name, allocated, created_at: hours(age) });
    take('db', 'before-upgrade', 1300, 210 * GIB);
    take('db', 'weekly-45', 172, 270.2 * GIB);
    take('db', 'daily-20', 50, 281 * GIB);
    take('db', 'daily-21', 26, 287.8 * GIB);
    take('mail', 'daily-21', 26, 90.2 * GIB);
    volume('db-test', 512 * GIB, 271 * GIB, 100, { origin: 'db@weekly-45', clients: 1 });
    volume('db-test-old', 512 * GIB, 210 * GIB, 90, { origin: 'db@before-upgrade', read_only: true });
    this.schedules.set('db', { every: '1h', keep: { hourly: 24, daily: 7, weekly: 4 }, newest: 'auto-20261122-1400', snapshots: 31, problem: null });
    this.schedules.set('mail', { every: '1d', keep: { daily: 14 }, newest: null, snapshots: 0, problem: 'the pool is full' });
    const peer = (name, address, age) => this.peers.push({ name, address, key: crypto.randomUUID().replaceAll('-', '').repeat(2), paired_at: hours(age) });
    peer('rack4-a', '10.20.0.4:10810', 400);
    peer('rack4-b', '[2001:db8:77:1::4b]:10810', 2);
    this.#populateWays(volume, hours);
    const token = (name, role, age, seen) => this.tokens.push({ name, role, created_at: age && hours(age), last_seen_at: seen && hours(seen), configured: !age });
    token('configuration', 'admin', null, 0.01);
    token('backup', 'operator', 700, 6);
    token('prometheus', 'read-only', 690, null);
    const change = (age, who, what, body, status, error = null) => this.audit.unshift({ id: this.audit.length + 1, at: hours(age), who, from: '10.0.0.7', what, with: body, status, error });
    change(50, 'configuration', 'POST /v1/volumes', '{"name":"scratch","size":68719476736}', 201);
    change(30, 'backup', 'POST /v1/volumes/db/snapshots', '{"name":"daily-21"}', 201);
    change(26, 'backup', 'DELETE /v1/volumes/mail', '', 409, 'a client is attached to `mail`, from 10.0.0.7; add ?force=true to do it anyway');
    change(0.5, '(firmware)', 'crash', '', 500, 'panicked at kernel/serve/src/lib.rs:1');
    this.jobs.push(job(1, { state: 'done', progress: 1, done: 120 * GIB, ended_at: hours(30), created_at: hours(31) }));
    this.jobs.push(job(2, { state: 'running', progress: 0.41, done: 160 * GIB, rate: 210 * MIB, time_left_ms: 760_000, created_at: hours(0.2) }));
  }

  /** Volumes on their way, and the jobs that see to it. */
  #populateWays(volume, hours) {
    const way = (state, peer, more) => ({ state, epoch: 1, id: crypto.randomUUID(), peer, confirmed: true, job: null, trouble: null, ...more });
    volume('files', 100 * GIB, 21 * GIB, 1, {
      clients: 1,
      hydration: { from: 'nbd://10.20.0.9:10809/disk', known: 38 * GIB, stored: 21 * GIB, on_demand: 3 * GIB, background: 18 * GIB, job: 11, error: null },
    });
    volume('wiki', 40 * GIB, 12 * GIB, 800, { move: way('given', 'rack4-a', { job: 12 }) });
    volume('ledger', 40 * GIB, 9 * GIB, 800, { move: way('offered', 'rack4-b', { job: 13 }), clients: 1 });
    volume('photos', 300 * GIB, 2 * GIB, 1, { move: way('prepared', 'rack4-b') });
    const running = { state: 'running', created_at: hours(0.3) };
    this.jobs.push(
      job(11, { ...running, kind: 'hydrate', volume: 'files', progress: 0.38, done: 38 * GIB, rate: 55 * MIB, time_left_ms: 1_154_000, result: { fetched: 18 * GIB } }),
      job(12, {
        ...running, kind: 'migrate', volume: 'wiki', progress: 0.6, done: 24 * GIB, rate: 40 * MIB, rate_max: 50 * MIB, time_left_ms: 409_000,
        result: { to: 'rack4-a', phase: 'following', bytes: { known: 24 * GIB, on_demand: 210 * MIB, background: 7 * GIB, metadata: 340 * 1024 } },
      }),
      job(13, { ...running, kind: 'migrate', volume: 'ledger', result: { to: 'rack4-b', phase: 'prepared', bytes: { known: 0, on_demand: 0, background: 0, metadata: 2048 } } }),
    );
  }

  #addVolume(volume) {
    const made = { uuid: crypto.randomUUID(), origin: null, clients: 0, read_only: false, allow: [], iops_max: null, rate_max: null, hydration: null, created_at: new Date().toISOString(), snapshots: [], ...volume };
    this.volumes.set(made.name, made);
    return made;
  }

  #addSnapshot(of, snapshot) {
    const volume = this.volumes.get(of);
    const made = { uuid: crypto.randomUUID(), size: volume.size, allocated: volume.allocated, clients: 0, created_at: new Date().toISOString(), ...snapshot };
    volume.snapshots.push(made);
    return made;
  }

  /** Requests of those who are attached, as if a quarter of a second had gone by. */
  #load() {
    const time = Date.now() / 1000;
    for (const volume of this.volumes.values()) {
      const busy = volume.clients * (1 + 0.6 * Math.sin(time / 17 + volume.size) + 0.25 * Math.sin(time / 2.3) + Math.random() * 0.2);
      const counters = this.#countersOf(volume.name);
      count(counters.read, Math.round(busy * 700 * (volume.name === 'mail' ? 0.2 : 1)), 16384, 0.00022);
      count(counters.write, Math.round(busy * 260), 8192, 0.0007);
    }
    for (const one of this.jobs.filter((other) => other.state === 'running')) {
      one.progress = Math.min(0.99, one.progress + 0.002);
    }
  }

  #countersOf(name) {
    const fresh = () => ({ count: 0, sum: 0, bytes: 0, buckets: LIMITS.map(() => 0) });
    if (!this.counters.has(name)) this.counters.set(name, { read: fresh(), write: fresh() });
    return this.counters.get(name);
  }

  #metrics() {
    const lines = ['# TYPE ferrite_volume_request_duration_seconds histogram'];
    for (const [volume, operations] of this.counters) {
      for (const [operation, { count: number, sum, bytes, buckets }] of Object.entries(operations)) {
        const labels = `volume="${volume}",operation="${operation}"`;
        LIMITS.forEach((limit, index) => lines.push(`ferrite_volume_request_duration_seconds_bucket{${labels},le="${limit}"} ${buckets[index]}`));
        lines.push(`ferrite_volume_request_duration_seconds_bucket{${labels},le="+Inf"} ${number}`);
        lines.push(`ferrite_volume_request_duration_seconds_sum{${labels}} ${sum}`);
        lines.push(`ferrite_volume_request_duration_seconds_count{${labels}} ${number}`);
        lines.push(`ferrite_volume_bytes_total{${labels}} ${bytes}`);
      }
    }
    return `${lines.join('\n')}\n`;
  }

  async #serve(request, response) {
    if (this.silent) {
      request.socket.destroy();
      return;
    }
    const url = new URL(request.url, 'http://fake');
    try {
      if (url.pathname === '/' || url.pathname.startsWith('/console/')) {
        const name = url.pathname === '/' ? 'index.html' : url.pathname.slice('/console/'.length);
        const bytes = await readFile(join(FILES, name));
        response.writeHead(200, { 'Content-Type': TYPES[extname(name)], 'Content-Security-Policy': POLICY, 'X-Content-Type-Options': 'nosniff' });
        response.end(bytes);
        return;
      }
      let text = '';
      for await (const chunk of request) text += chunk;
      if (request.headers.authorization !== `Bearer ${this.token}`) throw new Problem(401, 'this needs the header `Authorization: Bearer TOKEN` with the right token');
      if (url.pathname === '/metrics') {
        response.writeHead(200, { 'Content-Type': 'text/plain; version=0.0.4' });
        response.end(this.#metrics());
        return;
      }
      const [status, value] = this.#answer(request.method, url, text ? JSON.parse(text) : {});
      response.writeHead(status, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' });
      response.end(value === undefined ? '' : JSON.stringify(value));
    } catch (error) {
      const problem = error instanceof Problem ? error : new Problem(error.code === 'ENOENT' ? 404 : 500, error.message);
      const { status, message: detail, field } = problem;
      response.writeHead(status, { 'Content-Type': 'application/problem+json' });
      response.end(JSON.stringify({ type: 'about:blank', title: 'Problem', status, detail, field }));
    }
  }

  #answer(method, url, body) {
    const [, , kind, name, below, which] = url.pathname.split('/').map(decodeURIComponent);
    const force = url.searchParams.get('force') === 'true';
    switch (`${method} ${kind}${name ? '/*' : ''}${below ? `/${below}` : ''}${which ? '/*' : ''}`) {
      case 'GET node': return [200, this.#node()];
      case 'GET drives': return [200, { drives: this.drives.map((drive, index) => ({ ...drive, used: index === 0 ? this.#used() : 0 })) }];
      case 'POST drives/*/format': return [200, this.#format(name, body)];
      case 'GET volumes': return [200, { volumes: [...this.volumes.values()].map((volume) => this.#shown(volume)) }];
      case 'POST volumes': return [201, this.#shown(this.#create(body), true)];
      case 'GET volumes/*': return [200, this.#shown(this.#volume(name), true)];
      case 'PATCH volumes/*': return [200, this.#shown(this.#change(this.#volume(name), body))];
      case 'DELETE volumes/*': return [204, this.#detached(this.#volume(name), force) && void this.volumes.delete(name)];
      case 'POST volumes/*/rollback': return [200, this.#rollback(this.#volume(name), body, force)];
      case 'GET volumes/*/snapshots': return [200, { snapshots: this.#volume(name).snapshots.map((one) => snapshotOf(name, one)) }];
      case 'POST volumes/*/snapshots': return [201, snapshotOf(name, this.#snapshot(this.#volume(name), body))];
      case 'GET volumes/*/snapshots/*': return [200, { ...snapshotOf(name, this.#find(name, which)), unique: 1.4 * GIB, shared: 200 * GIB }];
      case 'DELETE volumes/*/snapshots/*': {
        const found = this.#find(name, which);
        const volume = this.#volume(name);
        volume.snapshots = volume.snapshots.filter((one) => one !== found);
        return [204];
      }
      case 'GET whoami': return [200, { name: 'configuration', role: this.role }];
      case 'GET schedules': return [200, { schedules: [...this.schedules.keys()].map((volume) => this.#schedule(volume)) }];
      case 'GET volumes/*/schedule': return [200, this.#schedule(this.#volume(name).name)];
      case 'PUT volumes/*/schedule': return [200, this.#setSchedule(name, body)];
      case 'DELETE volumes/*/schedule': return [204, void this.schedules.delete(name)];
      case 'GET tokens': return this.#needs('admin') && [200, { tokens: this.tokens }];
      case 'POST tokens': return this.#needs('admin') && [201, this.#makeToken(body)];
      case 'DELETE tokens/*': this.tokens = this.tokens.filter((one) => one.name !== name); return [204];
      case 'GET audit': return [200, { entries: this.audit.slice(0, Number(url.searchParams.get('limit'))) }];
      case 'POST volumes/*/migrate': return [202, this.#migrate(this.#volume(name), body)];
      case 'POST volumes/*/hand-over': return [200, this.#way(name, ['offered'], { state: 'given' }, 'following')];
      case 'POST volumes/*/take-back': return [200, this.#way(name, ['offered', 'given'], { state: 'owned', peer: null })];
      case 'POST volumes/*/take-over': return [200, this.#way(name, ['given'], { state: 'owned', peer: null })];
      case 'GET peers': return [200, { name: 'rack3-a', port: 10810, key: 'c0ffee'.repeat(10) + 'c0ff', peers: this.peers }];
      case 'POST peers/*': return this.#needs('admin') && [201, { token: `ferrite_pair_${'ab'.repeat(32)}`, expires_in_ms: 600_000 }];
      case 'POST peers': return this.#needs('admin') && [201, this.#pair(body)];
      case 'PATCH peers/*': return this.#needs('admin') && [200, Object.assign(this.#peer(name), { address: addressOf(body.address) })];
      case 'DELETE peers/*': this.peers.splice(this.peers.indexOf(this.#peer(name)), 1); return [204];
      case 'GET jobs': return [200, { jobs: this.jobs }];
      case 'POST scrub': this.jobs.push(job(this.jobs.length + 1, { state: 'running', created_at: new Date().toISOString() })); return [202, this.jobs.at(-1)];
      case 'PATCH jobs/*': return [200, Object.assign(this.#job(name), body.rate === undefined ? body : { rate_max: body.rate || null })];
      case 'DELETE jobs/*': return [200, Object.assign(this.#job(name), { state: 'cancelled', rate: null, ended_at: new Date().toISOString() })];
      case 'GET log': return [200, { lines: this.log.slice(-Number(url.searchParams.get('tail') ?? 100)) }];
      default: throw new Problem(404, 'there is nothing at this path');
    }
  }

  #needs(role) {
    return this.role === role || refuse(403, `this needs the role ${role}, and \`configuration\` has ${this.role}`);
  }

  #peer(name) {
    return this.peers.find((one) => one.name === name) ?? refuse(404, 'there is no such peer');
  }

  #pair({ address, token }) {
    const peer = { name: 'rack5-a', address: addressOf(address), key: 'ab'.repeat(32), paired_at: new Date().toISOString() };
    if (!/^ferrite_pair_[0-9a-f]{64}$/.test(token)) throw new Problem(422, '`token` must be a pairing token', 'token');
    if (token.endsWith('00')) throw new Problem(502, 'nobody answers at 10.20.0.5:10810');
    this.peers.push(peer);
    return peer;
  }

  #migrate(volume, { to, hand_over: when, after, rate }) {
    this.#peer(to);
    if (typeof rate === 'string') throw new Problem(422, '`rate` must be a number', 'rate');
    const phase = when === 'wait' ? 'prepared' : 'following';
    const made = job(this.jobs.at(-1).id + 1, {
      kind: 'migrate', state: 'running', volume: volume.name, created_at: new Date().toISOString(), rate_max: rate || null,
      result: { to, phase, bytes: { known: 0, on_demand: 0, background: 0, metadata: 1024 } },
    });
    this.jobs.push(made);
    volume.after = after;
    volume.move = { state: when === 'wait' ? 'offered' : 'given', epoch: 1, id: crypto.randomUUID(), peer: to, confirmed: true, job: made.id, trouble: null };
    return made;
  }

  #way(name, from, to, phase) {
    const volume = this.#volume(name);
    if (!from.includes(volume.move?.state)) refuse(409, `\`${name}\` is neither offered nor given to another appliance`);
    const moving = this.jobs.find((one) => one.id === volume.move.job);
    if (phase) moving.result.phase = phase;
    else if (moving) Object.assign(moving, { state: 'cancelled', ended_at: new Date().toISOString() });
    Object.assign(volume.move, to);
    return this.#shown(volume);
  }

  #schedule(volume) {
    const known = this.schedules.get(volume) ?? refuse(404, 'the volume has no schedule');
    return { volume, next_at: new Date(Date.now() + 1_500_000).toISOString(), ...known };
  }

  #setSchedule(name, { every, keep }) {
    this.#volume(name);
    if (!/^\d+[smhdw]$/.test(every)) throw new Problem(422, '`every` must be a number and one of s, m, h, d, w', 'every');
    for (const [rule, number] of Object.entries(keep)) {
      if (!Number.isInteger(number)) throw new Problem(422, `\`keep.${rule}\` must be a number`, `keep.${rule}`);
    }
    if (!Object.values(keep).some((number) => number > 0)) throw new Problem(422, '`keep.…`: at least one must be above 0', 'keep');
    this.schedules.set(name, { newest: null, snapshots: 0, problem: null, ...this.schedules.get(name), every, keep });
    return this.#schedule(name);
  }

  #makeToken({ name, role }) {
    if (!NAME.test(name)) throw new Problem(422, '`name` must be a string of 1 to 63 of a-z 0-9 . _ -, which begins with a letter or digit', 'name');
    if (this.tokens.some((one) => one.name === name)) throw new Problem(409, 'the name is taken', 'name');
    this.tokens.push({ name, role, created_at: new Date().toISOString(), last_seen_at: null, configured: false });
    return { ...this.tokens.at(-1), token: 'ab'.repeat(40) };
  }

  #used() {
    return [...this.volumes.values()].filter((volume) => !volume.origin).reduce((sum, volume) => sum + volume.allocated, 40 * GIB);
  }

  #node() {
    const used = this.#used();
    const size = 2048 * GIB;
    return {
      name: 'rack3-a', version: '0.1.0', uptime_ms: Date.now() - this.started + 9 * 86_400_000, nbd_port: 10810,
      memory: { total: 128 * MIB, free: 71 * MIB }, crash: null,
      pool: {
        uuid: '5d0c5d1e-54b6-4ab4-9a05-6c1f2b1c1b7e', state: 'serving', redundancy: 'none', size, used, pending: 11 * GIB,
        reserved: 26 * GIB, free: size - used, writable: size - used - 26 * GIB, fullness: this.fullness, deallocated: 0, checkpoints: 12, damaged_reads: 0,
      },
      drives: this.drives.map(({ id, state, size: bytes }) => ({ id, state, size: bytes, used: 0 })),
    };
  }

  #shown({ snapshots, ...volume }, isAlone = false) {
    const own = isAlone ? { unique: volume.allocated * 0.12, shared: volume.allocated * 0.88 } : {};
    return { ...volume, ...own, snapshots: snapshots.length };
  }

  #volume(name) {
    return this.volumes.get(name) ?? refuse(404, 'no such volume');
  }

  #find(volume, name) {
    return this.#volume(volume).snapshots.find((one) => one.name === name) ?? refuse(404, 'no such snapshot');
  }

  #job(id) {
    return this.jobs.find((one) => String(one.id) === id) ?? refuse(404, 'no such job');
  }

  #create({ name, size, from, origin }) {
    this.#mayBeCalled(name);
    if (origin) {
      if (origin.volume !== undefined && !/^\S+@\S+$/.test(origin.volume)) throw new Problem(422, '`origin.volume` must be a snapshot, as VOLUME@SNAPSHOT', 'origin.volume');
      if (origin.nbd !== undefined && !origin.nbd.startsWith('nbd://')) throw new Problem(422, '`origin.nbd` must be the address of an NBD export, like nbd://10.0.0.5:10809/disk', 'origin.nbd');
      const where = origin.nbd ?? `ferrite://${origin.appliance}/${origin.volume}`;
      return this.#addVolume({ name, size: size ?? 8 * GIB, allocated: 0, hydration: { from: where, known: 0, stored: 0, on_demand: 0, background: 0, job: null, error: null } });
    }
    if (from) {
      const [volume, snapshot] = from.split('@');
      const found = this.#find(volume, snapshot);
      return this.#addVolume({ name, size: found.size, allocated: found.allocated, origin: from });
    }
    if (size % 512 || size < 4096) throw new Problem(422, '`size` must be a whole number of bytes: a multiple of 512, at least 4096 and at most 9007199254740991', 'size');
    return this.#addVolume({ name, size, allocated: 0 });
  }

  #mayBeCalled(name) {
    if (!NAME.test(name)) throw new Problem(422, '`name` must be a string of 1 to 63 of a-z 0-9 . _ -, which begins with a letter or digit', 'name');
    if (this.volumes.has(name)) throw new Problem(409, 'the name is taken', 'name');
  }

  #change(volume, { name, size, read_only: readOnly, allow, iops_max: iops, rate_max: rate }) {
    if (allow?.some((one) => !/^[\d.:a-f]+(\/\d+)?$/.test(one))) throw new Problem(422, '`allow` must be a list of at most 32, each one of networks like 10.0.0.0/8', 'allow');
    for (const [field, limit] of Object.entries({ iops_max: iops, rate_max: rate })) {
      if (typeof limit === 'string') throw new Problem(422, `\`${field}\` must be a number`, field);
    }
    if (size < volume.size) throw new Problem(409, `a volume cannot shrink; it has ${volume.size} bytes`, 'size');
    if (name) {
      this.#mayBeCalled(name);
      this.volumes.delete(volume.name);
      volume.name = name;
      this.volumes.set(name, volume);
    }
    Object.assign(volume, size && { size }, allow && { allow }, readOnly !== undefined && { read_only: readOnly },
      iops !== undefined && { iops_max: iops }, rate !== undefined && { rate_max: rate });
    return volume;
  }

  #detached(volume, force) {
    if (volume.clients > 0 && !force) throw new Problem(409, `a client is attached to \`${volume.name}\`, from 10.0.0.7; add ?force=true to do it anyway`);
    return true;
  }

  #rollback(volume, { snapshot }, force) {
    this.#detached(volume, force);
    volume.allocated = this.#find(volume.name, snapshot).allocated;
    volume.clients = 0;
    return this.#shown(volume);
  }

  #snapshot(volume, { name }) {
    if (!NAME.test(name)) throw new Problem(422, '`name` must be a string of 1 to 63 of a-z 0-9 . _ -, which begins with a letter or digit', 'name');
    if (volume.snapshots.some((one) => one.name === name)) throw new Problem(409, 'the name is taken', 'name');
    return this.#addSnapshot(volume.name, { name });
  }

  #format(id, { confirm }) {
    const drive = this.drives.find((one) => one.id === id) ?? refuse(404, 'no such drive');
    if (confirm !== drive.serial) throw new Problem(409, "`confirm` must be the drive's serial number", 'confirm');
    return Object.assign(drive, { state: 'blank', detail: 'blank; the next start makes a pool of it if there is none' });
  }
}

function addressOf(text) {
  if (!/^([\d.]+|\[[\da-f:]+\])(:\d+)?$/.test(text)) throw new Problem(422, '`address` must be an address like 10.0.0.5, 10.0.0.5:10810 or [fd00::5]', 'address');
  return /\]?:\d+$/.test(text.replace(/\[.*\]/, '')) ? text : `${text}:10810`;
}

function refuse(status, detail) {
  throw new Problem(status, detail);
}

function snapshotOf(volume, snapshot) {
  return { ...snapshot, volume, export: `${volume}@${snapshot.name}` };
}

function job(id, more) {
  const result = { blocks: 31_457_280, repaired: 0, damaged_blocks: 0, damaged_pool_blocks: 0, damaged: [], damaged_more: 0 };
  return { id, kind: 'scrub', progress: 0, done: 0, rate: null, rate_max: null, time_left_ms: null, created_at: null, ended_at: null, error: null, result, ...more };
}

function count(counter, number, bytes, seconds) {
  counter.count += number;
  counter.bytes += number * bytes;
  for (let left = number; left > 0; left -= 50) {
    const share = Math.min(50, left);
    const time = seconds * (0.6 + Math.random() * 0.8) * (Math.random() > 0.97 ? 6 : 1);
    counter.sum += share * time;
    LIMITS.forEach((limit, index) => { if (time <= limit) counter.buckets[index] += share; });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  console.log(await new Fake().listen(Number(process.argv[2] ?? 8089)));
}
