// The question for a key, where the service wants one.

import { $ } from "./dom.js";

let asked = null; // the answer that is waited for: one question is enough for all who need it

/** The key that was typed, or null if there is none to give. `wasRefused`: one was given before. */
export function askForKey(wasRefused) {
  asked ??= ask(wasRefused).finally(() => (asked = null));
  return asked;
}

function ask(wasRefused) {
  const dialog = $("key-dialog");
  $("key").value = "";
  $("key-refused").hidden = !wasRefused;
  dialog.showModal();
  return new Promise((resolve) => {
    const listening = new AbortController();
    const answer = (key) => {
      listening.abort();
      dialog.close();
      resolve(key);
    };
    const on = (target, name, act) => target.addEventListener(name, act, { signal: listening.signal });
    on($("key-form"), "submit", (event) => {
      event.preventDefault();
      answer($("key").value.trim() || null);
    });
    on($("key-cancel"), "click", () => answer(null));
    on(dialog, "cancel", () => answer(null));
  });
}
