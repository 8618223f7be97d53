// The few helpers that the page is built with. Texts are always set as texts, never as markup.

/** An element: `element("td", {class: "number"}, "12")`. Children are elements or texts. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Draw a part of the page anew, unless a button in it is just being pressed; the one that had the focus has it again. */
export function redraw(place, ...children) {
  if (place.matches(":active")) return;
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  place.replaceChildren(...children);
  if (focused) place.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

export const byId = (id) => document.getElementById(id);

/** A bar that is filled to a share of it, 0 to 1. */
export function bar(share, label) {
  const fill = element("i");
  fill.style.width = `${Math.min(1, Math.max(0, share)) * 100}%`;
  return element("span", { class: "bar", role: "img", "aria-label": label ?? `${Math.round(share * 100)} %` }, fill);
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** A number of bytes for people: 31.4 MB. */
export function sizeText(size) {
  let unit = 0;
  while (size >= 1000 && unit < UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit && size < 100 ? size.toFixed(1) : Math.round(size)} ${UNITS[unit]}`;
}

/** A duration for people: 5 min 2 s. */
export function durationText(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const numberText = (number) => number.toLocaleString("en");
export const words = (name) => name.replaceAll("_", " ");
export const shortDigest = (digest) => digest.slice(0, digest.indexOf(":") + 13);
export const timeText = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
