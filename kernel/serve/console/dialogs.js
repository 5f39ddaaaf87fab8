// Questions to the user: a form in a modal dialog, which says what the API says beside the field that it is about.

import { h, icon } from './dom.js';

const notices = document.getElementById('notices');

/** Says briefly what was done. */
export function tell(text, isBad = false) {
  const notice = h('div', { class: isBad ? 'notice bad' : 'notice' }, text);
  notices.append(notice);
  if (notices.children.length > 2) notices.firstChild.remove();
  setTimeout(() => notice.remove(), isBad ? 10_000 : 5000);
}

let next = 0;

/**
 * A text field: `{name, label, hint?, value?, placeholder?, type?, mono?, required?, onInput?}`; with `type: 'check'` a box
 * to tick, with `options: [[value, text]]` a choice.
 */
function fieldElement(field) {
  const id = `field-${(next += 1)}`;
  const help = h('p.hint', { id: `${id}-hint` }, field.hint ?? '');
  const error = h('p.error', { id: `${id}-error`, hidden: true });
  const isCheck = field.type === 'check';
  const input = h(field.options ? 'select' : 'input', {
    id,
    name: field.name,
    type: field.options ? null : isCheck ? 'checkbox' : field.type ?? 'text',
    inputmode: field.inputmode,
    class: field.mono ? 'mono' : '',
    placeholder: field.placeholder,
    autocomplete: field.autocomplete ?? 'off',
    autocapitalize: 'none',
    spellcheck: 'false',
    required: field.required,
    'aria-describedby': `${id}-hint ${id}-error`,
  }, field.options?.map(([value, text]) => h('option', { value }, text)));
  if (isCheck) input.checked = Boolean(field.value);
  else if (field.value !== undefined || !field.options) input.value = field.value ?? '';
  const say = (message) => {
    error.textContent = message ?? '';
    error.hidden = !message;
    help.hidden = Boolean(message);
    if (message) input.setAttribute('aria-invalid', 'true');
    else input.removeAttribute('aria-invalid');
  };
  input.addEventListener('input', () => {
    say(null);
    const hint = field.onInput?.(input.value);
    if (hint !== undefined) help.textContent = hint;
  });
  const label = h('label', { for: id }, field.label);
  return {
    field,
    input,
    say,
    value: () => (isCheck ? input.checked : input.value.trim()),
    element: isCheck
      ? h('div.field.check', {}, input, h('div', {}, label, help, error))
      : h('div.field', {}, label, input, help, error),
  };
}

/** Fields one below the other; small ones that have a `group` in common side by side, under its name. */
function arranged(all) {
  const groups = new Map();
  return all.map((one) => {
    const { group } = one.field;
    if (!group) return one.element;
    const known = groups.get(group);
    if (known) {
      known.append(one.element);
      return null;
    }
    const numbers = h('div.numbers', {}, one.element);
    groups.set(group, numbers);
    return h('fieldset', {}, h('legend', {}, group), numbers);
  });
}

/**
 * A form of `fields`, whose `submit(values)` is waited for; what it throws is shown, at its field if the problem names one.
 * Returns the form and what to call to fill it anew.
 */
