// One image of the run: its masks in a list and on the stage, with the decision on each.
import { announce, bar, byId, doubtText, eye, flash, make, shade, shown, swatch } from "./dom.js";
import { ask, picture } from "./api.js";
import { captions } from "./scores.js";
import { Stage, readNumbers } from "./stage.js";

const KEPT = 6;
const WORDS = { accept: "accepted", reject: "rejected", relabel: "relabelled", skip: "skipped" };

// Puts the masks of an image in the order of its card: the label with the best score first, of each
// label its best mask first. `number` is that of a mask in the picture of numbers.
function inOrder(facts) {
  const best = new Map();
  for (const { label, mean_prob: score } of facts.segments) best.set(label, Math.max(best.get(label) ?? 0, score));
  const labels = [...best.keys()].sort((one, other) => best.get(other) - best.get(one));
  const ranks = new Map(labels.map((label, rank) => [label, rank]));
  const numbered = facts.segments.map((segment, place) => ({ ...segment, number: place + 1 }));
  numbered.sort((one, other) => ranks.get(one.label) - ranks.get(other.label) || other.mean_prob - one.mean_prob);
  return { ...facts, segments: numbered };
}

export class Viewer {
  // run: facts of the run; ondecide(decision), onnext() and onclose() are called for the reviewer.
  constructor(run, { ondecide, onnext, onclose }) {
    Object.assign(this, { run, ondecide, onnext, onclose });
    this.colours = new Map(run.labels.map((label) => [label.name, label.colour]));
    this.hidden = new Set();
    this.loaded = new Map();
    this.segments = [];
    this.current = 0;
    this.order = "priority";
    this.other = ""; // short name of the run that the order compares with
    this.held = false; // an image is loading: nothing is decided before it is shown
    this.stage = new Stage(byId("stage"), byId("canvas"), {
      onpick: (number) => number && this.choose(this.placeOf(number)),
      onhover: (number) => this.hover(this.placeOf(number)),
      onzoom: (scale) => { byId("zoom").textContent = `${Math.round(100 * scale)} %`; },
    });
    byId("zoom-in").onclick = () => this.stage.zoom(1.4);
    byId("zoom-out").onclick = () => this.stage.zoom(1 / 1.4);
    byId("zoom-fit").onclick = () => this.stage.fit();
    byId("close").onclick = () => this.onclose();
    byId("opacity-one").oninput = (event) => this.stage.setOpacity(Number(event.target.value));
  }

  get open() {
    return !byId("viewer").hidden;
  }

  get id() {
    return this.image?.image_id;
  }

  get segment() {
    return this.segments[this.current];
  }

  // The place in the list of a mask of the picture; -1: it has none.
  placeOf(number) {
    return this.segments.findIndex((segment) => segment.number === number);
  }

  // The facts of an image depend on the order.
  orderBy(order, other) {
    if (order !== this.order) this.loaded.clear();
    Object.assign(this, { order, other });
  }

  // Loads an image with its pictures; the next images are loaded ahead.
  load(id) {
    if (!this.loaded.has(id)) {
      const pictures = Promise.all([this.photo(id), this.numbers(id)]);
      // The comparison of the order may be deleted; the image is still there.
      const facts = ask("/api/image", { id, order: this.order }).catch(() => ask("/api/image", { id }));
      const loading = { facts: facts.then(inOrder), pictures };
      pictures.catch(() => this.loaded.delete(id));
      loading.facts.catch(() => this.loaded.delete(id));
      this.loaded.set(id, loading);
      for (const old of this.loaded.keys()) {
        if (this.loaded.size <= KEPT) break;
        if (old !== this.id) this.loaded.delete(old);
      }
    }
    return this.loaded.get(id);
  }

  async photo(id) {
    const response = await fetch(picture("photo", id, this.run.key, { size: "large" }));
    return response.ok ? createImageBitmap(await response.blob()) : { why: (await response.json()).error };
  }

  async numbers(id) {
    const response = await fetch(picture("segments", id, this.run.key));
    return response.ok ? readNumbers(await response.blob()) : null;
  }

  // While the viewer is open the page behind it cannot be focused.
  reveal(open) {
    byId("viewer").hidden = !open;
    document.body.classList.toggle("viewing", open);
    for (const behind of document.querySelectorAll("a.skip, .top, #filters, #scroller")) behind.inert = open;
    if (open && !byId("viewer").contains(document.activeElement)) byId("viewer").focus();
  }

  // Loads an image again when it is shown next.
  forget(id) {
    this.loaded.delete(id);
  }

