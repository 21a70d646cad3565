// Small helpers for the pages.

export const byId = (id) => document.getElementById(id);

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/g;

// A name as it is shown: what turns the direction of text or shows nothing is an escape.
export const shown = (name) => name.replace(UNSEEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);

// An element with properties and children; texts are texts, never markup.
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-") || name === "role") node.setAttribute(name, value);
    else node[name] = name === "title" ? shown(value) : value;
  }
  const given = children.filter((child) => child !== null && child !== undefined);
  node.append(...given.map((child) => (typeof child === "string" ? shown(child) : child)));
  return node;
}

// The nodes of a text: what stands between backticks is code.
export const withCode = (text) => text.split("`").map((part, place) => (place % 2 ? make("code", {}, part) : shown(part)));

export function swatch(colour) {
  const node = make("i");
  node.style.background = colour;
  return node;
}

const DARKEST = -0.6, PALEST = 0.72, GOLDEN_TURN = 0.618034;

// A label's colour for its mask 0, 1, 2, ...: its own first, then shades towards white, or below 0
// towards black, each as far from those before it as steps of the golden ratio put it.
export function shade(colour, number) {
  const range = PALEST - DARKEST;
  const towards = DARKEST + range * ((number * GOLDEN_TURN - DARKEST / range) % 1);
  const parts = [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  const mixed = parts.map((part) => Math.round(part + Math.abs(towards) * ((towards > 0 ? 255 : 0) - part)));
  return `#${mixed.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

export function bar(share) {
  const filled = make("span");
  filled.style.width = `${Math.round(100 * Math.min(1, Math.max(0, share)))}%`;
  return make("div", { class: "bar" }, filled);
}

const EYE = { open: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8z M8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4z", shut: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8z M2.5 13.5l11-11" };

export function eye(shown, label, onclick) {
  const button = make("button", { class: "eye", type: "button", title: "show or hide (V)", "aria-pressed": String(shown), "aria-label": `show the masks of ${label}`, onclick });
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("viewBox", "0 0 16 16");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of Object.entries({ d: shown ? EYE.open : EYE.shut, fill: "none", stroke: "currentColor", "stroke-width": "1.4" })) path.setAttribute(name, value);
  picture.append(path);
  button.append(picture);
  return button;
}

// A share that is not 0 never reads as 0.
export function percent(share) {
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return share >= 0.0995 ? `${Math.round(100 * share)} %` : `${(100 * share).toFixed(1)} %`;
}

// How doubtful an image is among those of its run, in words; the last ones only where there is room.
export function doubtText(share) {
  if (share === null) return make("span", {}, "–");
  if (share === 0) return make("span", {}, "no image is less doubtful");
  return make("span", {}, `more doubtful than ${Math.floor(100 * share + 1e-9)} %`, make("span", { class: "room" }, " of the images"));
}

export const count = (number) => number.toLocaleString("en");

// Gives a text to screen readers.
export function announce(text) {
  byId("announce").textContent = text;
}

// Closes a dialog, without an answer, by a click or tap beside it; not by one that began in it.
export function closeByClickBeside(dialog) {
  const isBeside = ({ target, clientX, clientY }) => {
    const { left, right, top, bottom } = dialog.getBoundingClientRect();
    return target === dialog && (clientX < left || clientX > right || clientY < top || clientY > bottom);
  };
  let begun = false;
  dialog.addEventListener("pointerdown", (event) => { begun = isBeside(event); });
  dialog.addEventListener("click", (event) => begun && isBeside(event) && dialog.close());
}

let flashing = 0;

// Shows a text for a moment.
export function flash(text) {
  clearTimeout(flashing);
  byId("flash").textContent = shown(text);
  flashing = setTimeout(() => { byId("flash").textContent = ""; }, 1000 + 20 * text.length);
}

export function debounce(work, ms) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), ms);
  };
}
