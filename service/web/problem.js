// What went wrong, said kindly, and what can be done about it.

import { $, element } from "./dom.js";
import { askForKey } from "./key.js";
import { say } from "./panel.js";

const TITLES = {
  0: "The connection was lost",
  401: "A key is needed",
  404: "The service no longer has this picture",
  422: "This cannot be done as it is",
  429: "The service is busy just now",
  503: "The service is not ready yet",
  504: "It took too long",
};
const ADVICE = {
  0: "Nothing of yours is lost. Is the service still running?",
  401: "The service draws for those who have one.",
  404: "It keeps as many as it has room for. The words are still here: they can be drawn anew.",
  429: "Its queue is full.",
  503: "It is starting, or being replaced.",
  504: "The time that was given for it is over; nothing was changed.",
};

const LIMIT = {
  title: "That was a lot at once",
  advice: "Your key has done as much as it may for now.",
};

export class Notice {
  #api;
  #box = $("problem");
  #timer = 0;

  constructor(api) {
    this.#api = api;
  }

  clear() {
    clearInterval(this.#timer);
    this.#box.replaceChildren();
  }

  /** Asks for a key where one is needed, and goes on with `again`; else says what went wrong and offers it as `label`. */
  async tell(error, again, label = "Try again") {
    if (error.status === undefined) throw error; // a defect of the page: the console tells
    say("");
    const key = error.status === 401 ? await askForKey(this.#api.hasKey) : null;
    if (key === null) return this.#show(error, { label, run: again });
    this.#api.key = key;
    return again();
  }

  /** With a clock that counts down to when it is worth trying again. `action`: {label, run}. */
  #show(problem, action) {
    this.clear();
    const { status, type, retrySeconds } = problem;
    const { title, advice } = type.endsWith(":limit") ? LIMIT : { title: TITLES[status], advice: ADVICE[status] };
    const button = element("button", { type: "button", className: "tool" }, action.label);
    button.addEventListener("click", () => {
      this.clear();
      action.run();
    });
    const wait = element("span", { className: "countdown" });
    this.#box.append(
      element("h2", {}, title ?? "Something went wrong"),
      element("p", {}, advice ?? plain(problem.message)),
      element("p", { className: "row" }, button, wait),
    );
    if (retrySeconds !== null) this.#count(wait, Math.ceil(retrySeconds));
  }

  /** A clock that is read aloud each second is a nuisance: it is hidden from screen readers after the first. */
  #count(wait, seconds) {
    const tell = () => (wait.textContent = seconds > 0 ? `It should have time in ${seconds} s.` : "It should have time now.");
    tell();
    this.#timer = setInterval(() => {
      wait.setAttribute("aria-hidden", "true");
      seconds -= 1;
      tell();
      if (seconds <= 0) clearInterval(this.#timer);
    }, 1000);
  }
}

/** "seed: must be ..." as a sentence. */
function plain(message) {
  return message ? `${message[0].toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."}` : "The service did not say what.";
}
