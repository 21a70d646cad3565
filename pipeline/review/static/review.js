// The review page: filters and keys; connects the grid, the viewer and the outbox.
import { byId, closeByClickBeside, count, debounce, flash, make, swatch } from "./dom.js";
import { Outbox, ask, showing } from "./api.js";
import { cards, foldChips } from "./cards.js";
import { Grid } from "./grid.js";
import { Viewer } from "./viewer.js";
import { note, noteOfList, showSaved } from "./notes.js";
import { listenToKeys } from "./keys.js";
import { chooseLabel } from "./relabel.js";
import { isScoreField, scoreFields } from "./scores.js";

const DEFAULTS = { label: "", state: "all", failed: "", text: "", listed: "", search: "", order: "priority" };
const wanted = { ...DEFAULTS }; // and limits of scores, such as mean_prob_low, where they are set
const given = new URLSearchParams(location.hash.slice(1));
for (const [name, value] of given) if (name in wanted || isScoreField(name)) wanted[name] = value;
let lost = "";
const run = await ask("/api/run"); // reads what is new of the run; a list made before is forgotten then
showing(run);
const opening = ask("/api/view", wanted).catch(withoutOldNames);
if (!wanted.search) await opening; // a search may have to load the text encoder first
let view = "";
let numFilters = 0; // filters applied so far: the answer to an older one is ignored
let missed = false; // the last filter could not be applied
let counted = ""; // images of the list that is shown
let searched = false; // the text encoder is loaded
let alone = false; // the image in view is not in the list

const outbox = new Outbox({ onstate: saved, onanswer: takeIn, onrefusal: refused });
const viewer = new Viewer(run, { ondecide: (decision) => outbox.decide(decision), onnext: () => go(1), onclose: close });
const grid = new Grid(byId("scroller"), byId("grid"), {
  cardWidth: 232, cardHeight: 292, fetchItems, draw: cards(run, () => run.compared[wanted.order] ?? ""), onshown: foldChips, onopen: open,
});

// ---- the run and its filters

function showRun() {
  document.title = `${run.name} · review`;
  byId("run").textContent = `${run.name} · ${run.method}`;
  byId("run").title = run.place;
  byId("score-filters").replaceChildren(...scoreFields(run.score_columns));
  byId("labels").replaceChildren(...run.labels.filter((label) => label.images).map((label) => make("button", { type: "button", data: { label: label.name }, "aria-pressed": "false", title: `in ${count(label.images)} image${label.images === 1 ? "" : "s"}, as predicted` }, swatch(label.colour), label.name, make("small", {}, count(label.images)))));
  const codes = Object.entries(run.errors);
  byId("filters").failed.closest("label").hidden = !codes.length && !wanted.failed;
  if (codes.length) byId("filters").failed.append(new Option("failed, any code", "any"), ...codes.map(([code, number]) => new Option(`${code} (${count(number)})`, code)));
  byId("filters").order.append(...Object.entries(run.compared).map(([order, other]) => new Option(`doubt and disagreement with ${other}`, order)));
  byId("filters").listed.closest("label").hidden = !run.lists.length;
  for (const node of [byId("filters").search.closest("label"), byId("search-key"), byId("search-key-help")]) node.hidden = !run.has_vectors;
  byId("filters").listed.append(...run.lists.map((name) => new Option(name, name)));
  const facts = [run.num_left ? `${count(run.num_left)} images are not annotated yet.` : "", run.images_notice, run.models_caution].filter(Boolean);
  if (facts.length) note(facts.join(" "));
  showProgress(run.progress);
}

// A link may name an order, a list or a score column that the run does not have any more.
function withoutOldNames(error) {
  const limits = Object.keys(wanted).filter(isScoreField);
  if (wanted.order === DEFAULTS.order && !wanted.listed && !wanted.search && !limits.length) throw error;
  for (const name of limits) delete wanted[name];
  Object.assign(wanted, { order: DEFAULTS.order, listed: "", search: "" });
  lost = error.message;
  return ask("/api/view", wanted);
}

function showProgress({ total, done }) {
  byId("done").textContent = `${count(done)} of ${count(total)} reviewed`;
  byId("done-bar").style.width = `${total ? (100 * done) / total : 0}%`;
}

