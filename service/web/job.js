// One job at a time, watched: what its events do to the stage, the buttons and the line that says what happens.

import { $ } from "./dom.js";
import { handOver, label, say, showReceipt } from "./panel.js";
import { bitmapOf } from "./pictures.js";
import { percent } from "./receipt.js";

const PREVIEWS = 5; // of a picture, as far as its steps allow

/** Of how many steps one is shown. */
export function previewEvery(steps) {
  return Math.max(1, Math.round(steps / PREVIEWS));
}

export class Job {
  #api;
  #edits;
  #stage;
  #running = null; // stops the one that runs

  constructor({ api, edits, stage }) {
    [this.#api, this.#edits, this.#stage] = [api, edits, stage];
  }

  get isRunning() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  /** Returns its receipt, when `keep` has taken what `watch` told. `canvas` as for `Stage.begin`. */
  async run(path, body, canvas, keep) {
    this.#begin(canvas);
    try {
      const told = await watch(this.#api.run(path, body, this.#running.signal), this.#stage);
      await keep(told);
      return told.receipt;
    } finally {
      this.#end();
    }
  }

  #begin(canvas) {
    this.#running = new AbortController();
    document.body.dataset.view = "studio";
    document.body.dataset.busy = "true";
    this.#stage.begin(canvas);
    showReceipt(null);
    say("Waiting for its turn…");
    $("frame").scrollIntoView({ block: "nearest" });
    handOver($("go"), $("stop"), () => label(this.#edits, true));
  }

  #end() {
    this.#running = null;
    document.body.dataset.busy = "false";
    this.#stage.end();
    handOver($("stop"), $("go"), () => label(this.#edits, false));
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
