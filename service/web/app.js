// The page: its parts, and what each control does.

import { $, ask } from "./dom.js";
import { Api } from "./api.js";
import { Edits } from "./edits.js";
import { Field } from "./field.js";
import { Masking } from "./masking.js";
import { say } from "./panel.js";
import { Pictures } from "./pictures.js";
import { Notice } from "./problem.js";
import { DrawingSettings, anySeed } from "./settings.js";
import { Stage } from "./stage.js";
import { Studio } from "./studio.js";

const api = new Api();
const [stage, masking, field] = [new Stage(), new Masking(), new Field()];
const studio = new Studio({
  api,
  stage,
  masking,
  field,
  edits: new Edits(localStorage),
  pictures: new Pictures(api),
  notice: new Notice(api),
  settings: new DrawingSettings(),
});

function onKey(event) {
  const isTyping = event.target.matches("textarea, input:not([type=range]):not([type=radio]):not([type=checkbox])");
  const isUndo = event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey) && !isTyping;
  if (event.key === "Escape" && studio.isRunning) studio.stop();
  else if (isUndo && event.shiftKey) studio.redo();
  else if (isUndo) studio.undo();
  else return;
  event.preventDefault();
}

const CLICKS = {
  stop: () => studio.stop(),
  again: () => studio.draw({ seed: anySeed() }),
  fresh: () => studio.startAfresh(),
  undo: () => studio.undo(),
  redo: () => studio.redo(),
  where: () => studio.toggleWhere(),
  mask: () => (masking.isOpen ? masking.close() : masking.open(stage.size)),
  "mask-find": () => studio.findMask(),
  delete: async () => (await ask($("delete-dialog"), () => true)) && studio.delete(),
  forget: async () => (await ask($("forget-dialog"), () => true)) && studio.forgetAll(),
};
for (const [id, act] of Object.entries(CLICKS)) $(id).addEventListener("click", act);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  studio.submit();
});
$("words").addEventListener("input", () => say(""));
document.addEventListener("keydown", onKey);
studio.open();
