// The dialog for another label: type to search, arrows and Enter to choose, Escape to cancel.
import { byId, make, swatch } from "./dom.js";

const SHOWN = 60;

export function chooseLabel(labels, except) {
  const dialog = byId("relabel");
  const input = byId("relabel-text");
  const options = byId("relabel-options");
  let current = 0;
  let found = [];

  function show() {
    const text = input.value.trim().toLowerCase();
    found = labels.filter((label) => label.name !== except && label.name.toLowerCase().includes(text));
    found.sort((one, other) => Number(other.name.toLowerCase().startsWith(text)) - Number(one.name.toLowerCase().startsWith(text)));
    found = found.slice(0, SHOWN);
    current = Math.max(0, Math.min(current, found.length - 1));
    options.replaceChildren(...found.map((label, place) => make("button", { type: "button", role: "option", id: `label-${place}`, tabIndex: -1, "aria-selected": String(place === current), class: place === current ? "current" : "", onclick: () => dialog.close(label.name) }, swatch(label.colour), label.name)));
    input.setAttribute("aria-activedescendant", found.length ? `label-${current}` : "");
    byId("relabel-none").textContent = found.length ? "" : "No label of this run matches; a mask can only get a label of the run.";
    options.children[current]?.scrollIntoView({ block: "nearest" });
  }

  input.value = "";
  input.oninput = () => { current = 0; show(); };
  input.onkeydown = (event) => {
    if (event.isComposing) return; // Enter ends the composition, it does not choose yet
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { current += step; show(); event.preventDefault(); }
    if (event.key === "Enter" && found[current]) { event.preventDefault(); dialog.close(found[current].name); }
  };
  show();
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}
