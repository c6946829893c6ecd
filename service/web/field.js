// The field for the words: marks what is new and what the model does not know, and completes what is typed.

import { $, chips, element } from "./dom.js";
import { changes, completions, unknownIn, wordsIn } from "./words.js";

export class Field {
  #text = $("words");
  #known = null; // a Set, or null where the model does not tell
  #before = null; // the words of the picture that is there
  #timer = 0;

  constructor() {
    this.#text.addEventListener("input", () => this.#mark());
    for (const event of ["click", "keyup"]) this.#text.addEventListener(event, () => this.#complete());
    this.#text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      this.#text.form.requestSubmit();
    });
  }

  get value() {
    return this.#text.value.trim().replace(/\s+/g, " ");
  }

  set value(words) {
    this.#text.value = words;
    this.#mark();
  }

  set known(words) {
    this.#known = words && new Set(words);
    $("known").hidden = !words;
    chips($("known").querySelector(".chips"), words ?? [], (i) => this.#insert(words[i]));
    this.#mark();
  }

  get known() {
    return this.#known;
  }

  /** What the words are compared with; null where nothing is drawn. */
  set before(words) {
    this.#before = words;
    this.#mark();
  }

  focus() {
    this.#text.focus();
  }

  #mark() {
    const text = this.#text.value;
    const changed = this.#before === null ? { removed: [], added: [] } : changes(this.#before, text);
    const fresh = new Set(changed.added.map(({ start }) => start));
    const unknown = new Set(unknownIn(text, this.#known));
    const parts = [];
    let end = 0;
    for (const word of wordsIn(text)) {
      const typing = word.end === this.#caret && completions(word.word, this.#known, 1).length > 0;
      const marked = [fresh.has(word.start) && "fresh", unknown.has(word.word) && !typing && "unknown"].filter(Boolean);
      parts.push(text.slice(end, word.start), element("span", { className: marked.join(" ") }, word.word));
      end = word.end;
    }
    const rest = text ? text.slice(end) : this.#text.placeholder; // the marks give the field its height
    $("marks").replaceChildren(...parts, rest, "\u200b");
    this.#complete();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tell(changed.removed), 400); // not while a word is being typed
  }

  #tell(removed) {
    const unknown = unknownIn(this.#text.value, this.#known).map((word) => `“${word}”`);
    const gone = removed.length ? [element("del", {}, removed.join(" ")), " "] : [];
    const told = unknown.length ? [element("span", { className: "unknown-told" }, `The model does not know ${unknown.join(", ")}.`)] : [];
    $("hint").replaceChildren(...gone, ...told);
  }

  get #caret() {
    return document.activeElement === this.#text ? this.#text.selectionEnd : -1;
  }

  #complete() {
    const here = wordsIn(this.#text.value).find(({ end }) => end === this.#caret);
    const offered = here ? completions(here.word, this.#known) : [];
    chips($("completions"), offered, (i) => this.#replace(here, offered[i]));
  }

  #replace({ start, end }, word) {
    this.#text.setRangeText(word, start, end, "end");
    this.#typed();
  }

  #insert(word) {
    const at = this.#text.selectionEnd;
    const [left, right] = [this.#text.value.slice(0, at), this.#text.value.slice(at)];
    this.#text.setRangeText(`${/\S$/.test(left) ? " " : ""}${word}${/^\S/.test(right) ? " " : ""}`, at, at, "end");
    this.#typed();
  }

  #typed() {
    this.#text.focus();
    this.#text.dispatchEvent(new Event("input", { bubbles: true }));
  }
}
