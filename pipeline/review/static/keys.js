// The keys of the review page.

// The meaning of a key: its letter, whatever Caps Lock says; on keyboards without Latin letters (such
// as Cyrillic) the letter at the same place.
function meaning({ key, code, shiftKey }) {
  const elsewhere = key.length === 1 && key > "\u007f" && /^Key[A-Z]$/.test(code);
  const letter = elsewhere ? code.at(-1) : key;
  if (!/^[a-z]$/i.test(letter)) return key;
  return shiftKey ? letter.toUpperCase() : letter.toLowerCase();
}

// acts: what a key does, by its meaning; inViewer, inGrid: what it does there, before acts.
export function listenToKeys({ viewer, acts, inViewer, inGrid }) {
  addEventListener("keydown", (event) => {
    const { target } = event;
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    const dialog = document.querySelector("dialog[open]");
    if (dialog) {
      if (event.key !== "Escape") return;
      event.preventDefault(); // the browser closes it a moment later, and loses the next key
      dialog.close();
      return;
    }
    const key = meaning(event);
    if (target.matches("input:not([type=range]), select, textarea")) {
      if (key === "Escape") target.blur();
      return;
    }
    if (target.matches("a, button, input") && (key === "Enter" || key === " " || (target.type === "range" && key.startsWith("Arrow")))) return;
    const digit = viewer.open && /^[1-9]$/.test(key) ? Number(key) : 0;
    const act = digit && digit <= viewer.segments.length ? () => viewer.choose(digit - 1) : (viewer.open ? inViewer : inGrid)[key] ?? acts[key];
    if (!act) return;
    event.preventDefault();
    if (!event.repeat || key.startsWith("Arrow") || "jk+-np".includes(key)) act();
  });
  addEventListener("keyup", ({ key }) => key === " " && viewer.stage.peek(false));
}
