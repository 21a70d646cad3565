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
  });
}
