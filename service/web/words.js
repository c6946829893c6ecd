// Words of a prompt: which the model knows, and what changed between two prompts.

const WORD = /[\p{L}\p{N}_]+(?:['’][\p{L}\p{N}_]+)*/gu; // as the service parts them

/** The words of a text with their places: [{word, start, end}]. */
export function wordsIn(text) {
  return [...text.matchAll(WORD)].map(({ 0: word, index }) => ({ word, start: index, end: index + word.length }));
}

/** What `known`, a Set, does not hold; nothing where the model does not tell its words (null). */
export function unknownIn(text, known) {
  const words = known ? wordsIn(text).map(({ word }) => word) : [];
  return [...new Set(words.filter((word) => !known.has(word.toLowerCase())))];
}

/** Known words that may be meant by what has been typed so far, the best first. */
export function completions(part, known, most = 5) {
  const typed = part.toLowerCase();
  if (!typed || !known || known.has(typed)) return [];
  const begun = [...known].filter((word) => word.startsWith(typed));
  const near = [...known]
    .map((word) => [distance(typed, word), word])
    .filter(([steps, word]) => typed.length > 2 && steps <= Math.ceil(word.length / 3))
    .sort(([a], [b]) => a - b);
  return [...new Set([...begun, ...near.map(([, word]) => word)])].slice(0, most);
}

/** Words that went and words that came, in their order: {removed: [word], added: [{word, start, end}]}. */
export function changes(before, after) {
  const [old, fresh] = [wordsIn(before), wordsIn(after)];
  const same = (i, j) => old[i].word.toLowerCase() === fresh[j].word.toLowerCase();
  const longest = table(old.length, fresh.length, same);
  const removed = [];
  const added = [];
  let [i, j] = [0, 0];
  while (i < old.length || j < fresh.length) {
    if (i < old.length && j < fresh.length && same(i, j)) [i, j] = [i + 1, j + 1];
    else if (j === fresh.length || (i < old.length && longest[i + 1][j] >= longest[i][j + 1])) removed.push(old[i++].word);
    else added.push(fresh[j++]);
  }
  return { removed, added };
}

/** Lengths of the longest common sequences of what is left from (i, j) on. */
function table(rows, columns, same) {
  const lengths = Array.from({ length: rows + 1 }, () => new Array(columns + 1).fill(0));
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      lengths[i][j] = same(i, j) ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  return lengths;
}

/** Letters to put in, take out or replace (Levenshtein). */
function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}
