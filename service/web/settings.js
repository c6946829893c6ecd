// How a picture is drawn, where it is not to be the model's own way.

import { $, element } from "./dom.js";

const NUMBERS = { seed: "seed", num_inference_steps: "steps", guidance_scale: "guidance", width: "width", height: "height" };
const SEEDS = 2 ** 31;

/** A seed that nobody chose. */
export function anySeed() {
  return Math.floor(Math.random() * SEEDS);
}

export class DrawingSettings {
  constructor() {
    $("dice").addEventListener("click", () => ($("seed").value = anySeed()));
  }

  /** Shows the model's own values where nothing is given. */
  set model(model) {
    for (const [name, id] of Object.entries(NUMBERS)) $(id).placeholder = model[name] ?? "the model’s";
    const options = model.samplers.map((name) => element("option", { value: name }, name));
    $("sampler").replaceChildren(...options);
    $("sampler").value = model.sampler;
  }

  /** What was given, as the service names it. A number that is none comes as it is: the service says what is wrong. */
  given() {
    const numbers = Object.entries(NUMBERS).map(([name, id]) => [name, $(id).value === "" ? null : Number($(id).value)]);
    const texts = [["sampler", $("sampler").value], ["negative_prompt", $("negative").value.trim()]];
    return Object.fromEntries([...numbers, ...texts].filter(([, value]) => value !== null && value !== ""));
  }
}
