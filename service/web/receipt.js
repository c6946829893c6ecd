// What a picture cost, in plain words: only what its receipt says.

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** "11 %", with a thin space; what is not nothing is not shown as nothing. */
export function percent(ratio) {
  const rounded = Math.round(ratio * 100);
  return rounded === 0 && ratio > 0 ? "under 1\u202f%" : `${rounded}\u202f%`;
}

/** "4.1 s", "0.23 s". */
export function seconds(value) {
  return `${value < 1 ? value.toFixed(2) : numbers.format(value)}\u202fs`;
}

/** The facts of a receipt: [{figure, text}]; `drawnSeconds` is what drawing the first picture took, if known. */
export function facts(receipt, drawnSeconds = null) {
  const took = seconds(receipt.seconds.total);
  if (receipt.macs_computed === 0) return [{ figure: took, text: "It was known already: nothing had to be computed." }];
  if (receipt.source_id === null) return [{ figure: took, text: "to draw it" }];
  const rest = receipt.edited_ratio < 1 ? "; beyond its edge every pixel is as it was" : "";
  const beside = drawnSeconds === null ? "for this change" : `for this change; the drawing took ${seconds(drawnSeconds)}`;
  return [
    { figure: percent(receipt.edited_ratio), text: `of the picture redrawn${rest}` },
    work(receipt.macs_dense / receipt.macs_computed),
    { figure: took, text: beside },
  ];
}

/** What else there is to say of it: sentences. */
export function remarks(receipt) {
  const words = receipt.unknown_words.map((word) => `“${word}”`).join(", ");
  return [
    ...(words ? [`The model does not know ${words}.`] : []),
    ...receipt.fallbacks.map(({ reason }) => `${reason[0].toUpperCase()}${reason.slice(1)}.`),
  ];
}

/** `times` is the work of drawing the picture again, as a multiple of this. */
function work(times) {
  if (times >= 1.05) return { figure: `${times.toFixed(1)}×`, text: "less work than drawing it again" };
  if (times > 0.95) return { figure: "1×", text: "the work of drawing it again" };
  return { figure: `${(1 / times).toFixed(1)}×`, text: "the work of drawing it again" };
}
