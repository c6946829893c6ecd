// What stands beside the picture: what a job cost, what may be tried, and which buttons do something.

import { $, chips, element } from "./dom.js";
import { remarks, sentence } from "./receipt.js";

/** What happens, in a line that screen readers tell. */
export function say(text) {
  $("status").textContent = text;
}

/** A receipt in plain words, or none; `drawnSeconds` as for `sentence`. */
export function showReceipt(receipt, drawnSeconds = null) {
  const box = $("receipt");
  box.hidden = !receipt;
  if (!receipt) return;
  const notes = remarks(receipt).map((text) => element("p", { className: "note" }, text));
  box.replaceChildren(element("p", { className: "told" }, sentence(receipt, drawnSeconds)), ...notes);
}

/** Prompts that may be tried: [{label, prompt}]. */
export function offer(title, ideas, chosen) {
  $("ideas").hidden = ideas.length === 0;
  $("ideas-title").textContent = title;
  chips($("ideas").querySelector(".chips"), ideas.map(({ label }) => label), (i) => chosen(ideas[i].prompt));
}

/** Buttons say what they will do, and only what can be done is offered. */
export function label(edits, isRunning) {
  const picture = edits.get(edits.current);
  const changes = Boolean(picture) && !picture.gone;
  $("words-label").textContent = changes ? "Change the words" : "What should it show?";
  $("go").textContent = changes ? "Change it" : "Draw it";
  $("go").hidden = isRunning;
  $("stop").hidden = !isRunning;
  $("again").hidden = isRunning || !picture;
  $("undo").disabled = !edits.before;
  $("redo").disabled = !edits.after;
  $("mask").disabled = !changes;
  $("where").hidden = !picture?.parent;
  for (const id of ["tools", "masking", "fresh", "ideas", "known", "history"]) $(id).inert = isRunning;
}

/** Moves the focus from a button that goes away to the one that takes its place. */
export function handOver(from, to, change) {
  const had = document.activeElement === from;
  change();
  if (had) to.focus();
}

/** The picture as a file, named by its words; none where there is no blob. */
export function offerFile(blob, { id, prompt } = {}) {
  const link = $("download");
  URL.revokeObjectURL(link.href);
  link.hidden = !blob;
  if (!blob) return link.removeAttribute("href");
  link.href = URL.createObjectURL(blob);
  link.download = `${prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}-${id.slice(0, 6)}.png`;
}
