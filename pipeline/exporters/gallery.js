const cards = [...document.querySelectorAll("article")];
const buttons = [...document.querySelectorAll("button[data-label]")];
const page = document.documentElement;
document.getElementById("opacity").addEventListener("input", (event) => page.style.setProperty("--masks", event.target.value));
// A finger cannot point: a tap shows the image without its masks, another one with them.
for (const figure of document.querySelectorAll("figure")) figure.addEventListener("click", () => figure.classList.toggle("plain"));
for (const button of buttons) {
  button.addEventListener("click", () => {
    const wanted = button.getAttribute("aria-pressed") === "true" ? "" : button.dataset.label;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other.dataset.label === wanted));
    for (const card of cards) card.hidden = wanted !== "" && !card.dataset.labels.split(" ").includes(wanted);
    const shown = cards.filter((card) => !card.hidden).length;
    document.getElementById("shown").textContent = wanted ? `Shown: ${shown} of ${cards.length}.` : "";
  });
}
// More labels than two lines hold are behind a button.
const labels = document.getElementById("labels");
const all = document.getElementById("all-labels");
const fold = () => { all.hidden = !labels.classList.contains("open") && labels.scrollHeight <= labels.clientHeight + 1; };
all.addEventListener("click", () => {
  const open = labels.classList.toggle("open");
  all.setAttribute("aria-expanded", String(open));
  all.textContent = open ? "fewer labels" : `all ${buttons.length} labels`;
});
all.textContent = `all ${buttons.length} labels`;
new ResizeObserver(fold).observe(labels);
