// One image in the grid: picture, masks, doubt, labels, and the state of its review.
import { bar, doubtText, make, swatch } from "./dom.js";
import { picture } from "./api.js";

const BADGES = [["rejected", "✕ rejected"], ["relabelled", "⇄ relabelled"], ["imported", "✓ reviewed elsewhere"], ["done", "✓ accepted"], ["skipped", "skipped"], ["begun", "begun"]];

const BADGE_HELP = { rejected: "of its masks; where it has none: a mask is missing", relabelled: "at least one of its masks has another label now" };

function badge({ marks, labels }) {
  const found = BADGES.find(([mark]) => marks.includes(mark));
  if (!found) return null;
  const [mark, word] = found;
  const masks = labels.reduce((sum, [, , number]) => sum + number, 0);
  const rejected = labels.reduce((sum, [, , , , number]) => sum + number, 0);
  const said = mark === "rejected" && rejected < masks ? `✕ ${rejected} of ${masks} rejected` : word;
  return make("span", { class: `badge ${mark}`, title: BADGE_HELP[mark] ?? "" }, ["rejected", "relabelled"].includes(mark) && !marks.includes("done") ? `${said}, not all decided` : said);
}

function agreement(item, other) {
  if (item.agreement === undefined) return null;
  if (item.agreement === null) return make("small", { title: `not compared with ${other}, or no masks in either` }, "IoU –");
  return make("small", { title: `mean IoU of the masks with those of ${other}` }, `IoU ${item.agreement.toFixed(2)}`);
}

const masks = (number, score) => (number > 1 ? `${number} masks, best score ${score.toFixed(2)}` : `1 mask, score ${score.toFixed(2)}`);

const isCut = (text) => text.scrollWidth > text.clientWidth;

// What a label was before goes where it or the new label would be cut: the tooltip has it.
function dropOldLabels(chips) {
  for (const was of chips.map((chip) => chip.querySelector(".was"))) {
    if (was && !was.hidden) was.hidden = isCut(was) || isCut(was.parentElement.querySelector("span"));
  }
}

// Puts "+3" in place of the chips that a card has no room for.
export function foldChips(card) {
  const box = card.querySelector(".labels");
  const chips = [...box.querySelectorAll(".chip:not(.more)")];
  box.querySelector(".more")?.remove();
  box.classList.remove("folded");
  for (const node of [...chips, ...box.querySelectorAll(".was")]) node.hidden = false;
  dropOldLabels(chips);
  const isFull = () => box.scrollHeight > box.clientHeight + 1;
  if (!isFull()) return;
  box.classList.add("folded"); // leaves room for it
  dropOldLabels(chips);
  const bottom = box.getBoundingClientRect().bottom;
  let kept = chips.filter((chip) => chip.getBoundingClientRect().bottom <= bottom + 1).length;
  const more = make("span", { class: "chip more" });
  box.append(more);
  do {
    chips.forEach((chip, place) => { chip.hidden = place >= kept; });
    more.textContent = `+${chips.length - kept}`;
    more.title = chips.slice(kept).map((chip) => chip.title).join("; ");
    kept -= 1;
  } while (kept > 0 && isFull());
}

// run: facts of the run; other(): short name of the run that the order compares with.
export function cards(run, other) {
  const labels = new Map(run.labels.map((label) => [label.id, label]));
  const scoreHelp = run.score_columns.find(({ name }) => name === "mean_prob").help;

  return function card(item) {
    const ok = item.status === "ok";
    const figure = make("figure", {}, badge(item), item.note ? make("span", { class: "listed", title: "as the list or the search says" }, item.note) : null);
    const failed = () => figure.replaceChildren(make("p", {}, "cannot be read any more: open it to see where it was looked for"));
    if (ok && !run.images_notice) figure.append(make("img", { class: "photo", alt: "", src: picture("photo", item.image_id, run.key), onerror: failed }));
    if (ok) figure.append(make("img", { class: "masks", alt: "", src: picture("tint", item.image_id, run.key, item.tint ? { tint: item.tint } : {}) }));
    else figure.append(make("p", {}, item.error_code));
    const chips = item.labels.map(([id, score, number, predicted, rejected]) => {
      const { name, colour } = labels.get(id);
      const was = id === predicted ? "" : `was ${labels.get(predicted).name}`;
      const gone = rejected === number ? "rejected" : rejected ? `${rejected} rejected` : "";
      const said = [masks(number, score), was, gone].filter(Boolean).join(", ");
      return make("span", { class: rejected === number ? "chip rejected" : "chip", title: `${name}: ${said}` }, swatch(colour), make("span", {}, name), make("small", { title: `${masks(number, score)}. ${scoreHelp}` }, number > 1 ? `${number} × ≤ ${score.toFixed(2)}` : score.toFixed(2)), was ? make("small", { class: "was" }, was) : null);
    });
    return make("article", { title: item.path }, figure, make("section", {},
      make("div", { class: "named" }, make("h2", {}, item.path), ok ? agreement(item, other()) : null),
      ok ? make("div", { class: "doubt", title: run.doubt_help }, bar(item.doubt ?? 0), doubtText(item.doubt)) : null,
      make("div", { class: "labels" }, ...(chips.length ? chips : [make("small", {}, ok ? "no masks" : "failed")])),
    ));
  };
}