  // Shows an image; decisions are taken once it is visible.
  async show(id, place, segment = null) {
    this.reveal(true);
    this.wanted = id;
    this.held = true;
    this.hint("");
    delete byId("viewer").dataset.ready;
    const loading = this.load(id);
    const slow = setTimeout(() => this.wanted === id && this.hint("loading …"), 400);
    try {
      this.showFacts(await loading.facts, place, segment);
      this.showPictures(await loading.pictures, id);
    } catch (error) {
      if (this.wanted === id) this.hint(`This image cannot be loaded now. ${error.message}`);
    } finally {
      clearTimeout(slow);
    }
  }

  showFacts(image, place, segment) {
    const id = image.image_id;
    if (this.wanted !== id) return;
    byId("place").textContent = place;
    this.image = image;
    this.stage.clear();
    this.segments = image.segments;
    this.decisions = image.decisions;
    this.current = segment ?? this.firstUndecided(0);
    byId("path").textContent = shown(image.path);
    byId("path").title = shown(image.path);
    byId("doubt").replaceChildren(doubtText(image.doubt));
    byId("doubt-bar").style.width = `${Math.round(100 * (image.doubt ?? 0))}%`;
    byId("doubt-line").title = this.run.doubt_help;
    byId("agreement").hidden = image.agreement === undefined;
    byId("agreement").textContent = image.agreement === null ? `not compared with ${this.other}` : `mean mask IoU with ${this.other}: ${image.agreement?.toFixed(2)}`;
    byId("imported").hidden = !image.marks.includes("imported");
    this.list();
  }

  showPictures([photo, numbers], id) {
    if (this.wanted !== id) return;
    const { image } = this;
    const size = { width: image.width, height: image.height };
    this.hint(image.status === "error" ? `${image.error_code}: ${image.error_message}` : "");
    if (photo.why && image.status !== "error") this.hint(`The image cannot be read any more. ${photo.why}`);
    const bitmap = photo.why ? null : photo;
    this.stage.show(bitmap, numbers, bitmap || numbers ? size : null);
    this.colour();
    this.held = false;
    byId("viewer").dataset.ready = id;
  }

  close() {
    this.wanted = this.image = undefined;
    this.reveal(false);
    this.stage.clear();
  }

  hint(text) {
    byId("hint").textContent = text;
    byId("hint").hidden = !text;
  }

  // The current decision on a mask: its own, else its label's, else the image's.
  decisionOn(segment) {
    const fits = [
      (one) => one.segment_index === segment.segment_index && one.label === segment.label,
      (one) => one.segment_index === null && one.label === segment.label,
      (one) => one.label === null,
    ];
    let skipped = null;
    for (const fit of fits) {
      const found = this.decisions.find(fit);
      if (found && found.action !== "skip") return found;
      skipped ??= found ?? null;
    }
    return skipped;
  }

  firstUndecided(from) {
    const order = this.segments.map((_, place) => (from + place) % this.segments.length);
    return order.find((place) => !this.decisionOn(this.segments[place])) ?? 0;
  }

  get allDecided() {
    return this.segments.every((segment) => this.decisionOn(segment));
  }

  // The label that each mask has now, its colour, and of several instances of a label a number and a
  // shade of the colour.
  looks() {
    const labels = this.segments.map((segment) => {
      const decision = this.decisionOn(segment);
      return decision?.action === "relabel" ? decision.new_label : segment.label;
    });
    const all = new Map();
    for (const label of labels) all.set(label, (all.get(label) ?? 0) + 1);
    const seen = new Map();
    return labels.map((label, place) => {
      const colour = this.colours.get(label);
      if (this.segments[place].kind !== "instance" || all.get(label) === 1) return { label, colour, name: label };
      seen.set(label, (seen.get(label) ?? 0) + 1);
      return { label, colour: shade(colour, seen.get(label) - 1), name: `${label} ${seen.get(label)}` };
    });
  }

