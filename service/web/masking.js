// The tools for a mask by hand, and what they say to the service.

import { $ } from "./dom.js";
import { Brush } from "./brush.js";
import { bitmapOf } from "./pictures.js";
import { percent } from "./receipt.js";

export class Masking {
  #brush;
  #frame = 0;

  constructor() {
    this.#brush = new Brush(() => {
      cancelAnimationFrame(this.#frame);
      this.#frame = requestAnimationFrame(() => this.#tell());
    });
  }

  get isOpen() {
    return this.#brush.isOpen;
  }

  /** The keyboard goes to the brush, which stands before its button. */
  open(size) {
    this.#brush.open(size);
    this.#show(true);
    this.#brush.focus();
  }

  /** Who was at the brush or its tools is back at the button that opened them. */
  close() {
    const hadFocus = document.activeElement.closest("#brush, #masking") !== null;
    this.#brush.close();
    this.#show(false);
    if (hadFocus) $("mask").focus();
  }

  get isEmpty() {
    return this.#brush.ratio === 0;
  }

  /** Begins with the mask that these words would have; false where the tools were closed meanwhile. */
  async find(api, prompt, id) {
    const { mask } = await api.answer("/edit", { prompt, image_id: id, dry_run: true });
    const found = await bitmapOf(mask);
    if (this.isOpen) this.#brush.take(found);
    return this.isOpen;
  }

  /** The fields of a request. */
  given() {
    return this.isOpen ? { edit_mask: this.#brush.png(), mask_mode: $("mask-union").checked ? "union" : "given" } : {};
  }

  #show(open) {
    $("masking").hidden = !open;
    $("mask").setAttribute("aria-expanded", open);
    $("frame").dataset.masking = open;
  }

  #tell() {
    if (!this.isOpen) return;
    const { left, top, size } = this.#brush.place;
    const tip = $("tip");
    for (const [name, value] of Object.entries({ left, top, size })) tip.style.setProperty(`--${name}`, `${value * 100}%`);
    $("painted").textContent = this.isEmpty ? "Nothing is painted yet." : `${percent(this.#brush.ratio)} is painted.`;
  }
}
