// The few things that every part does with the document.

/** The element of this id. */
export const $ = (id) => document.getElementById(id);

/** A new element with properties and children; texts are texts, never markup. */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** A row of buttons, one for each of `labels`; `chosen` is called with the number of the one that is pressed. */
export function chips(container, labels, chosen) {
  const buttons = labels.map((label, i) => {
    const button = element("button", { type: "button", className: "chip" }, label);
    button.addEventListener("click", () => chosen(i));
    return button;
  });
  container.replaceChildren(...buttons);
}

/** Shows a dialog. Resolves with what `answer` returns when its form is sent, undefined keeps it open; null if it is left. */
export function ask(dialog, answer) {
  dialog.showModal();
  return new Promise((resolve) => {
    const listening = new AbortController();
    const close = (value) => {
      listening.abort();
      dialog.close();
      resolve(value);
    };
    const on = (target, name, act) => target.addEventListener(name, act, { signal: listening.signal });
    on(dialog.querySelector("form"), "submit", (event) => {
      event.preventDefault();
      const value = answer();
      if (value !== undefined) close(value);
    });
    on(dialog.querySelector("button[type=button]"), "click", () => close(null));
    on(dialog, "cancel", () => close(null));
  });
}
