// The tree of pictures: what came from what. Kept in this browser's storage, for the service may forget.

import { ownSeconds } from "./receipt.js";

const PLACE = "retouch-edits";
const MOST = 150; // pictures that are kept; the oldest trees go first

/** A picture: {id, parent, prompt, steps, thumb, receipt, gone, next}; `next` is where redo goes. */
export class Edits {
  #storage;
  #pictures = new Map(); // by id, the oldest first
  current = null; // an id

  constructor(storage) {
    this.#storage = storage;
    try {
      const { pictures, current } = JSON.parse(storage.getItem(PLACE)) ?? { pictures: [], current: null };
      this.#pictures = new Map(pictures.map((picture) => [picture.id, picture]));
      this.current = this.#pictures.has(current) ? current : null;
    } catch {
      storage.removeItem(PLACE); // nothing that this page wrote
    }
  }

  get size() {
    return this.#pictures.size;
  }

  get(id) {
    return this.#pictures.get(id) ?? null;
  }

  /** Pictures without a parent that is known here, the newest first. */
  roots() {
    return [...this.#pictures.values()].filter(({ parent }) => !this.#pictures.has(parent)).reverse();
  }

  /** Edits of a picture, the oldest first. */
  children(id) {
    return [...this.#pictures.values()].filter(({ parent }) => parent === id);
  }

  /** Adds a picture, or what is now known of one. What is undefined stays as it was. */
  put(picture) {
    const known = Object.entries(picture).filter(([, value]) => value !== undefined);
    this.#pictures.set(picture.id, { ...this.get(picture.id), ...Object.fromEntries(known) });
    this.#forgetOldest();
    this.#save();
  }

  /** Adds a picture that a job has made. A receipt of work stays when the picture is only shown again. */
  add(picture, receipt) {
    const isNews = receipt.macs_computed > 0 || !this.get(picture.id)?.receipt;
    this.put({ ...picture, receipt: isNews ? receipt : undefined, gone: false });
  }

  /** What drawing the picture took that all of this began with; null where no receipt here tells. */
  drawnSeconds(id) {
    let root = this.get(id);
    while (root && this.get(root.parent)) root = this.get(root.parent);
    const receipt = root?.receipt;
    return receipt?.source_id === null && receipt.macs_computed > 0 ? ownSeconds(receipt) : null;
  }

  /** Goes to a picture; its parents will redo towards it. */
  select(id) {
    this.current = id;
    for (let picture = this.get(id); picture && this.get(picture.parent); picture = this.get(picture.parent)) {
      this.get(picture.parent).next = picture.id;
    }
    this.#save();
  }

  /** Where undo would go: the picture that this one was made of. */
  get before() {
    const parent = this.get(this.current)?.parent;
    return this.#pictures.has(parent) ? parent : null;
  }

  /** Where redo would go: to the edit last looked at, or the newest. */
  get after() {
    const next = this.get(this.current)?.next;
    return this.#pictures.has(next) ? next : (this.children(this.current).at(-1)?.id ?? null);
  }

  /** Forgets a picture and all that was made of it. */
  forget(id) {
    for (const { id: child } of this.children(id)) this.forget(child);
    this.remove(id);
  }

  /** Takes a picture out. What was made of it stays. */
  remove(id) {
    this.#pictures.delete(id);
    if (this.current === id) this.current = null;
    this.#save();
  }

  /** Forgets all, and leaves nothing in the storage. */
  clear() {
    this.#pictures.clear();
    this.current = null;
    this.#storage.removeItem(PLACE);
  }

  /** Repairs the tree from what the service says: {picture, ancestors, edits}. */
  repair({ picture, ancestors, edits }) {
    for (const { image_id: id, prompt, source_id: parent } of [...ancestors].reverse().concat(picture, edits)) {
      this.put({ id, prompt, parent, gone: false });
    }
  }

  #forgetOldest() {
    while (this.#pictures.size > MOST) {
      const oldest = this.roots().findLast(({ id }) => !this.#holds(id, this.current));
      if (!oldest) return;
      this.forget(oldest.id);
    }
  }

  #holds(id, wanted) {
    return id === wanted || this.children(id).some((child) => this.#holds(child.id, wanted));
  }

  #save() {
    if (this.size === 0) return this.#storage.removeItem(PLACE);
    const kept = { pictures: [...this.#pictures.values()], current: this.current };
    try {
      this.#storage.setItem(PLACE, JSON.stringify(kept));
    } catch {
      // full, or forbidden: the tree lives as long as the tab
    }
  }
}
