// The tree of pictures as it is seen: each edit to the right of what it was made of, branches below each other.

import { $, element } from "./dom.js";
import { changes, wordsIn } from "./words.js";

const COLUMN = 124; // CSS pixels from picture to picture
const ROW = 146;
const THUMB = 88; // the style sheet's --thumb
const SMALL = new Set(["a", "an", "and", "of", "the", "under", "with"]); // words that no caption needs
const SVG = "http://www.w3.org/2000/svg";

export class History {
  #tree = $("tree");
  #edits;

  constructor(edits, chosen) {
    this.#edits = edits;
    this.#tree.addEventListener("click", (event) => {
      const item = event.target.closest("[role=treeitem]");
      if (item) chosen(item.dataset.id);
    });
    this.#tree.addEventListener("keydown", (event) => this.#key(event));
  }

  render() {
    const focused = this.#tree.contains(document.activeElement) && document.activeElement.dataset.id;
    const places = arrange(this.#edits);
    const columns = Math.max(0, ...places.map(({ column }) => column + 1));
    const rows = Math.max(0, ...places.map(({ row }) => row + 1));
    const canvas = element("div", { className: "canvas" });
    canvas.setAttribute("role", "none");
    Object.assign(canvas.style, { width: `${columns * COLUMN}px`, height: `${rows * ROW}px` });
    canvas.append(lines(places, columns * COLUMN, rows * ROW), ...places.map((place) => this.#item(place)));
    this.#tree.replaceChildren(canvas);
    $("history").hidden = places.length === 0;
    if (focused) this.#item_of(focused)?.focus();
    this.#reveal();
  }

  #item({ picture, column, row }) {
    const { id, prompt, parent, thumb, gone } = picture;
    const before = this.#edits.get(parent);
    const current = id === this.#edits.current;
    const image = thumb ? element("img", { src: thumb, alt: "" }) : element("span", { className: "no-thumb" });
    const item = element("button", { type: "button", title: prompt, tabIndex: current || this.#isFirst(id) ? 0 : -1 }, image);
    item.append(element("span", { className: "caption" }, captionOf(prompt, before?.prompt)));
    Object.assign(item.style, { left: `${column * COLUMN}px`, top: `${row * ROW}px` });
    Object.assign(item.dataset, { id, gone: String(Boolean(gone)) });
    item.setAttribute("role", "treeitem");
    item.setAttribute("aria-level", column + 1);
    item.setAttribute("aria-selected", current);
    item.setAttribute("aria-label", gone ? `${prompt} (no longer kept by the service)` : prompt);
    return item;
  }

  /** With no picture chosen the tab key comes to the first one. */
  #isFirst(id) {
    return this.#edits.current === null && this.#edits.roots()[0]?.id === id;
  }

  #item_of(id) {
    return [...this.#tree.querySelectorAll("[role=treeitem]")].find((item) => item.dataset.id === id);
  }

  #key(event) {
    const items = [...this.#tree.querySelectorAll("[role=treeitem]")];
    const at = items.indexOf(document.activeElement);
    if (at < 0) return;
    const { id } = items[at].dataset;
    const to = {
      ArrowLeft: () => this.#item_of(this.#edits.get(id).parent),
      ArrowRight: () => this.#item_of(this.#edits.children(id)[0]?.id),
      ArrowUp: () => items[at - 1],
      ArrowDown: () => items[at + 1],
      Home: () => items[0],
      End: () => items.at(-1),
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const item = to();
    if (!item) return;
    for (const other of items) other.tabIndex = other === item ? 0 : -1;
    item.focus();
  }

  /** Scrolls the tree, and not the page, to where one is. */
  #reveal() {
    const item = this.#item_of(this.#edits.current);
    if (!item) return;
    const [left, top] = [item.offsetLeft, item.offsetTop];
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.#tree;
    if (left < scrollLeft || left + COLUMN > scrollLeft + clientWidth) this.#tree.scrollLeft = left - clientWidth / 2;
    if (top < scrollTop || top + ROW > scrollTop + clientHeight) this.#tree.scrollTop = top - clientHeight / 2;
  }
}

/** [{picture, column, row, from}], in the order of reading; the first edit stays in the row of its picture. */
function arrange(edits) {
  const places = [];
  let row = 0;
  const place = (picture, column, from) => {
    const here = { picture, column, row, from };
    places.push(here);
    edits.children(picture.id).forEach((child, i) => {
      if (i > 0) row += 1;
      place(child, column + 1, here);
    });
  };
  for (const root of edits.roots()) {
    place(root, 0, null);
    row += 1;
  }
  return places;
}

function lines(places, width, height) {
  const drawing = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ width, height, "aria-hidden": "true" })) drawing.setAttribute(name, value);
  for (const { column, row, from } of places) {
    if (!from) continue;
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", line(from.column * COLUMN + THUMB, from.row * ROW + THUMB / 2, column * COLUMN, row * ROW + THUMB / 2));
    drawing.append(path);
  }
  return drawing;
}

function line(fromX, fromY, toX, toY) {
  const middle = (fromX + toX) / 2;
  if (fromY === toY) return `M${fromX} ${fromY}H${toX}`;
  return `M${fromX} ${fromY}H${middle - 6}q6 0 6 6V${toY - 6}q0 6 6 6H${toX}`;
}

/** A picture in a few words: what its words changed, or all of them. */
function captionOf(prompt, before) {
  if (before === undefined) return telling(wordsIn(prompt).map(({ word }) => word));
  const { removed, added } = changes(before, prompt);
  if (added.length) return telling(added.map(({ word }) => word));
  return removed.length ? `no ${telling(removed)}` : "same words";
}

function telling(words) {
  const told = words.filter((word) => !SMALL.has(word.toLowerCase()));
  return (told.length ? told : words).join(" ");
}