function saved(state, reason) {
  showSaved(state, reason);
  if (state === "saved" && missed) filter();
}

function refused(error, decisions) {
  note(`Not stored: ${error.message}`, true);
  for (const { image_id: id } of decisions) viewer.forget(id);
  if (viewer.id) viewer.show(viewer.id, byId("place").textContent, viewer.current);
}

function listed(problem) {
  missed = problem !== "";
  noteOfList(problem);
}

async function filter(current = 0, opened = ask("/api/view", wanted)) {
  const set = Object.entries(wanted).filter(([name, value]) => name !== "order" && value !== (DEFAULTS[name] ?? "")).length;
  byId("filters-button").textContent = set ? `Filters (${set})` : "Filters";
  for (const button of byId("labels").children) button.setAttribute("aria-pressed", String(button.dataset.label === wanted.label));
  for (const button of byId("state").children) button.setAttribute("aria-pressed", String(button.dataset.state === wanted.state));
  viewer.orderBy(wanted.order, run.compared[wanted.order] ?? "");
  numFilters += 1;
  const mine = numFilters;
  const slow = setTimeout(() => mine === numFilters && wait(waitingFor()), 300);
  let found;
  try {
    found = await opened;
  } catch (error) {
    if (mine !== numFilters) return;
    wait("");
    listed(error.message);
    return;
  } finally {
    clearTimeout(slow);
  }
  if (mine !== numFilters) return; // a later filter was set
  listed("");
  searched ||= wanted.search !== "";
  view = found.view;
  const more = [found.passing > found.total ? `the first ${count(found.total)} shown` : "", found.without_vector ? `${count(found.without_vector)} without a vector left out` : ""];
  counted = [`${count(found.passing)} image${found.passing === 1 ? "" : "s"}`, ...more.filter(Boolean)].join(", ");
  wait("");
  grid.reset(found.total, current);
  if (!found.total) byId("grid").replaceChildren(make("p", { class: "empty" }, "No image passes these filters."));
  else byId("grid").querySelector(".empty")?.remove();
  remember();
}

// While a list is made, the one before stays, faded; what is waited for stands where its count was
// and takes its width, so that no filter moves to another line.
function wait(text) {
  byId("count").style.width = text ? `${byId("count").getBoundingClientRect().width}px` : "";
  byId("count").textContent = text || counted;
  byId("count").classList.toggle("busy", text !== "");
  byId("grid").setAttribute("aria-busy", String(text !== ""));
}

function waitingFor() {
  if (!wanted.search) return "ordering …";
  return searched ? "searching …" : "loading …";
}

async function fetchItems(start, limit) {
  try {
    return (await ask("/api/items", { view, start, limit })).items;
  } catch (error) {
    if (error.status === 410) filter(grid.current);
    throw error;
  }
}

// The orders that only a list or a search has.
function showOrders() {
  const { order } = byId("filters");
  order.querySelector("[value=listed]").hidden = !wanted.listed;
  order.querySelector("[value=searched]").hidden = !wanted.search;
}

// A list or a search that is chosen is shown in its own order first; a search goes before a list.
function chooseOrder(isChosen) {
  const { order } = byId("filters");
  showOrders();
  if (isChosen || order.selectedOptions[0].hidden) order.value = wanted.search ? "searched" : wanted.listed ? "listed" : DEFAULTS.order;
  wanted.order = order.value;
}

// A search is an order: another one ends it.
function endSearch() {
  byId("filters").search.value = wanted.search = "";
  showOrders();
}

function search(words) {
  if (words === wanted.search) return;
  wanted.search = words;
  chooseOrder(words !== "");
  filter();
}

