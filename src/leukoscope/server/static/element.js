// Making elements: text is always text, never HTML.

const SVG = "http://www.w3.org/2000/svg";
const STATIC = new URL(".", import.meta.url).pathname;

export const find = (id) => document.getElementById(id);

/** Make an element: element("p", {class: "soft", hidden: true, onclick: f}, "text", child). */
export function element(tag, facts = {}, ...children) {
  return filled(document.createElement(tag), facts, children);
}

export function drawn(tag, facts = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), facts, children);
}

export function icon(name) {
  return drawn("svg", { class: "icon", "aria-hidden": "true" }, drawn("use", { href: `${STATIC}icons.svg#${name}` }));
}

/** Set text and attributes of an element that is there already; only what changed is touched. */
export function show(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function debounced(action, milliseconds) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), milliseconds);
  };
}

function filled(node, facts, children) {
  for (const [name, value] of Object.entries(facts)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