export function form({ fields, submit, action, danger, onCancel, intro }) {
  const all = fields.map(fieldElement);
  const error = h('p.error.whole', { role: 'alert', hidden: true });
  const button = h('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, action);
  const extra = h('div.extra');
  const element = h('form', { novalidate: true, onsubmit: send },
    intro,
    arranged(all),
    extra,
    error,
    h('div.buttons', {},
      onCancel && h('button', { type: 'button', onclick: onCancel }, 'Cancel'),
      button));

  function say(problem) {
    const at = problem.field && all.find(({ field }) => field.name === problem.field || field.also === problem.field);
    if (at) {
      at.say(problem.message);
      at.input.focus();
      return;
    }
    error.textContent = problem.message;
    error.hidden = false;
  }

  async function send(event) {
    event.preventDefault();
    if (button.getAttribute('aria-disabled')) return;
    error.hidden = true;
    all.forEach((one) => one.say(null));
    const empty = all.find((one) => one.field.required && one.value() === '');
    if (empty) {
      empty.say(`${empty.field.label} is missing.`);
      empty.input.focus();
      return;
    }
    const values = Object.fromEntries(all.map((one) => [one.field.name, one.value()]));
    button.setAttribute('aria-disabled', 'true');
    try {
      await submit(values, { offer });
    } catch (problem) {
      if (!(problem instanceof Error)) throw problem;
      say(problem);
    } finally {
      button.removeAttribute('aria-disabled');
    }
  }

  /** Adds a box to tick, once: what makes the next attempt go through. */
  function offer(field) {
    if (all.some((one) => one.field.name === field.name)) return;
    const one = fieldElement({ ...field, type: 'check' });
    all.push(one);
    extra.append(one.element);
    one.input.focus();
  }

  return { element, first: all[0]?.input ?? button };
}

/** Asks; closes when it is done or given up. `title`, and what `form` takes; `done` is what is then said. */
export function ask({ title, done, submit, ...rest }) {
  const opener = document.activeElement;
  const close = () => dialog.close();
  const { element, first } = form({
    ...rest,
    onCancel: close,
    submit: async (values, more) => {
      const result = await submit(values, more);
      dialog.close();
      if (done) tell(typeof done === 'function' ? done(result, values) : done);
    },
  });
  const dialog = modal(title, opener, element, close);
  first.focus();
  first.select?.();
}

function modal(title, opener, element, close) {
  const id = `dialog-${(next += 1)}`;
  const dialog = h('dialog', { 'aria-labelledby': id, onclose: () => { dialog.remove(); opener?.focus?.(); } },
    h('header', {},
      h('h2', { id }, title),
      h('button.quiet', { type: 'button', 'aria-label': 'Close', onclick: close }, icon('close'))),
    element);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Shows a secret that nobody can see again, until it is said to be kept; `more` says what is done with it. */
export function reveal({ title, about, secret, more }) {
  const opener = document.activeElement;
  const id = `secret-${(next += 1)}`;
  const field = h('input.mono', { id, readonly: true, 'aria-describedby': `${id}-about`, autocomplete: 'off', spellcheck: 'false' });
  field.value = secret;
  const said = h('p.hint', { role: 'status' });
  const take = h('button', {
    type: 'button',
    onclick: async () => {
      said.textContent = (await copy(secret, field.parentElement)) ? 'Copied.' : 'The browser does not let this page copy; select the secret instead.';
      if (said.textContent !== 'Copied.') field.select();
    },
  }, icon('copy'), 'Copy');
  const close = () => dialog.close();
  const dialog = modal(title, opener, h('form', { onsubmit: (event) => { event.preventDefault(); close(); } },
    h('p', { id: `${id}-about` }, about),
    h('label', { for: id }, h('b', {}, 'Secret')),
    h('div.secret', {}, field, take),
    said,
    more,
    h('div.buttons', {}, h('button.primary', { type: 'submit' }, 'I have kept it'))), close);
  // A key pressed too soon must not lose it.
  dialog.addEventListener('cancel', (event) => event.preventDefault());
  field.focus();
  field.select();
}

/** Copies `text`; also where the browser has no clipboard for pages without TLS. Returns whether it did. */
export async function copy(text, near = document.body) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const opener = document.activeElement;
    const area = h('textarea.visually-hidden', { 'aria-hidden': 'true' });
    area.value = text;
    near.append(area);
    area.select();
    const isDone = document.execCommand('copy');
    area.remove();
    opener?.focus?.();
    return isDone;
  }
}

/** Adds to a refusal because of attached clients the way to do it anyway. */
export async function unlessAttached(values, more, act) {
  try {
    return await act(values.force === true);
  } catch (problem) {
    if (problem.status === 409 && problem.message.includes('force=true')) {
      problem.message = `${problem.message.split(';')[0]}.`;
      more.offer({ name: 'force', label: 'Do it anyway', hint: 'They are cut off, and what they write from then on is lost.' });
    }
    throw problem;
  }
}