const filterSoon = debounce(() => filter(), 200);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("input", ({ target }) => {
  const { name, value } = target;
  if (name === "search") {
    if (value === "") search(""); // words count once they are entered
    return;
  }
  if (isScoreField(name)) {
    if (!target.validity.valid) return;
    if (value === "" || Number(value) === Number(target.defaultValue)) delete wanted[name];
    else wanted[name] = value;
  } else if (name in wanted) wanted[name] = value;
  else return;
  if (name === "listed") chooseOrder(value !== "");
  if (name === "order" && value !== "searched" && wanted.search) endSearch();
  filterSoon();
});
byId("filters").search.addEventListener("change", ({ target }) => search(target.value.trim()));
byId("labels").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  wanted.label = wanted.label === button.dataset.label ? "" : button.dataset.label;
  filter();
});
byId("state").addEventListener("click", ({ target }) => {
  if (!target.dataset.state) return;
  wanted.state = target.dataset.state;
  filter();
});
// On a narrow screen the filters are behind a button.
byId("filters-button").onclick = ({ target }) => target.setAttribute("aria-expanded", String(byId("filters").classList.toggle("open")));
// More labels than two lines hold are behind a button.
byId("all-labels").onclick = ({ target }) => {
  const open = byId("labels").classList.toggle("open");
  target.setAttribute("aria-expanded", String(open));
  target.textContent = open ? "fewer labels" : allLabels();
};
const allLabels = () => `all ${count(byId("labels").children.length)} labels`;
function foldLabels() {
  const labels = byId("labels");
  if (labels.classList.contains("open")) return;
  byId("all-labels").hidden = labels.scrollHeight <= labels.clientHeight + 1;
  byId("all-labels").textContent = allLabels();
}
new ResizeObserver(foldLabels).observe(byId("labels"));
// Not a plain link: what follows # in the address is the filters.
byId("skip").onclick = (event) => {
  event.preventDefault();
  byId("grid").focus();
};
byId("opacity").addEventListener("input", ({ target }) => document.documentElement.style.setProperty("--masks", target.value));

// Shows the new state of some images, as the server answers a decision or an undo.
function takeIn(answer) {
  if (answer.progress) showProgress(answer.progress);
  if (!answer.images) return;
  for (const image of answer.images) {
    for (const item of grid.items.values()) if (item.image_id === image.image_id) Object.assign(item, { marks: image.marks, labels: image.labels, tint: image.tint });
    grid.redraw(image.image_id);
  }
  // The answer to an older decision would hide newer ones that are not answered yet.
  viewer.update(answer.images.filter((image) => !outbox.awaits(image.image_id)));
}

// ---- going from image to image

async function open(index, segment = null) {
  viewer.held = true; // nothing is decided until the new image is shown
  const item = await grid.item(index);
  if (!item) {
    viewer.held = false;
    if (grid.total) flash("the list cannot be loaded now");
    return undefined;
  }
  alone = false;
  grid.choose(index);
  remember(item.image_id);
  const shown = viewer.show(item.image_id, `${count(index + 1)} of ${count(grid.total)}`, segment);
  for (const ahead of [1, 2]) grid.item(index + ahead).then((next) => next && viewer.load(next.image_id));
  return shown;
}

// Shows an image at its place in the list, or alone if it is not in the list.
async function showAt(place, id, segment) {
  if (place !== null) return open(place, segment);
  alone = true;
  remember(id);
  return viewer.show(id, "not in this list", segment);
}

function go(step) {
  const index = alone ? grid.current : grid.current + step;
  if (index < 0) return;
  if (index >= grid.total) {
    flash("that was the last image of this list");
    viewer.list();
    viewer.colour();
    return;
  }
  open(index);
}

function close() {
  viewer.close();
  remember();
  byId("grid").focus({ preventScroll: true });
}

function remember(image = "") {
  const set = Object.entries({ ...wanted, image }).filter(([name, value]) => value !== "" && value !== DEFAULTS[name]);
  const hash = new URLSearchParams(set).toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
}

addEventListener("hashchange", () => location.reload()); // a link to another list was entered

function showFilters() {
  showOrders();
  for (const name of Object.keys(wanted)) {
    const field = byId("filters").elements.namedItem(name);
    if (field) field.value = wanted[name];
  }
}

// ---- keys and buttons

