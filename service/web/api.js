// The service, as the page asks it. Every failure is a Problem, the network's included.

import { readEvents } from "./sse.js";

const KEY = "retouch-key";

/** What went wrong: `status` is HTTP's, 0 where no answer came; `retrySeconds` is null where nobody said when to come again. */
export class Problem extends Error {
  constructor({ status = 0, type = "", detail = "", field = null, retry_after_seconds: told = null }, header = null) {
    super(detail);
    Object.assign(this, { status, type, field, retrySeconds: told ?? header });
  }
}

export class Api {
  #key = sessionStorage.getItem(KEY);

  /** How the model is called, its defaults and the words that it knows. */
  async model() {
    return (await this.#ask("GET", "/model")).json();
  }

  /** Where a picture comes from, and what was made of it. */
  async lineage(id) {
    return (await this.#ask("GET", `/images/${encodeURIComponent(id)}/lineage`)).json();
  }

  /** The PNG of a picture. */
  async image(id) {
    return (await this.#ask("GET", `/images/${encodeURIComponent(id)}`)).blob();
  }

  /** The PNG of what an edit changed, in white. */
  async mask(id) {
    return (await this.#ask("GET", `/images/${encodeURIComponent(id)}/mask`)).blob();
  }

  /** Forgets a picture; one that is not there is forgotten. */
  async delete(id) {
    await this.#ask("DELETE", `/images/${encodeURIComponent(id)}`).catch((error) => {
      if (error.status !== 404) throw error;
    });
  }

  /** One answer at the end: for a dry run. */
  async answer(path, body, signal) {
    return (await this.#ask("POST", path, body, signal)).json();
  }

  /** The events of a job as they come; throws a Problem where it fails, before its begin or later. */
  async *run(path, body, signal) {
    const response = await this.#ask("POST", path, { ...body, stream: true }, signal);
    let ended = false;
    try {
      for await (const { event, data } of readEvents(response.body)) {
        if (event === "error") throw new Problem(data);
        ended = event === "receipt";
        yield { event, data };
      }
    } catch (error) {
      throw named(error);
    }
    if (!ended) throw new Problem({ detail: "the connection was lost before the picture was done" });
  }

  get hasKey() {
    return this.#key !== null;
  }

  /** Sent with every request from now on. Once it was accepted it is kept for as long as the tab is open. */
  set key(key) {
    this.#key = key;
  }

  async #ask(method, path, body, signal) {
    const key = this.#key;
    const headers = { ...(body && { "content-type": "application/json" }), ...(key && { authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
    } catch (error) {
      throw named(error);
    }
    if (response.ok && key) sessionStorage.setItem(KEY, key);
    if (response.ok) return response;
    if (response.status === 401) sessionStorage.removeItem(KEY);
    const problem = await response.json().catch(() => ({}));
    const seconds = Number.parseFloat(response.headers.get("retry-after"));
    throw new Problem({ ...problem, status: response.status }, Number.isFinite(seconds) ? seconds : null);
  }
}

/** An AbortError stays what it is: the one who asked has cancelled. */
function named(error) {
  const own = error instanceof Problem || error.name === "AbortError";
  return own ? error : new Problem({ detail: "the service cannot be reached" });
}
