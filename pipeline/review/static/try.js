// The try page: an image, some words and a method give masks.
import { bar, byId, count, debounce, eye, make, shade, swatch, withCode } from "./dom.js";
import { ask, picture, send, showing } from "./api.js";
import { captions } from "./scores.js";
import { Stage, readNumbers } from "./stage.js";

const STRIP = 60;
const STAGES = [["decode_s", "read the image"], ["encode_s", "image features"], ["score_s", "score the words"], ["decide_s", "masks"]];

const stage = new Stage(byId("stage"), byId("canvas"), { onzoom: (scale) => { byId("zoom").textContent = `${Math.round(100 * scale)} %`; } });
const hidden = new Set();
let image = null; // { source, id }
let ready = false; // its photograph is on the stage
let loading = true; // the networks
let answer = null;
let asking = null;
let run = null;
let maxBytes = Infinity; // of an upload

function hint(text) {
  byId("hint").textContent = text;
  byId("hint").hidden = !text;
}

const began = performance.now();
let counted = began; // when that began of which the hint counts the seconds
const waited = () => ` ${Math.round((performance.now() - counted) / 1000)} s`;
setInterval(() => { if (byId("seconds")) byId("seconds").textContent = waited(); }, 1000);

// The seconds are not read aloud: a screen reader would say the hint again every second.
function hintWait(text, since) {
  counted = since;
  hint(text);
  byId("hint").append(make("span", { id: "seconds", "aria-hidden": "true" }, waited()));
}

const hintLoading = () => hintWait("loading the networks …", began);
const endHintLoading = () => byId("seconds") && counted === began && hint("");

function fail(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

// ---- images

async function load(url) {
  try {
    const response = await fetch(url);
    return response.ok ? await createImageBitmap(await response.blob()) : { why: (await response.json()).error };
  } catch (error) {
    return { why: error.message };
  }
}

async function showPhoto(source, id, url) {
  asking?.abort();
  image = { source, id };
  ready = false;
  answer = null;
  byId("found").classList.add("stale"); // of the image before
  for (const button of byId("strip").querySelectorAll("button")) button.classList.toggle("current", button.dataset.id === id);
  const slow = setTimeout(() => image.id === id && hint("loading …"), 400);
  const photo = await load(url).finally(() => clearTimeout(slow));
  if (image.id !== id) return;
  if (photo.why) {
    stage.clear();
    hint(`This image cannot be read. ${photo.why}`);
    return;
  }
  ready = true;
  if (loading) hintLoading();
  else hint("");
  stage.show(photo, null, { width: photo.width, height: photo.height });
  explain();
  await segment();
}

function thumbnail(item) {
  const small = make("img", { alt: item.path, loading: "lazy", src: picture("photo", item.image_id, run.key) });
  return make("button", { title: item.path, data: { id: item.image_id }, onclick: () => pick(item.image_id) }, small);
}

const pick = (id) => showPhoto("run", id, picture("photo", id, run.key, { size: "large" }));

async function upload(files) {
  const [file] = files;
  if (!file) return;
  fail("");
  hint("sending …");
  try {
    if (files.length > 1) throw new Error("One image at a time, please.");
    if (file.size > maxBytes) throw new Error(`${file.name} is larger than ${maxBytes >> 20} MB.`);
    // A folder has a name and a size too; it cannot be read.
    await file.slice(0, 1).arrayBuffer().catch(() => { throw new Error(`${file.name} cannot be read: is it a folder?`); });
    const taken = await send("/api/try/upload", file);
    await showPhoto("upload", taken.upload, `/api/try/photo?${new URLSearchParams({ upload: taken.upload })}`);
  } catch (error) {
    hint("");
    fail(error.message);
  }
}

byId("drop").onclick = () => byId("file").click();
byId("file").onchange = ({ target }) => upload(target.files).finally(() => { target.value = ""; }); // the same one may be chosen again
addEventListener("dragover", (event) => { event.preventDefault(); byId("stage").classList.add("over"); });
addEventListener("dragleave", (event) => event.relatedTarget === null && byId("stage").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("stage").classList.remove("over");
  upload(event.dataTransfer.files);
});
addEventListener("paste", (event) => upload(event.clipboardData.files));

// ---- words to masks

const PARTS = /[,\n]/; // parts words
const words = () => [...new Set(byId("words").value.split(PARTS).map((word) => word.trim()).filter(Boolean))];

