// A mask drawn by hand: opaque where the picture may change. By pointer, or by arrow keys and the space bar.

import { $ } from "./dom.js";
import { accent } from "./stage.js";

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Brush {
  #canvas = $("brush");
  #context = this.#canvas.getContext("2d", { willReadFrequently: true });
  #at = null; // where the brush is, in pixels of the picture
  #changed;

  constructor(changed) {
    this.#changed = changed;
    this.#canvas.addEventListener("pointerdown", (event) => this.#press(event));
    this.#canvas.addEventListener("pointermove", (event) => this.#drag(event));
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    $("mask-clear").addEventListener("click", () => this.clear());
    $("mask-invert").addEventListener("click", () => this.#fill("xor"));
  }

  /** Shows an empty mask of this size, or hides it. */
  open({ width, height }) {
    Object.assign(this.#canvas, { width, height, hidden: false });
    const [most, least] = [Math.min(width, height) / 2, Math.min(width, height) / 32];
    Object.assign($("tip-size"), { min: least, max: most, step: least, value: 4 * least });
    this.#at = { x: width / 2, y: height / 2 };
    this.#changed();
  }

  close() {
    this.#canvas.hidden = true;
    this.#changed();
  }

  get isOpen() {
    return !this.#canvas.hidden;
  }

  focus() {
    this.#canvas.focus({ preventScroll: true });
  }

  /** Part of the picture that is painted. */
  get ratio() {
    const { data } = this.#pixels();
    let painted = 0;
    for (let i = 3; i < data.length; i += 4) painted += data[i] > 127;
    return painted / (data.length / 4);
  }

  clear() {
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#changed();
  }

  /** Takes over a mask in which white changes. */
  take(mask) {
    this.#context.drawImage(mask, 0, 0, this.#canvas.width, this.#canvas.height);
    const image = this.#pixels();
    const colour = accent();
    for (let i = 0; i < image.data.length; i += 4) image.data.set([...colour, image.data[i] > 127 ? 255 : 0], i);
    this.#context.putImageData(image, 0, 0);
    this.#changed();
  }

  /** The mask as PNG in base64, white on black. */
  png() {
    const image = this.#pixels();
    for (let i = 0; i < image.data.length; i += 4) image.data.fill(image.data[i + 3] > 127 ? 255 : 0, i, i + 3).fill(255, i + 3, i + 4);
    const copy = document.createElement("canvas");
    Object.assign(copy, { width: image.width, height: image.height });
    copy.getContext("2d").putImageData(image, 0, 0);
    return copy.toDataURL("image/png").split(",")[1];
  }

  #pixels() {
    return this.#context.getImageData(0, 0, this.#canvas.width, this.#canvas.height);
  }

  #fill(operation) {
    this.#context.globalCompositeOperation = operation;
    this.#context.fillStyle = `rgb(${accent()})`;
    this.#context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#context.globalCompositeOperation = "source-over";
    this.#changed();
  }

  #press(event) {
    event.preventDefault();
    this.focus();
    this.#canvas.setPointerCapture(event.pointerId);
    this.#at = this.#place(event);
    this.#stroke(this.#at);
  }

  #drag(event) {
    if (!this.#canvas.hasPointerCapture(event.pointerId)) return this.#move(this.#place(event));
    for (const each of event.getCoalescedEvents?.() ?? [event]) this.#stroke(this.#place(each));
  }

  #key(event) {
    const { x, y } = this.#at;
    const step = Math.max(4, this.#size / 2);
    if (event.key in MOVES) {
      const [right, down] = MOVES[event.key];
      const within = (value, most) => Math.min(Math.max(value, 0), most);
      this.#move({ x: within(x + right * step, this.#canvas.width), y: within(y + down * step, this.#canvas.height) });
    } else if (event.key === " ") this.#stroke(this.#at);
    else return;
    event.preventDefault();
  }

  /** Where the brush is, as parts of the picture: for who shows it to the keyboard. */
  get place() {
    const { width, height } = this.#canvas;
    return { left: this.#at.x / width, top: this.#at.y / height, size: this.#size / width };
  }

  #move(to) {
    this.#at = to;
    this.#changed();
  }

  #stroke(to) {
    const erase = document.querySelector("input[name=tip]:checked").value === "erase";
    Object.assign(this.#context, {
      globalCompositeOperation: erase ? "destination-out" : "source-over",
      strokeStyle: `rgb(${accent()})`,
      lineWidth: this.#size,
      lineCap: "round",
      lineJoin: "round",
    });
    this.#context.beginPath();
    this.#context.moveTo(this.#at.x, this.#at.y);
    this.#context.lineTo(to.x + 0.01, to.y); // a line of no length is not drawn, not even its round ends
    this.#context.stroke();
    this.#context.globalCompositeOperation = "source-over";
    this.#move(to);
  }

  get #size() {
    return Number($("tip-size").value);
  }

  #place(event) {
    const { left, top, width, height } = this.#canvas.getBoundingClientRect();
    const { width: columns, height: rows } = this.#canvas;
    return { x: ((event.clientX - left) / width) * columns, y: ((event.clientY - top) / height) * rows };
  }
}
