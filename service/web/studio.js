// The studio: where one is in the tree of pictures, and what leads on from there.

import { $ } from "./dom.js";
import { History } from "./history.js";
import { beginnings, variations } from "./ideas.js";
import { Job, previewEvery } from "./job.js";
import { label, offer, offerFile, say, showReceipt } from "./panel.js";
import { bitmapOfThumb, thumbOf } from "./pictures.js";

const RETRY_SECONDS = 3; // where the service does not say
const UNKNOWN_MODEL = { num_inference_steps: 20, width: 256, height: 256 }; // until it tells

export class Studio {
  #parts; // {api, edits, pictures, stage, notice, masking, settings, field}
  #history;
  #job;
  #model = UNKNOWN_MODEL;

  constructor(parts) {
    this.#parts = parts;
    this.#job = new Job(parts);
    this.#history = new History(parts.edits, (id) => this.go(id));
  }

  /** Asks the service about its model, as often as it is still loading, and shows where one was. */
  async open() {
    const { api, edits, notice, settings, field } = this.#parts;
    try {
      this.#model = await api.model();
    } catch (error) {
      if (error.status !== 503) return notice.tell(error, () => this.open());
      say("The model is loading…");
      return setTimeout(() => this.open(), 1000 * (error.retrySeconds ?? RETRY_SECONDS));
    }
    say("");
    settings.model = this.#model;
    field.known = this.#model.words;
    await (edits.current ? this.go(edits.current) : this.start());
  }