async function segment() {
  const method = byId("method").value;
  asking?.abort();
  if (!ready || !method) return;
  if (!words().length) {
    hint("Write the words to look for.");
    byId("found").classList.add("stale");
    return;
  }
  asking = new AbortController();
  const { signal } = asking;
  const since = performance.now();
  const timers = [setTimeout(() => hintWait("looking …", since), 600)];
  timers.push(setTimeout(() => hintWait("encoding the image and new words, slow on a CPU …", since), 6000));
  try {
    const found = await send("/api/try/segment", { ...image, words: words(), method }, signal);
    const bytes = Uint8Array.from(atob(found.segments_png), (letter) => letter.charCodeAt(0));
    const numbers = await readNumbers(new Blob([bytes], { type: "image/png" }));
    if (signal.aborted) return;
    answer = found;
    byId("found").classList.remove("stale");
    fail("");
    stage.show(stage.photo, numbers, { width: found.width, height: found.height }, { keep: stage.size?.width === found.width });
    show();
  } catch (error) {
    if (signal.aborted) return;
    fail(error.message);
    byId("found").classList.add("stale"); // of the words before
  } finally {
    timers.forEach(clearTimeout);
    if (!signal.aborted) hint("");
  }
}

// The scores of a mask; percentages stand apart, beside the word.
const texts = (mask, percentages) => captions(run.score_columns, "try", mask).filter(([column]) => column.percent === percentages).map(([{ help }, text]) => make("span", { title: help }, text));

function show() {
  byId("method-caution").textContent = answer.caution;
  byId("method-caution").hidden = !answer.caution;
  // The scores beside a word are those of its largest mask.
  const largest = new Map(answer.segments.toSorted((one, other) => one.area_frac - other.area_frac).map((one) => [one.category_id, one]));
  const masksOf = (word) => answer.segments.filter((one) => one.category_id === word.id).length;
  const ordered = answer.words.toSorted((one, other) => (largest.get(other.id)?.area_frac ?? -1) - (largest.get(one.id)?.area_frac ?? -1) || other.max_prob - one.max_prob);
  const held = byId("found").contains(document.activeElement) ? document.activeElement.closest(".mask")?.dataset.word : undefined;
  byId("found").replaceChildren(...ordered.map((word) => {
    const found = largest.get(word.id);
    const shown = !hidden.has(word.name);
    const row = make("div", { class: "mask", data: { word: word.name }, onclick: () => toggle(word.name) },
      found ? eye(shown, word.name, (event) => { event.stopPropagation(); toggle(word.name); }) : make("span"),
      make("div", { class: "name" }, swatch(word.colour), make("span", {}, word.name), ...(masksOf(word) > 1 ? [make("small", { title: `${masksOf(word)} masks; the scores are those of the largest` }, `× ${masksOf(word)}`)] : [])),
      make("small", {}, ...(found ? texts(found, true) : ["not found"])),
      make("div", { class: "numbers" }, bar(found ? found.mean_prob : word.max_prob), ...(found ? texts(found, false) : [make("span", { title: "the highest probability of this word at any pixel" }, `at most ${word.max_prob.toFixed(2)} anywhere`)])));
    row.classList.toggle("hidden-mask", !found || !shown);
    return row;
  }));
  if (held) [...byId("found").children].find((row) => row.dataset.word === held)?.querySelector(".eye")?.focus();
  colour();
  // A line breaks between its words only, not at their hyphens.
  byId("command").replaceChildren(...answer.command.split(" ").flatMap((word, place) => [place ? " " : "", Object.assign(document.createElement("span"), { textContent: word })]));
  byId("command-lacks").textContent = answer.command_lacks;
  byId("copy").disabled = false;
  const { seconds } = answer;
  byId("times").replaceChildren(...STAGES.flatMap(([name, text]) => [make("span", {}, text), bar(seconds.total_s ? seconds[name] / seconds.total_s : 0), make("b", {}, time(seconds[name]))]),
    make("span", {}, "in all"), make("span"), make("b", {}, time(seconds.total_s)));
  byId("reused").hidden = false;
  byId("reused").classList.toggle("fresh", answer.encoded);
  byId("reused").textContent = answer.encoded ? "encoded for this method" : "features reused: only the words were scored";
  byId("stage").dataset.answers = Number(byId("stage").dataset.answers ?? 0) + 1;
}

function colour() {
  const colours = new Map(answer.words.map((word) => [word.id, word]));
  const styles = [];
  const seen = new Map(); // instances of a word have shades of its colour, as on the review page
  answer.segments.forEach((one, place) => {
    const word = colours.get(one.category_id);
    const number = seen.get(word.id) ?? 0;
    if (one.kind === "instance") seen.set(word.id, number + 1);
    styles[place + 1] = { colour: shade(word.colour, number), shown: !hidden.has(word.name), current: false, rejected: false };
  });
  stage.paint(styles);
}

