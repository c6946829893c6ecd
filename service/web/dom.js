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
