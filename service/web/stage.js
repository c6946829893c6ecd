// The picture: as it was, as it is or becomes, where it changes, and the divider between before and after.

import { $ } from "./dom.js";

const FILL = 130; // of 255: the picture shows through what marks its change
const LINES = 300; // of the width is the outline wide

export class Stage {
  #frame = $("frame");
  #after = $("after");
  #before = $("before");
  #veil = $("veil");
  #mask = null; // that is shown

  constructor() {
    $("divider").addEventListener("input", () => this.#cut(Number($("divider").value)));
  }

  get size() {
    return { width: this.#after.width, height: this.#after.height };
  }

  /** A picture; with what it was made of, the two can be compared. */
  show(picture, words, source = null) {
    draw(this.#after, picture);
    this.#after.setAttribute("aria-label", words);
    this.#frame.style.setProperty("--ratio", `${picture.width} / ${picture.height}`);
    if (source) draw(this.#before, source);
    this.#frame.dataset.comparable = String(source !== null);
    $("divider").disabled = source === null;
    this.#cut(0);
    this.veil(null);
  }

  /** A job begins: `blank` hides what was there, for it has nothing to do with what comes. */
  begin({ blank, width, height }) {
    if (blank) {
      Object.assign(this.#after, { width, height }); // which empties it
      this.#after.setAttribute("aria-label", "A picture that is being drawn");
      this.#frame.style.setProperty("--ratio", `${width} / ${height}`);
    }
    this.#frame.dataset.comparable = "false";
    this.#frame.dataset.busy = "true";
    $("divider").disabled = true;
    this.veil(null);
    this.progress(null, null);
  }

  end() {
    this.#frame.dataset.busy = "false";
    $("progress").hidden = true;
  }

  /** The changed region, as it will probably look. */
  preview(crop, [left, top, right, bottom]) {
    this.#after.getContext("2d").drawImage(crop, left, top, right - left, bottom - top);
    if (this.#frame.dataset.veil === "full") this.#paint("outline", 0);
  }

  /** Shows a mask (white changes) over the picture, or none. */
  veil(mask) {
    this.#mask = mask;
    if (mask) this.#paint("full", FILL);
    else this.#frame.dataset.veil = "none";
  }

  #paint(form, fill) {
    draw(this.#veil, this.#mask);
    tint(this.#veil, fill);
    this.#frame.dataset.veil = form;
  }

  /** Steps that are done; null while it is not known. */
  progress(step, steps) {
    const bar = $("progress");
    bar.hidden = false;
    bar.dataset.known = String(step !== null);
    bar.firstElementChild.style.setProperty("--done", step === null ? 0 : step / steps);
    if (step === null) return bar.removeAttribute("aria-valuenow");
    bar.setAttribute("aria-valuemax", steps);
    bar.setAttribute("aria-valuenow", step);
  }

  #cut(percent) {
    $("divider").value = percent;
    $("divider").setAttribute("aria-valuetext", `${percent} % before`);
    this.#frame.style.setProperty("--cut", `${percent}%`);
  }
}

/** The page's one colour, [red, green, blue]. */
export function accent() {
  return getComputedStyle($("veil")).color.match(/\d+/g).slice(0, 3).map(Number);
}

function draw(canvas, picture) {
  Object.assign(canvas, { width: picture.width, height: picture.height });
  canvas.getContext("2d", { willReadFrequently: canvas.id === "veil" }).drawImage(picture, 0, 0);
}

/** White becomes the accent, `fill` strong, with an outline; black becomes nothing. */
function tint(canvas, fill) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const image = context.getImageData(0, 0, width, height);
  const white = Uint8Array.from({ length: width * height }, (_, i) => image.data[4 * i] > 127);
  const line = Math.ceil(width / LINES);
  const inside = (x, y) => x < 0 || y < 0 || x >= width || y >= height || white[y * width + x];
  const isEdge = (x, y) => !(inside(x - line, y) && inside(x + line, y) && inside(x, y - line) && inside(x, y + line));
  const colour = accent();
  white.forEach((is, i) => {
    const strength = isEdge(i % width, Math.floor(i / width)) ? 255 : fill;
    image.data.set([...colour, is ? strength : 0], 4 * i);
  });
  context.putImageData(image, 0, 0);
}