function toggle(word) {
  if (!hidden.delete(word)) hidden.add(word);
  if (answer) show();
}

const time = (seconds) => (seconds === 0 ? "–" : seconds < 0.0095 ? `${(1000 * seconds).toFixed(1)} ms` : seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(2)} s`);

// Browsers copy by themselves only on the loopback and with https; elsewhere the text is marked.
byId("copy").onclick = async ({ target }) => {
  try {
    await navigator.clipboard.writeText(byId("command").textContent);
    target.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("command"));
    target.textContent = "Marked";
  }
  setTimeout(() => { target.textContent = "Copy"; }, 2000);
};

const segmentSoon = debounce(segment, 300);
byId("words").oninput = segmentSoon;
byId("method").onchange = segment;
byId("opacity").oninput = ({ target }) => stage.setOpacity(Number(target.value));
byId("zoom-in").onclick = () => stage.zoom(1.4);
byId("zoom-out").onclick = () => stage.zoom(1 / 1.4);
byId("zoom-fit").onclick = () => stage.fit();

// ---- begin

const option = ({ name, title }) => new Option(title === name ? name : `${name} · ${title}`, name);

async function offerOwnMethod() {
  const { method, max_bytes: most } = await ask("/api/try");
  maxBytes = most;
  if (method.reason) throw new Error(method.reason);
  byId("method").replaceChildren(option(method));
}

async function offerOtherMethods() {
  const { methods, refused } = await ask("/api/try/methods");
  byId("method").append(...methods.map(option));
  byId("method-note").replaceChildren(make("small", {}, refused.length ? `Not with this run's networks: ${refused.map(({ name }) => name).join(", ")}.` : ""));
  byId("method-note").title = refused.map(({ name, reason }) => `${name}: ${reason}`).join("\n");
}

// Fills in words of the run, those of an image first; a label that a comma would part is left out.
function fillIn(segments) {
  const whole = run.labels.filter((label) => !PARTS.test(label.name));
  const inImage = new Set(segments.map((segment) => segment.label).filter((name) => !PARTS.test(name)));
  const present = whole.toSorted((one, other) => inImage.has(other.name) - inImage.has(one.name) || other.images - one.images);
  const filledIn = present.slice(0, Math.max(6, inImage.size));
  byId("words").value = filledIn.map((label) => label.name).join(", ");
  const which = inImage.size ? "those found in this image, then those found in most" : "those found in most images";
  const some = filledIn.length < present.length ? `${filledIn.length} of the run's ${count(run.labels.length)} words: ${which}. ` : "";
  const number = run.labels.length - whole.length;
  const leftOut = number ? `Left out: ${count(number)} label${number === 1 ? "" : "s"} with a comma. ` : "";
  explain(some + leftOut);
  byId("words").addEventListener("input", () => explain(""), { once: true }); // other words are not the run's
}

let wordsNote = ""; // of the run's words, until they are changed
function explain(filled = wordsNote) {
  wordsNote = filled;
  const caution = run?.models_caution || (image?.source === "upload" && run?.upload_caution);
  byId("words-note").replaceChildren(make("small", {}, ...withCode(`${filled}Separate them by commas. ${caution || "The masks follow while you type."}`)));
}

function endLoading() {
  loading = false;
  if (!byId("method").value) byId("method").replaceChildren(new Option("not loaded", ""));
}

async function start() {
  hintLoading();
  const offering = offerOwnMethod();
  offering.catch(() => {});
  run = await ask("/api/run");
  showing(run);
  document.title = `${run.name} · try words`;
  byId("run").textContent = `${run.name} · ${run.method}`;
  const asked = new URLSearchParams(location.search).get("image");
  fillIn(asked ? (await ask("/api/image", { id: asked }).catch(() => ({ segments: [] }))).segments : []);
  const { view } = await ask("/api/view");
  const { items } = await ask("/api/items", { view, start: 0, limit: STRIP });
  byId("strip").append(...items.map(thumbnail));
  const first = asked ?? items[0]?.image_id;
  const picked = first && pick(first).catch((error) => fail(error.message)); // without waiting for the networks
  await offering.catch((error) => fail(error.message));
  endLoading();
  if (!image) hint("Drop an image here.");
  else endHintLoading();
  await picked;
  if (!answer) await segment();
  await offerOtherMethods();
  ask("/api/try/warm").catch(() => {}); // the first use of a method is slow
}

start().catch((error) => {
  endLoading();
  endHintLoading();
  fail(error.message);
});