async function undo() {
  const { undone, overruled, images } = await outbox.undo();
  if (!undone) {
    flash("you have no decision to undo");
    return;
  }
  viewer.update(images);
  const { place } = await ask("/api/place", { view, id: undone.image_id }).catch(() => ({ place: null }));
  const facts = await viewer.load(undone.image_id).facts.catch(() => null);
  if (!facts) return;
  const segment = facts.segments.findIndex((one) => one.segment_index === undone.segment_index && one.label === undone.label);
  if (viewer.open && viewer.id === undone.image_id) viewer.choose(Math.max(0, segment));
  else if (viewer.open) await showAt(place, undone.image_id, Math.max(0, segment));
  else if (place !== null) grid.choose(place);
  const what = `${facts.path}, ${undone.label ?? "whole image"}`;
  flash(overruled ? `${what}: your decision is undone; a later decision of another reviewer stays` : `${what}: undone`);
}

async function relabel() {
  if (!viewer.open || !viewer.segment) return;
  const label = await chooseLabel(run.labels, viewer.segment.label);
  if (label) viewer.decide("relabel", { newLabel: label });
}

async function decideCard(action) {
  const item = await grid.item(grid.current);
  if (!item || item.status !== "ok") return;
  outbox.decide({ image_id: item.image_id, label: null, segment_index: null, action, new_label: "" });
  grid.move(1);
}

function decide(action, whole = false) {
  if (viewer.open) viewer.decide(action, { whole });
  else decideCard(action);
}

function tryWords() {
  location.href = `/try?${new URLSearchParams(viewer.id ? { image: viewer.id } : {})}`;
}

const ACTS = {
  accept: () => decide("accept"), reject: () => decide("reject"), skip: () => decide("skip"), relabel, undo,
  next: () => go(1), "accept-all": () => decide("accept", true), "reject-all": () => decide("reject", true),
};
const KEYS = {
  a: ACTS.accept, r: ACTS.reject, s: ACTS.skip, l: relabel, u: undo, A: ACTS["accept-all"], R: ACTS["reject-all"],
  "?": () => byId("help").showModal(), t: tryWords,
};
const IN_VIEWER = {
  n: () => go(1), p: () => go(-1), ArrowRight: () => go(1), ArrowLeft: () => go(-1),
  j: () => viewer.choose(viewer.current + 1), k: () => viewer.choose(viewer.current - 1),
  ArrowDown: () => viewer.choose(viewer.current + 1), ArrowUp: () => viewer.choose(viewer.current - 1),
  v: () => viewer.segment && viewer.toggle(viewer.segment.label), z: () => viewer.zoomToMask(),
  "+": () => viewer.stage.zoom(1.4), "=": () => viewer.stage.zoom(1.4), "-": () => viewer.stage.zoom(1 / 1.4), 0: () => viewer.stage.fit(),
  Escape: close, " ": () => viewer.stage.peek(true),
};
const IN_GRID = {
  n: () => grid.move(1), p: () => grid.move(-1), ArrowRight: () => grid.move(1), ArrowLeft: () => grid.move(-1),
  ArrowDown: () => grid.move(grid.columns), ArrowUp: () => grid.move(-grid.columns),
  Enter: () => open(grid.current),
  "/": () => run.has_vectors && byId("filters").search.focus(),
};

for (const name of ["help", "relabel"]) closeByClickBeside(byId(name));
listenToKeys({ viewer, acts: KEYS, inViewer: IN_VIEWER, inGrid: IN_GRID });
document.querySelector(".acts").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  button.blur(); // so that the next key goes to the masks, not to the button
  ACTS[button.dataset.act]();
});
byId("help-button").onclick = KEYS["?"];
byId("try-this").onclick = tryWords;
byId("previous").onclick = IN_VIEWER.p;
// The try page needs networks, which take seconds to load: start when somebody turns to its link.
let begun = false;
function loadNetworks() {
  if (!begun) ask("/api/try").catch(() => {});
  begun = true;
}
for (const link of [byId("try-link"), byId("try-this")]) for (const sign of ["pointerenter", "focus"]) link.addEventListener(sign, loadNetworks);

showRun();
showFilters();
if (lost) note(lost, true);
const image = given.get("image");
const isSearch = wanted.search !== "";
await filter(0, opening);
if (isSearch && lost) {
  showFilters();
  note(lost, true);
}
if (image) {
  const { place } = await ask("/api/place", { view, id: image }).catch(() => ({ place: null }));
  await showAt(place, image, null);
  if (!viewer.image) close(); // it is not of this run
}
