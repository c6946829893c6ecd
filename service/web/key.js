// The question for a key, where the service wants one.

import { $, ask } from "./dom.js";

const SENDABLE = /^[\x21-\x7e]+$/; // no key has other signs, and not all others can be sent in a header
let asked = null; // the answer that is waited for: one question is enough for all who need it

/** The key that was typed, or null if there is none to give. `wasRefused`: one was given before. */
export function askForKey(wasRefused) {
  asked ??= question(wasRefused).finally(() => (asked = null));
  return asked;
}

function question(wasRefused) {
  $("key").value = "";
  $("key-refused").hidden = !wasRefused;
  return ask($("key-dialog"), typed);
}

/** What was pasted may hold a sign that nobody sees: it is refused before it is sent. */
function typed() {
  const key = $("key").value.trim();
  if (SENDABLE.test(key)) return key;
  $("key-refused").hidden = false;
  $("key").select();
  return undefined;
}
