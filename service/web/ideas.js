// What a stranger may try: pictures to begin with, and small changes of the words that are there.

const PICTURES = [
  "a snow mountain under a clear sky",
  "a sea under a sunset sky with a boat",
  "a green hill under a clear sky with a river and a rainbow",
  "a snow mountain under a night sky with a moon",
];
const NEXT_SKY = { clear: "sunset", cloudy: "clear", sunset: "night", night: "sunset" };
const NEVER_UNDER = { sunset: [], clear: ["moon"], night: ["sun", "rainbow", "balloon", "bird"] };
const NEXT_HOUSE = { red: "blue", blue: "yellow", yellow: "red" };
const IN_THE_SKY = { clear: "a rainbow", cloudy: "a hot air balloon", sunset: "a hot air balloon", night: "a moon" };
const SKY_THINGS = /\b(sun|moon|rainbow|balloon|fireworks|bird)\b/;

/** Prompts to begin with that the model can draw: [{label, prompt}]. */
export function beginnings(known) {
  return drawable(PICTURES.map((prompt) => ({ label: prompt, prompt })), known);
}

/** Small edits of a prompt: [{label, prompt}]; none where it tells of no sky, for the rules are about landscapes. */
export function variations(prompt, known) {
  const sky = prompt.match(/\b(clear|cloudy|sunset|night) sky\b/)?.[1];
  const ideas = sky ? [onTheGround(prompt), underAnother(prompt, sky), inThe(prompt, sky), without(prompt)] : [];
  return drawable(ideas.filter(Boolean), known);
}

function drawable(ideas, known) {
  return ideas.filter(({ prompt }) => !known || prompt.split(" ").every((word) => known.has(word)));
}

function onTheGround(prompt) {
  const colour = prompt.match(/\b(red|blue|yellow) house\b/)?.[1];
  if (colour) {
    const house = `${NEXT_HOUSE[colour]} house`;
    return { label: `a ${house}`, prompt: prompt.replace(`${colour} house`, house) };
  }
  const thing = /\bsea\b/.test(prompt) ? "a boat" : "a red house";
  return prompt.includes(thing) ? null : { label: thing, prompt: joined(prompt, thing) };
}

function underAnother(prompt, sky) {
  const next = NEXT_SKY[sky];
  const hidden = NEVER_UNDER[next].some((thing) => new RegExp(`\\b${thing}\\b`).test(prompt));
  return hidden ? null : { label: `a ${next} sky`, prompt: prompt.replace(`${sky} sky`, `${next} sky`) };
}

function inThe(prompt, sky) {
  const thing = IN_THE_SKY[sky];
  return SKY_THINGS.test(prompt) ? null : { label: thing, prompt: joined(prompt, thing) };
}

function without(prompt) {
  const last = prompt.match(/^(.+) (?:with|and) (?:a )?([\w ]+)$/);
  return last && { label: `no ${last[2]}`, prompt: last[1] };
}

function joined(prompt, thing) {
  return `${prompt} ${/\bwith\b/.test(prompt) ? "and" : "with"} ${thing}`;
}
