// One job at a time, watched: what its events do to the stage, the buttons and the line that says what happens.

import { $ } from "./dom.js";
import { handOver, label, say, showReceipt } from "./panel.js";
import { bitmapOf, thumbOf } from "./pictures.js";
import { percent } from "./receipt.js";

const PREVIEWS = 5; // of a picture, as far as its steps allow

/** Of how many steps one is shown. */
export function previewEvery(steps) {
  return Math.max(1, Math.round(steps / PREVIEWS));
}

export class Job {
  #parts; // {api, edits, masking, pictures, stage}
  #running = null; // stops the one that runs

  constructor(parts) {
    this.#parts = parts;
  }

  get isRunning() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  /** To its end, when what came of it is in the tree and the current picture; returns its receipt. */
  async run(path, body, source, size) {
    const { api, stage } = this.#parts;
    this.#begin({ blank: source === null, ...size });
    try {
      const told = await watch(api.run(path, body, this.#running.signal), stage);
      await this.#keep(body.prompt, source, told);
      return told.receipt;
    } finally {
      this.#end();
    }
  }

  #begin(canvas) {
    this.#running = new AbortController();
    document.body.dataset.view = "studio";
    document.body.dataset.busy = "true";
    this.#parts.stage.begin(canvas);
    showReceipt(null);
    say("Waiting for its turn…");
    $("frame").scrollIntoView({ block: "nearest" });
    handOver($("go"), $("stop"), () => label(this.#parts.edits, true));
  }

  #end() {
    this.#running = null;
    document.body.dataset.busy = "false";
    this.#parts.stage.end();
    handOver($("stop"), $("go"), () => label(this.#parts.edits, false));
  }

  /** Puts what came of it into the tree. Where nothing changed, the source came. */
  async #keep(prompt, source, { steps, image, mask, receipt }) {
    const { edits, masking, pictures } = this.#parts;
    const id = receipt.image_id;
    if (source?.id !== id) {
      await pictures.keep(id, { image, mask });
      const { bitmap } = await pictures.image(id);
      edits.add({ id, prompt, steps, parent: receipt.source_id, thumb: thumbOf(bitmap) }, receipt);
      masking.close();
    }
    edits.select(id);
  }
}

/** Follows events to their end; returns {steps, image, mask, receipt}, PNGs in base64. Throws what it failed by. */
async function watch(events, stage) {
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
