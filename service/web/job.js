// One job, watched: what its events do to the stage and to the line that says what happens.

import { bitmapOf } from "./pictures.js";
import { percent } from "./receipt.js";

const PREVIEWS = 5; // of a picture, as far as its steps allow

/** Of how many steps one is shown. */
export function previewEvery(steps) {
  return Math.max(1, Math.round(steps / PREVIEWS));
}

/** Follows a job to its end; returns {steps, image, mask, receipt}, PNGs in base64. Throws what it failed by. */
export async function watch(events, stage, say) {
  const told = { steps: 0, image: null, mask: null, receipt: null };
  for await (const { event, data } of events) {
    if (event === "accepted") {
      told.steps = data.num_inference_steps;
      say(data.source_id ? "Looking where the words change it…" : "Drawing…");
    } else if (event === "mask") {
      told.mask = data.mask;
      stage.veil(await bitmapOf(data.mask));
      say(`Here: ${percent(data.edited_ratio)} of the picture. Drawing it…`);
    } else if (event === "preview") {
      stage.preview(await bitmapOf(data.image), data.box);
      stage.progress(data.step + 1, told.steps);
    } else if (event === "image") {
      told.image = data.image;
    } else if (event === "receipt") {
      told.receipt = data;
    }
  }
  return told;
}
