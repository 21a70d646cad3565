// The line under the top bar: decisions that are not saved come first, then lists that failed.
import { byId, withCode } from "./dom.js";

export function note(text, bad = false) {
  byId("note").replaceChildren(...withCode(text));
  byId("note").classList.toggle("bad", bad);
  byId("note").hidden = !text;
}

// state: saved, saving or failed; reason: of a failure.
export function showSaved(state, reason) {
  const failed = state === "failed";
  for (const node of document.querySelectorAll(".saved")) {
    node.textContent = { saved: "all saved", saving: "saving …", failed: "not saved" }[state];
    node.classList.toggle("busy", state !== "saved");
  }
  const { dataset } = byId("note");
  if (failed) note(`${reason} Your decisions are kept here and sent again; do not close this page.`, true);
  else if (dataset.lost) note("");
  dataset.lost = failed ? "1" : "";
}

// problem: why the list is not shown; empty: it is shown.
export function noteOfList(problem) {
  const { dataset } = byId("note");
  if (dataset.lost) return;
  if (problem || dataset.problem) note(problem, true);
  dataset.problem = problem ? "1" : "";
}
