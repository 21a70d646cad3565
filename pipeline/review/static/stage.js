// One image with its masks on a canvas: zoom, pan, per-mask colour, visibility and emphasis.

// Of a mask that is not the selected one, of 255: its colour still looks like that beside its name.
const FADED = 225;
// A selected mask that is smaller on the screen has a ring around it, as far away.
const SMALL_PX = 24, RING_PX = 8;
const MOST_LINES = 20_000; // of an outline: some 50 ms without a GPU

// Reads a picture whose pixels are numbers: red + 256 x green. Its layers lie below each other: the
// masks at a pixel, the smallest first; blue + 1 is how many there are.
export async function readNumbers(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height: bitmap.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, bitmap.height);
  const layers = data[2] + 1;
  const numbers = new Uint16Array(width * bitmap.height);
  for (let pixel = 0; pixel < numbers.length; pixel += 1) numbers[pixel] = data[4 * pixel] | (data[4 * pixel + 1] << 8);
  const height = bitmap.height / layers;
  bitmap.close();
  return { width, height, layers, numbers };
}

function canvasOf(pixels, canvas = document.createElement("canvas")) {
  Object.assign(canvas, { width: pixels.width, height: pixels.height });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function rgb(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

export class Stage {
  // onpick(number) and onhover(number) get the mask under the pointer, 0: none.
  constructor(stage, canvas, { onpick, onhover, onzoom } = {}) {
    Object.assign(this, { stage, canvas, onpick, onhover, onzoom });
    this.context = canvas.getContext("2d");
    this.opacity = 0.6;
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.fitted = true;
    this.peeking = false;
    new ResizeObserver(() => this.resize()).observe(stage);
    this.listen();
  }

  // photo: bitmap or null; numbers: of readNumbers or null; size: of the image in its own pixels.
  show(photo, numbers, size, { keep = false } = {}) {
    Object.assign(this, { photo, numbers, size });
    this.overlay = this.glow = this.chosen = null;
    this.hovered = 0;
    this.picked = null;
    this.styles = [];
    if (!keep) this.fit();
    else this.draw();
  }

  clear() {
    this.show(null, null, null);
  }

  // styles[n] of mask n (from 1): { colour, shown, current, rejected, box }; of rejected ones the rim is
  // painted alone; box: of the image.
  paint(styles) {
    this.styles = styles;
    if (!this.numbers) return;
    const { width, height } = this.numbers;
    const pixels = new ImageData(width, height);
    const out = new Uint32Array(pixels.data.buffer);
    const some = styles.some((style) => style?.current && style.shown);
    const fill = new Uint32Array(65536);
    const rim = new Uint32Array(65536);
    const isHollow = new Uint8Array(65536);
    styles.forEach((style, number) => {
      if (!style?.shown) return;
      const [red, green, blue] = rgb(style.colour);
      const alpha = some && !style.current ? FADED : 255;
      fill[number] = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
      rim[number] = style.rejected ? fill[number] : ((255 << 24) | ((blue >> 1) << 16) | ((green >> 1) << 8) | (red >> 1)) >>> 0;
      isHollow[number] = style.rejected ? 1 : 0;
    });
    const numbers = this.topmost(fill);
    const { wide } = this;
    for (let y = 0, pixel = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1, pixel += 1) {
        const number = numbers[pixel];
        if (!fill[number]) continue;
        const edge = x < wide || y < wide || x >= width - wide || y >= height - wide || numbers[pixel - wide] !== number || numbers[pixel + wide] !== number || numbers[pixel - wide * width] !== number || numbers[pixel + wide * width] !== number;
        if (edge) out[pixel] = rim[number];
        else if (!isHollow[number]) out[pixel] = fill[number];
      }
    }
    const current = styles.findIndex((style) => style?.current && style.shown);
    this.chosen = current > 0 ? { outline: this.outline(current), box: styles[current].box } : null;
    this.overlay = canvasOf(pixels, this.overlay ?? undefined);
    this.hovered = 0;
    this.glow = null;
    this.draw();
  }

  // Width of outlines in pixels of the numbers.
  get wide() {
    return Math.max(1, Math.round(Math.max(this.numbers.width, this.numbers.height) / 700));
  }

  // The smallest mask at every pixel that is shown; fill: 0 at the numbers of hidden ones.
  topmost(fill) {
    const { width, height, layers, numbers } = this.numbers;
    const size = width * height;
    if (layers === 1) return numbers;
    const top = numbers.slice(0, size);
    for (let pixel = 0; pixel < size; pixel += 1) {
      for (let layer = 1; layer < layers && numbers[pixel] && !fill[top[pixel]]; layer += 1) top[pixel] = numbers[layer * size + pixel];
    }
    return top;
  }

  // The outline of a whole mask, also where others lie over it, in pixels of the numbers; of a mask
  // that is all crumbs a coarser one, which is drawn as quickly.
  outline(number) {
    for (let step = 1; ; step *= 2) {
      const path = this.outlineOf(number, step);
      if (path) return path;
    }
  }

  // Lines between squares of step x step pixels with and without the mask; null: they are too many.
  outlineOf(number, step) {
    const { width, height, layers, numbers } = this.numbers;
    const [columns, rows] = [Math.ceil(width / step), Math.ceil(height / step)];
    const wide = columns + 2; // with an empty square all round
    const inside = new Uint8Array(wide * (rows + 2));
    for (let layer = 0, place = 0; layer < layers; layer += 1) {
      for (let y = 0; y < height; y += 1) {
        const row = (Math.floor(y / step) + 1) * wide + 1;
        for (let x = 0; x < width; x += 1, place += 1) if (numbers[place] === number) inside[row + Math.floor(x / step)] = 1;
      }
    }
    const path = new Path2D();
    let lines = 0;
    // Along every row of lines, then every column: from is the step across the line, to that along it.
    for (const [across, along, from, to] of [[rows, columns, wide, 1], [columns, rows, 1, wide]]) {
      const point = (one, at) => (to === 1 ? [at * step, one * step] : [one * step, at * step]);
      for (let one = 0; one <= across && lines <= MOST_LINES; one += 1) {
        for (let at = 0, begin = -1; at <= along; at += 1) {
          const square = one * from + (at + 1) * to;
          const differs = inside[square] !== inside[square + from];
          if (differs && begin < 0) begin = at;
          if (differs || begin < 0) continue;
          path.moveTo(...point(one, begin));
          path.lineTo(...point(one, at));
          lines += 1;
          begin = -1;
        }
      }
    }
    return lines > MOST_LINES ? null : path;
  }

  // Highlights a mask until another one is hovered; 0: none.
  hover(number) {
    if (!this.numbers || number === this.hovered) return;
    this.hovered = number;
    this.glow = number && this.styles[number]?.shown ? this.outline(number) : null;
    this.draw();
  }

  setOpacity(value) {
    this.opacity = value;
    this.draw();
  }

  peek(on) {
    this.peeking = on;
    this.draw();
  }

  fit() {
    this.fitted = true;
    if (this.size) {
      this.fitInto(this.stage.clientHeight);
      if (this.isUnderBar()) this.fitInto(this.stage.querySelector(".zoom").offsetTop);
    }
    this.draw();
  }

  fitInto(height) {
    const { clientWidth } = this.stage;
    const margin = Math.min(24, clientWidth / 20);
    this.scale = Math.min((clientWidth - 2 * margin) / this.size.width, (height - 2 * margin) / this.size.height);
    this.left = (clientWidth - this.scale * this.size.width) / 2;
    this.top = (height - this.scale * this.size.height) / 2;
  }

  isUnderBar() {
    const bar = this.stage.querySelector(".zoom");
    const bottom = this.top + this.scale * this.size.height;
    return bar && bottom > bar.offsetTop && this.left < bar.offsetLeft + bar.offsetWidth;
  }

  // Brings a box of the image (x, y, width, height) to the middle.
  zoomTo([x, y, width, height]) {
    const { clientWidth, clientHeight } = this.stage;
    this.scale = Math.min(16, 0.6 * Math.min(clientWidth / width, clientHeight / height));
    this.left = clientWidth / 2 - this.scale * (x + width / 2);
    this.top = clientHeight / 2 - this.scale * (y + height / 2);
    this.fitted = false;
    this.draw();
  }

  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    if (!this.size) return;
    const scale = Math.min(32, Math.max(0.02, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  resize() {
    if (this.fitted) this.fit();
    else this.draw();
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.drawNow();
    });
  }

  drawNow() {
    const ratio = devicePixelRatio || 1;
    const width = Math.round(this.stage.clientWidth * ratio);
    const height = Math.round(this.stage.clientHeight * ratio);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const { context } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.size) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const box = [this.left, this.top, this.scale * this.size.width, this.scale * this.size.height];
    const masks = this.overlay && !this.peeking && this.opacity > 0;
    if (this.photo) {
      context.imageSmoothingEnabled = this.scale < 4;
      context.imageSmoothingQuality = "high";
      context.filter = masks ? `grayscale(${0.5 * Math.min(1, this.opacity * 1.6)})` : "none";
      context.drawImage(this.photo, ...box);
      context.filter = "none";
    }
    if (masks) {
      context.imageSmoothingEnabled = this.scale * this.size.width < this.overlay.width;
      context.globalAlpha = this.opacity;
      context.drawImage(this.overlay, ...box);
      context.globalAlpha = 1;
      for (const path of [this.glow, this.chosen?.outline]) if (path) this.drawOutline(path);
      this.drawRing();
    }
    this.onzoom?.(this.scale);
  }

  // Light on dark, so that it shows on any ground.
  stroke(path, dark, light) {
    for (const [colour, width] of [["#000c", dark], ["#fff", light]]) {
      this.context.strokeStyle = colour;
      this.context.lineWidth = width;
      this.context.stroke(path);
    }
  }

  // Equally wide at every zoom.
  drawOutline(path) {
    const { context } = this;
    const [across, down] = [(this.scale * this.size.width) / this.numbers.width, (this.scale * this.size.height) / this.numbers.height];
    context.save();
    context.translate(this.left, this.top);
    context.scale(across, down);
    context.lineCap = "square";
    const zoomed = Math.min(across, down);
    this.stroke(path, 3.6 / zoomed, 1.6 / zoomed);
    context.restore();
  }

  // A mask of a few pixels is not found by its outline.
  drawRing() {
    if (!this.chosen?.box) return;
    const [x, y, width, height] = this.chosen.box.map((one) => one * this.scale);
    if (Math.max(width, height) >= SMALL_PX) return;
    const ring = new Path2D();
    ring.arc(this.left + x + width / 2, this.top + y + height / 2, Math.hypot(width, height) / 2 + RING_PX, 0, 2 * Math.PI);
    this.stroke(ring, 4, 2);
  }

  // The masks that are shown under a point of the stage, the smallest first.
  at(x, y) {
    if (!this.numbers || !this.size) return [];
    const { width, height, layers, numbers } = this.numbers;
    const column = Math.floor(((x - this.left) / this.scale / this.size.width) * width);
    const row = Math.floor(((y - this.top) / this.scale / this.size.height) * height);
    if (column < 0 || row < 0 || column >= width || row >= height) return [];
    const found = Array.from({ length: layers }, (_, layer) => numbers[(layer * height + row) * width + column]);
    return found.filter((number) => number && this.styles[number]?.shown !== false);
  }

  // Picks the smallest mask under a point, with the next click at the same place the next one.
  pick(x, y) {
    const found = this.at(x, y);
    const again = this.picked && Math.hypot(x - this.picked.x, y - this.picked.y) < 4;
    this.picked = again ? { ...this.picked, turn: this.picked.turn + 1 } : { x, y, turn: 0 };
    this.onpick?.(found.length ? found[this.picked.turn % found.length] : 0);
  }

  listen() {
    const { canvas } = this;
    let from = null;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      from = { x: event.offsetX, y: event.offsetY, left: this.left, top: this.top, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!from) {
        this.onhover?.(this.at(event.offsetX, event.offsetY)[0] ?? 0);
        return;
      }
      const [x, y] = [event.offsetX - from.x, event.offsetY - from.y];
      if (!from.moved && Math.hypot(x, y) < 4) return;
      from.moved = true;
      canvas.classList.add("dragged");
      this.left = from.left + x;
      this.top = from.top + y;
      this.fitted = false;
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      canvas.classList.remove("dragged");
      if (from && !from.moved) this.pick(event.offsetX, event.offsetY);
      from = null;
    });
    canvas.addEventListener("pointercancel", () => { from = null; });
    canvas.addEventListener("pointerleave", () => this.onhover?.(0));
    canvas.addEventListener("dblclick", (event) => {
      if (this.at(event.offsetX, event.offsetY).length < 2) this.fit(); // else two clicks pick two masks
    });
  }
}
