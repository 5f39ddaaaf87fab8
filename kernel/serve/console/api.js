// The appliance's HTTP API. The token lives in this tab's session storage and nowhere else.

const KEY = 'ferrite-token';
/** After this long an answer does not come any more. */
const PATIENCE_MS = 15_000;
/** The same where the appliance itself waits for another one. */
const LONG_MS = 60_000;

export const session = {
  get token() {
    return sessionStorage.getItem(KEY);
  },
  set token(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  },
  /** Called when the token is not, or no longer, right. */
  onEnd: () => {},
};

/** Why a request was not done, as the API says it (RFC 9457). */
export class Problem extends Error {
  constructor(status, document = {}) {
    const text = document.detail || document.title || `the appliance answered ${status}`;
    super(text.replace(/`([^`]*)`/g, '“$1”'));
    this.status = status;
    this.title = document.title || '';
    this.field = document.field || null;
  }
}

/** The appliance could not be reached. */
export class Silence extends Error {
  constructor() {
    super('The appliance does not answer.');
    this.status = 0;
    this.field = null;
    this.title = '';
  }
}

async function send(method, path, body, { token = session.token, patience = PATIENCE_MS } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      signal: AbortSignal.timeout(patience),
    });
  } catch {
    throw new Silence();
  }
  if (!response.ok) {
    const document = await response.json().catch(() => ({}));
    if (response.status === 401 && token === session.token) session.onEnd(document.detail);
    throw new Problem(response.status, document);
  }
  return response;
}

async function json(method, path, body, patience) {
  const response = await send(method, path, body, { patience });
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch {
    throw new Silence();
  }
}

const part = encodeURIComponent;
const volumePath = (name) => `/v1/volumes/${part(name)}`;
const snapshotPath = (volume, name) => `${volumePath(volume)}/snapshots/${part(name)}`;
const schedulePath = (volume) => `${volumePath(volume)}/schedule`;
const forced = (force) => (force ? '?force=true' : '');

/** All elements of a list that comes in pages. */
async function all(path, name) {
  const found = [];
  let next = '';
  do {
    const page = await json('GET', path + (next && `?next=${part(next)}`));
    found.push(...page[name]);
    next = page.next ?? '';
  } while (next);
  return found;
}

export const api = {
  /** Whether the appliance takes `token`; the problem is thrown if not. */
  async check(token) {
    await send('GET', '/v1/node', undefined, { token });
  },
  node: () => json('GET', '/v1/node'),
  whoami: () => json('GET', '/v1/whoami'),
  metrics: async () => (await send('GET', '/metrics')).text(),
  drives: async () => (await json('GET', '/v1/drives')).drives,
  formatDrive: (id, serial) => json('POST', `/v1/drives/${part(id)}/format`, { confirm: serial }),
  volumes: () => all('/v1/volumes', 'volumes'),
  volume: (name) => json('GET', volumePath(name)),
  createVolume: (body) => json('POST', '/v1/volumes', body, LONG_MS),
  changeVolume: (name, body) => json('PATCH', volumePath(name), body),
  deleteVolume: (name, force) => json('DELETE', volumePath(name) + forced(force)),
  rollback: (name, snapshot, force) => json('POST', `${volumePath(name)}/rollback${forced(force)}`, { snapshot }),
  snapshots: (volume) => all(`${volumePath(volume)}/snapshots`, 'snapshots'),
  snapshot: (volume, name) => json('GET', snapshotPath(volume, name)),
  createSnapshot: (volume, name) => json('POST', `${volumePath(volume)}/snapshots`, { name }),
  deleteSnapshot: (volume, name, force) => json('DELETE', snapshotPath(volume, name) + forced(force)),
  migrate: (name, body) => json('POST', `${volumePath(name)}/migrate`, body, LONG_MS),
  handOver: (name) => json('POST', `${volumePath(name)}/hand-over`, undefined, LONG_MS),
  takeBack: (name) => json('POST', `${volumePath(name)}/take-back`, undefined, LONG_MS),
  takeOver: (name, confirm) => json('POST', `${volumePath(name)}/take-over`, { confirm }),
  /** This appliance as its peers know it, and them. */
  peers: () => json('GET', '/v1/peers'),
  createPairingToken: () => json('POST', '/v1/peers/tokens'),
  pair: (body) => json('POST', '/v1/peers', body, LONG_MS),
  changePeer: (name, body) => json('PATCH', `/v1/peers/${part(name)}`, body),
  removePeer: (name) => json('DELETE', `/v1/peers/${part(name)}`),
  schedules: () => all('/v1/schedules', 'schedules'),
  /** The schedule of a volume; `null` if it has none. */
  schedule: (volume) => json('GET', schedulePath(volume)).catch((problem) => {
    if (problem.status === 404) return null;
    throw problem;
  }),
  setSchedule: (volume, body) => json('PUT', schedulePath(volume), body),
  deleteSchedule: (volume) => json('DELETE', schedulePath(volume)),
  tokens: async () => (await json('GET', '/v1/tokens')).tokens,
  createToken: (body) => json('POST', '/v1/tokens', body),
  revokeToken: (name) => json('DELETE', `/v1/tokens/${part(name)}`),
  /** The newest changes, at most `limit`, and whether there are older ones. */
  audit: async (limit) => {
    const { entries, next } = await json('GET', `/v1/audit?limit=${limit}`);
    return { entries, areMore: next !== undefined };
  },
  jobs: async () => (await json('GET', '/v1/jobs')).jobs,
  changeJob: (id, body) => json('PATCH', `/v1/jobs/${id}`, body),
  cancelJob: (id) => json('DELETE', `/v1/jobs/${id}`),
  scrub: () => json('POST', '/v1/scrub', {}),
  log: async (lines) => (await json('GET', `/v1/log?tail=${lines}`)).lines,
};