  /** The empty page. */
  start() {
    const { edits, field, masking, notice } = this.#parts;
    edits.select(null);
    document.body.dataset.view = "start";
    field.before = null;
    masking.close();
    notice.clear();
    say("");
    offerFile(null);
    showReceipt(null);
    offer("Or begin with one of these", beginnings(field.known), (prompt) => this.#try(prompt));
    this.#refresh();
  }

  /** The empty page, with no words in the field. */
  startAfresh() {
    this.#parts.field.value = "";
    this.start();
    this.#parts.field.focus();
  }

  /** Goes to a picture of the tree. */
  async go(id) {
    const { edits, field, masking, notice } = this.#parts;
    if (this.isRunning || !edits.get(id)) return;
    notice.clear();
    say("");
    masking.close();
    edits.select(id);
    field.value = this.#current.prompt;
    showReceipt(this.#current.receipt, edits.drawnSeconds(id));
    await this.#show();
    await this.#repair(id);
  }

  undo() {
    return this.go(this.#parts.edits.before);
  }

  redo() {
    return this.go(this.#parts.edits.after);
  }

  stop() {
    this.#job.stop();
  }

  get isRunning() {
    return this.#job.isRunning;
  }

  /** Draws the words, or changes the picture by them. */
  submit() {
    const { field, masking } = this.#parts;
    const [prompt, source] = [field.value, this.#current];
    if (this.isRunning) return;
    if (!prompt) return this.#remind("Some words first.");
    if (!source || source.gone) return this.draw();
    if (masking.isOpen && masking.isEmpty) return say("Paint where it may change first.");
    if (prompt === source.prompt && !masking.isOpen) return this.#remind("Change a word first.");
    const steps = source.steps ?? this.#steps;
    return this.#run("/edit", { prompt, image_id: source.id, ...masking.given(), preview_every: previewEvery(steps) }, source);
  }

  /** Draws the words from nothing; `defaults` are for what the settings leave open. */
  draw(defaults = {}) {
    const { field, settings } = this.#parts;
    const body = { prompt: field.value, ...defaults, ...settings.given(), preview_every: previewEvery(this.#steps) };
    return this.#run("/generate", body, null);
  }

  /** Takes the mask that the words would have as the one to draw on. */
  async findMask() {
    const { api, field, masking, notice } = this.#parts;
    if (field.value === this.#current.prompt) return this.#remind("Change a word first.");
    say("Looking where the words change it…");
    try {
      if (await masking.find(api, field.value, this.#current.id)) say("This is what the words change. Draw or erase, then change it.");
    } catch (error) {
      await notice.tell(error, () => this.findMask());
    }
  }

  /** Shows what the edit changed, or no longer. */
  async toggleWhere() {
    const { notice, pictures, stage } = this.#parts;
    const shown = $("where").getAttribute("aria-pressed") === "true";
    try {
      stage.veil(shown ? null : (await pictures.mask(this.#current.id)).bitmap);
      $("where").setAttribute("aria-pressed", String(!shown));
    } catch (error) {
      await notice.tell(error, () => this.toggleWhere());
    }
  }

  /** Deletes a picture here and at the service. What was made of it stays. */
  async delete(id = this.#current.id) {
    const { api, edits, notice, pictures } = this.#parts;
    try {
      await api.delete(id);
    } catch (error) {
      return notice.tell(error, () => this.delete(id));
    }
    const [wasHere, before] = [edits.current === id && !this.isRunning, edits.before];
    edits.remove(id);
    pictures.forget(id);
    if (!wasHere) return this.#refresh(); // somebody went on meanwhile
    if (before) this.go(before);
    else this.startAfresh();
    say("Deleted.");
  }

  /** Forgets what this browser has kept. */
  forgetAll() {
    const { edits, pictures } = this.#parts;
    edits.clear();
    pictures.forgetAll();
    this.startAfresh();
    say("All is forgotten here.");
  }

  get #current() {
    return this.#parts.edits.get(this.#parts.edits.current);
  }

  get #steps() {
    return this.#parts.settings.given().num_inference_steps || this.#model.num_inference_steps;
  }

  #refresh() {
    label(this.#parts.edits, this.isRunning);
    this.#history.render();
  }

  #remind(text) {
    say(text);
    this.#parts.field.focus();
  }

  #try(prompt) {
    this.#parts.field.value = prompt;
    return this.submit();
  }

  /** Shows the current picture beside what it was made of. */
  async #show() {
    const { edits, field, stage } = this.#parts;
    const picture = this.#current;
    if (!picture) return this.start();
    document.body.dataset.view = "studio";
    field.before = picture.prompt;
    offer("Try", variations(picture.prompt, field.known), (prompt) => this.#try(prompt));
    offerFile(null); // the link is another's
    const source = edits.get(picture.parent);
    const [after, before] = [await this.#read(picture), source && (await this.#read(source))];
    if (edits.current !== picture.id) return; // somebody went on meanwhile
    $("where").setAttribute("aria-pressed", "false");
    offerFile(after.blob, picture);
    if (after.bitmap) stage.show(after.bitmap, picture.prompt, before?.bitmap);
    if (this.#current.gone) say("The service no longer has this picture; the words can be drawn anew.");
    this.#refresh();
  }

  /** {blob, bitmap} of a picture: without a blob it is a small one, or none at all (null). */
  async #read({ id, thumb }) {
    const { edits, notice, pictures } = this.#parts;
    try {
      const image = await pictures.image(id);
      edits.put({ id, gone: false, thumb: thumb ?? thumbOf(image.bitmap) });
      return image;
    } catch (error) {
      if (error.status === 404) edits.put({ id, gone: true });
      else await notice.tell(error, () => this.go(id));
      return { blob: null, bitmap: thumb ? await bitmapOfThumb(thumb) : null };
    }
  }

  /** Adds to the tree what the service knows and this browser does not. */
  async #repair(id) {
    const { api, edits } = this.#parts;
    const lineage = edits.get(id)?.gone ? null : await api.lineage(id).catch(() => null);
    if (!lineage) return; // the tree is as complete as it was
    edits.repair(lineage);
    for (const { image_id: other } of [...lineage.ancestors, ...lineage.edits]) {
      if (!edits.get(other).thumb) await this.#read(edits.get(other));
    }
    this.#refresh();
  }

  /** A job, and what came of it on the page. */
  async #run(path, body, source) {
    const { edits, field, notice, settings } = this.#parts;
    const { width, height } = { ...this.#model, ...settings.given() };
    notice.clear();
    try {
      const receipt = await this.#job.run(path, body, source, { width, height });
      await this.#show();
      field.value = body.prompt;
      showReceipt(receipt, edits.drawnSeconds(receipt.image_id));
      say(source?.id === receipt.image_id ? "The words change nothing that the model can see." : "Done.");
    } catch (error) {
      await this.#show();
      field.value = body.prompt;
      if (error.name === "AbortError") say("Stopped.");
      else if (error.status === 404) await notice.tell(error, () => this.draw(), "Draw it anew");
      else await notice.tell(error, () => this.#run(path, body, source));
    }
  }
}
