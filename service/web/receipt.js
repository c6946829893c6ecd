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

/** What a job took from its turn on: how long others made it wait says nothing of its work. */
export function ownSeconds(receipt) {
  return receipt.seconds.total - (receipt.seconds.queue ?? 0);
}

/** A receipt in one sentence; `drawnSeconds` is what drawing the first picture took, if known. */
export function sentence(receipt, drawnSeconds = null) {
  if (receipt.macs_computed === 0) return "It was known already: nothing had to be computed.";
  if (receipt.source_id === null) return `Drawn in ${seconds(ownSeconds(receipt))}.`;
  return `Recomputed ${percent(receipt.edited_ratio)} of the picture, ${saving(receipt, drawnSeconds)}.`;
}

/** What else there is to say of it: sentences. */
export function remarks(receipt) {
  const words = receipt.unknown_words.map((word) => `“${word}”`).join(", ");
  return [
    ...(words ? [`The model does not know ${words}.`] : []),
    ...receipt.fallbacks.map(({ reason }) => `${reason[0].toUpperCase()}${reason.slice(1)}.`),
  ];
}

/** Time, where it was measured here and was saved; else work. */
function saving(receipt, drawnSeconds) {
  const faster = drawnSeconds === null ? 0 : drawnSeconds / ownSeconds(receipt);
  if (faster >= 1.05) return `${faster.toFixed(1)}× faster than drawing it again`;
  const less = receipt.macs_dense / receipt.macs_computed;
  if (less >= 1.05) return `${less.toFixed(1)}× less work than drawing it again`;
  return less > 0.95 ? "as much work as drawing it again" : `${(1 / less).toFixed(1)}× the work of drawing it again`;
}
