// Pictures and masks that were seen, so that they are not fetched again; the oldest go first.

const MOST = 48;
const THUMB = 176; // pixels: twice what the tree shows, for dense screens

export class Pictures {
  #api;
  #known = new Map(); // by "image/ID" and "mask/ID": {blob, bitmap}

  constructor(api) {
    this.#api = api;
  }

  /** {blob, bitmap} of a picture. Throws a Problem where the service has it no more. */
  image(id) {
    return this.#read(`image/${id}`, () => this.#api.image(id));
  }

  /** The same of what an edit changed. */
  mask(id) {
    return this.#read(`mask/${id}`, () => this.#api.mask(id));
  }

  /** Keeps what came with a job: PNGs in base64. */
  async keep(id, { image, mask }) {
    if (image) await this.#read(`image/${id}`, () => decoded(image));
    if (mask) await this.#read(`mask/${id}`, () => decoded(mask));
  }

  forget(id) {
    for (const kind of ["image", "mask"]) this.#known.delete(`${kind}/${id}`);
  }

  forgetAll() {
    this.#known.clear();
  }

  async #read(name, fetched) {
    if (!this.#known.has(name)) {
      const blob = await fetched();
      this.#known.set(name, { blob, bitmap: await createImageBitmap(blob) });
      if (this.#known.size > MOST) this.#known.delete(this.#known.keys().next().value);
    }
    return this.#known.get(name);
  }
}

/** A PNG in base64 as a bitmap. */
export async function bitmapOf(base64) {
  return createImageBitmap(decoded(base64));
}

/** A small copy as a data: URL, for the browser's storage. */
export function thumbOf(bitmap) {
  const scale = THUMB / Math.min(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const canvas = Object.assign(document.createElement("canvas"), { width: THUMB, height: THUMB });
  canvas.getContext("2d").drawImage(bitmap, (THUMB - width) / 2, (THUMB - height) / 2, width, height);
  return canvas.toDataURL("image/jpeg", 0.85);
}

/** A thumb as a bitmap: all that is left of a picture that the service forgot. */
export async function bitmapOfThumb(thumb) {
  return bitmapOf(thumb.split(",")[1]);
}

function decoded(base64) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))]);
}
