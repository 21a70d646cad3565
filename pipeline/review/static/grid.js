// A grid of any number of cards; only the visible ones are in the document.

const GAP = 14;
const PAGE = 60;
const KEPT_PAGES = 40;

export class Grid {
  // fetchItems(start, limit) -> promise of items; draw(item, index) -> article; onshown(article): it
  // is in the document, or has another width.
  constructor(scroller, grid, { cardWidth, cardHeight, fetchItems, draw, onshown, onopen }) {
    Object.assign(this, { scroller, grid, cardWidth, cardHeight, fetchItems, draw, onshown, onopen });
    this.total = 0;
    this.margin = 0;
    this.current = 0;
    this.era = 0;
    this.cards = new Map();
    this.pages = new Map();
    this.items = new Map();
    scroller.addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(scroller);
    grid.addEventListener("click", (event) => {
      const card = event.target.closest("article");
      if (card) this.onopen(Number(card.dataset.index));
    });
  }

  // Shows another list, from its top.
  reset(total, current = 0) {
    this.era += 1;
    this.total = total;
    this.current = Math.max(0, Math.min(current, total - 1));
    this.pages.clear();
    this.items.clear();
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.margin = 0; // visible cards first, a row ahead of them later
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      this.margin = 1;
      this.soon();
    }, 500);
    this.layout();
    this.scroller.scrollTop = 0;
    this.reveal();
  }

  layout() {
    const width = this.scroller.clientWidth - 2 * parseFloat(getComputedStyle(this.scroller).paddingLeft);
    this.columns = Math.max(1, Math.floor((width + GAP) / (this.cardWidth + GAP)));
    this.width = (width - GAP * (this.columns - 1)) / this.columns;
    this.rowHeight = this.cardHeight + GAP;
    this.grid.style.height = `${Math.ceil(this.total / this.columns) * this.rowHeight + 2 * GAP}px`;
    for (const [index, card] of this.cards) {
      this.put(card, index);
      this.onshown(card);
    }
    this.soon();
  }

  soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.show();
    });
  }

  visible() {
    const { margin } = this;
    const top = this.scroller.scrollTop - GAP;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - margin) * this.columns;
    const last = (Math.floor((top + this.scroller.clientHeight) / this.rowHeight) + 1 + margin) * this.columns;
    return [first, Math.min(this.total, last)];
  }

  show() {
    const [first, stop] = this.visible();
    for (const [index, card] of this.cards) {
      if (index < first || index >= stop) {
        card.remove(); // its pictures stop loading with it
        this.cards.delete(index);
      }
    }
    const missing = new Set();
    for (let index = first; index < stop; index += 1) {
      if (this.cards.has(index)) continue;
      const item = this.items.get(index);
      if (item) this.add(index, item);
      else missing.add(Math.floor(index / PAGE));
    }
    if (missing.size) this.want();
  }

  // Fetches the visible pages when scrolling stops, not all pages on the way.
  want() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const [first, stop] = this.visible();
      for (let page = Math.floor(first / PAGE); page * PAGE < stop; page += 1) this.load(page);
    }, this.items.size ? 70 : 0);
  }

  load(page) {
    if (!this.pages.has(page)) {
      const era = this.era;
      const loading = this.fetchItems(page * PAGE, PAGE).then(
        (items) => {
          if (era !== this.era) return;
          items.forEach((item, place) => this.items.set(page * PAGE + place, item));
          this.forget(page);
          this.soon();
        },
        () => this.pages.delete(page),
      );
      this.pages.set(page, loading);
    }
    return this.pages.get(page);
  }

  forget(newest) {
    for (const page of [...this.pages.keys()]) {
      if (this.pages.size <= KEPT_PAGES) return;
      if (Math.abs(page - newest) < 3) continue;
      this.pages.delete(page);
      for (let index = page * PAGE; index < (page + 1) * PAGE; index += 1) this.items.delete(index);
    }
  }

  async item(index) {
    if (index < 0 || index >= this.total) return null;
    if (!this.items.has(index)) await this.load(Math.floor(index / PAGE));
    return this.items.get(index) ?? null;
  }

  add(index, item) {
    const card = this.draw(item, index);
    card.dataset.index = index;
    card.id = `card-${index}`;
    for (const [name, value] of [["role", "option"], ["aria-setsize", this.total], ["aria-posinset", index + 1]]) card.setAttribute(name, value);
    this.mark(card, index === this.current);
    this.put(card, index);
    this.cards.set(index, card);
    this.grid.append(card);
    this.onshown(card);
  }

  put(card, index) {
    const row = Math.floor(index / this.columns);
    card.style.transform = `translate(${(index % this.columns) * (this.width + GAP)}px, ${GAP + row * this.rowHeight}px)`;
    card.style.width = `${this.width}px`;
    card.style.height = `${this.cardHeight}px`;
  }

  // Draws an image's card again, if it is visible.
  redraw(id) {
    for (const [index, item] of this.items) {
      if (item.image_id !== id || !this.cards.has(index)) continue;
      this.cards.get(index).remove();
      this.cards.delete(index);
      this.add(index, item);
    }
  }

  redrawAll() {
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.soon();
  }

  move(step) {
    this.choose(this.current + step);
  }

  choose(index) {
    this.mark(this.cards.get(this.current), false);
    this.current = Math.max(0, Math.min(this.total - 1, index));
    this.mark(this.cards.get(this.current), true);
    this.reveal();
  }

  mark(card, current) {
    card?.classList.toggle("current", current);
    card?.setAttribute("aria-selected", String(current));
    if (card && current) this.grid.setAttribute("aria-activedescendant", card.id);
  }

  reveal() {
    const top = GAP + Math.floor(this.current / this.columns) * this.rowHeight;
    const { scrollTop, clientHeight } = this.scroller;
    if (top - GAP < scrollTop) this.scroller.scrollTop = top - GAP;
    else if (top + this.rowHeight > scrollTop + clientHeight) this.scroller.scrollTop = top + this.rowHeight - clientHeight;
    this.soon();
  }
}