  list() {
    const looks = this.looks();
    const rows = this.segments.slice(0, 500).map((segment, place) => {
      const decision = this.decisionOn(segment);
      const shown = !this.hidden.has(segment.label);
      const { label, colour, name: text } = looks[place];
      const name = make("div", { class: "name" }, swatch(colour), make("span", {}, text));
      const row = make("div", { class: "mask", role: "listitem", data: { place }, onclick: () => this.choose(place), onpointerenter: () => this.hover(place), onpointerleave: () => this.hover(-1) },
        eye(shown, segment.label, (event) => { event.stopPropagation(); this.toggle(segment.label); }),
        name,
        decision ? make("span", { class: `said ${decision.action}` }, WORDS[decision.action]) : make("small", {}, place < 9 ? make("kbd", {}, String(place + 1)) : ""),
        make("div", { class: "numbers" }, bar(segment.mean_prob), ...this.captions(segment).map(([{ help }, text]) => make("span", { title: help }, text)), this.agreement(segment)),
        label === segment.label ? null : make("small", { class: "was" }, `was ${segment.label}`),
        segment.damage ? make("small", { class: "was" }, `damaged, not shown: ${segment.damage}`) : null,
      );
      row.classList.toggle("rejected", decision?.action === "reject");
      row.classList.toggle("hidden-mask", !shown);
      return row;
    });
    if (!rows.length) {
      const whole = this.decisions.find((one) => one.label === null);
      const why = this.image.status === "error" ? "This image failed in the run: there is nothing to decide." : "No masks. Accept if the image shows none of the labels, reject if a mask is missing.";
      rows.push(make("p", {}, make("small", {}, why), " ", whole ? make("span", { class: `said ${whole.action} chip` }, WORDS[whole.action]) : ""));
    }
    const held = byId("masks").contains(document.activeElement) ? document.activeElement.closest(".mask")?.dataset.place : undefined;
    byId("masks").replaceChildren(...rows);
    if (held) byId("masks").querySelector(`[data-place="${held}"] .eye`)?.focus();
    this.point();
  }

  // Marks the current mask in the list, without building the list again, which is slow for hundreds.
  point() {
    for (const row of byId("masks").children) {
      const current = row.dataset.place === String(this.current);
      row.classList.toggle("current", current);
      row.setAttribute("aria-current", String(current));
    }
    const { segment } = this;
    const decision = segment && this.decisionOn(segment);
    announce(segment ? `mask ${this.current + 1} of ${this.segments.length}: ${this.looks()[this.current].name}, ${this.captions(segment)[0][1]}, ${decision ? WORDS[decision.action] : "undecided"}` : "no masks");
    byId("masks").querySelector(".current")?.scrollIntoView({ block: "nearest" });
  }

  captions(segment) {
    return captions(this.run.score_columns, "viewer", segment);
  }

  agreement(segment) {
    if (segment.agreement === undefined) return null;
    const known = segment.agreement === null ? "–" : segment.agreement.toFixed(2);
    return make("span", { title: `IoU of this label with ${this.other} in the image` }, `IoU ${known}`);
  }

  colour() {
    const styles = [];
    const looks = this.looks();
    this.segments.forEach((segment, place) => {
      styles[segment.number] = {
        colour: looks[place].colour, shown: !this.hidden.has(segment.label),
        current: place === this.current, rejected: this.decisionOn(segment)?.action === "reject",
        box: segment.damage ? null : segment.bbox_xywh,
      };
    });
    this.stage.paint(styles);
  }

  // Highlights a mask on the stage and in the list; -1: none.
  hover(place) {
    this.stage.hover(this.segments[place]?.number ?? 0);
    byId("masks").querySelector(".hovered")?.classList.remove("hovered");
    byId("masks").querySelector(`[data-place="${place}"]`)?.classList.add("hovered");
  }

  choose(place) {
    if (!this.segments.length) return;
    this.current = (place + this.segments.length) % this.segments.length;
    this.point();
    this.colour();
  }

  toggle(label) {
    if (!this.hidden.delete(label)) this.hidden.add(label);
    this.list();
    this.colour();
  }

  zoomToMask() {
    if (this.segment) this.stage.zoomTo(this.segment.bbox_xywh);
  }

  // Decides the current mask or the whole image, and goes to the next undecided mask or image.
  decide(action, { whole = false, newLabel = "" } = {}) {
    if (this.held || !this.image || this.image.status === "error") return;
    const segment = whole ? null : this.segment;
    if (!segment && action === "relabel") return;
    const key = { label: segment?.label ?? null, segment_index: segment?.segment_index ?? null };
    const decision = { image_id: this.id, ...key, action, new_label: newLabel };
    const { name } = segment ? this.looks()[this.current] : { name: "whole image" };
    const others = whole ? [] : this.decisions.filter((one) => one.label !== key.label || one.segment_index !== key.segment_index);
    this.decisions = this.image.decisions = [...others, decision];
    const isLast = whole || this.allDecided;
    // The next image is shown then, which may have a mask of the same name.
    flash(`${isLast ? `${this.image.path}, ` : ""}${name}: ${WORDS[action]}${newLabel ? ` ${newLabel}` : ""}`);
    this.ondecide(decision);
    if (isLast) this.onnext();
    else {
      this.list();
      this.choose(this.firstUndecided(this.current + 1));
    }
  }

  // Takes over the state of images as the server answers it.
  update(images) {
    const image = images.find((one) => one.image_id === this.id);
    for (const one of images) {
      const kept = this.loaded.get(one.image_id);
      kept?.facts.then((facts) => Object.assign(facts, one));
    }
    if (!image) return;
    this.decisions = image.decisions;
    this.list();
    this.colour();
  }
}
