// Elements, made and brought up to date without a library.
//
// Views are functions that build a fresh tree; `update` changes the tree on the page into that one, node by node, so that
// focus, selection and scroll positions outlive a refresh. Text only ever becomes text nodes.

const SVG = 'http://www.w3.org/2000/svg';
const SVG_TAGS = new Set(['svg', 'path', 'rect', 'circle', 'line', 'g']);
/** What a user may have changed, and a refresh leaves alone. */
const OWN = new Set(['open', 'value', 'checked']);

/**
 * An element: `h('button.quiet', {onclick: f, 'aria-label': 'Close'}, 'text', other, [more])`.
 * Functions become listeners, `true` an empty attribute; `null`, `undefined` and `false` nothing.
 */
export function h(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split('.');
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (classes.length > 0) element.setAttribute('class', classes.join(' '));
  element.listeners = {};
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') {
      element.listeners[name] = value;
      element[name] = value;
    } else if (name === 'class') {
      element.classList.add(...value.split(' ').filter(Boolean));
    } else if (name === 'width%') {
      element.share = value;
      element.style.setProperty('width', `${value}%`);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? '' : value);
    }
  }
  element.append(...flat(children));
  return element;
}

function flat(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false && child !== '')
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/** Makes `children` what `parent` contains. */
export function update(parent, ...children) {
  reconcile(parent, flat(children));
}

function reconcile(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.childNodes) {
    if (key(child)) keyed.set(key(child), child);
  }
  let place = parent.firstChild;
  for (const next of wanted) {
    let present = key(next) ? keyed.get(key(next)) : place;
    if (present && same(present, next)) {
      if (present !== place) parent.insertBefore(present, place);
      become(present, next);
      place = present.nextSibling;
    } else {
      parent.insertBefore(next, place);
      // What stood here unkeyed is replaced; what has a key may be wanted further on.
      if (place && !key(place) && !key(next)) {
        const gone = place;
        place = place.nextSibling;
        gone.remove();
      }
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

const key = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute('data-key') : null);

function same(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);
}

function become(present, next) {
  if (present.nodeType === Node.TEXT_NODE) {
    if (present.data !== next.data) present.data = next.data;
    return;
  }
  if (next.hasAttribute('data-kept')) return;
  for (const { name } of [...present.attributes]) {
    if (!next.hasAttribute(name) && !OWN.has(name) && name !== 'style') present.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (name !== 'style' && !OWN.has(name) && present.getAttribute(name) !== value) {
      present.setAttribute(name, value);
    }
  }
  if (next.share !== undefined) present.style.setProperty('width', `${next.share}%`);
  for (const name of Object.keys(present.listeners ?? {})) {
    if (!next.listeners?.[name]) present[name] = null;
  }
  Object.assign(present, next.listeners);
  present.listeners = next.listeners;
  reconcile(present, [...next.childNodes]);
}

/** A small picture of strokes; `label` is for who cannot see it, and without one it is decoration. */
export function icon(name) {
  return h('svg.icon', { viewBox: '0 0 20 20', 'aria-hidden': 'true', focusable: 'false' },
    h('path', { d: ICONS[name] }));
}

const ICONS = {
  overview: 'M2.5 11.5h3l2.5-7 4 12 2.5-7h3',
  volumes: 'M10 2.5l7 3.5-7 3.5L3 6zM3 10l7 3.5 7-3.5M3 14l7 3.5 7-3.5',
  drives: 'M3 4.5h14v5H3zM3 11.5h14v5H3zM6 7h.01M6 14h.01',
  jobs: 'M3 5h9M3 10h14M3 15h6M15 3.5v3',
  log: 'M4 3h12v14H4zM7 7h6M7 10h6M7 13h3',
  tokens: 'M11.5 8.5a3.500 3.500 0 1 0-2.500 2.500L17 17M14 14l2-2',
  add: 'M10 4v12M4 10h12',
  out: 'M8 3H4v14h4M12 6l4 4-4 4M16 10H8',
  copy: 'M7 7h9v10H7zM13 7V3H4v10h3',
  back: 'M11.5 4.5L6 10l5.5 5.5',
  camera: 'M3 6h3l1.5-2h5L14 6h3v10H3zM10 8.5a2.5 2.5 0 1 0 .01 0',
  clone: 'M6 3v14M6 11c6 0 8-2 8-6M14 5l-2 2.500M14 5l2 2.500',
  close: 'M5 5l10 10M15 5L5 15',
  warning: 'M10 3l7.500 13.500h-15zM10 8.500v4M10 14.500v.01',
};
