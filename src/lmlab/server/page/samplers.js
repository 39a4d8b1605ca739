// The samplers of a chain as controls. A request carries each by its name, in the order of the chain.

import { button, el, number, select } from "./dom.js";

// name, default, least, most and step of the slider, what it does; a test holds these against the library's own.
export const SAMPLERS = [
  ["temperature", 1, 0, 3, 0.01, "below 1 sharper, 0 always the likeliest"],
  ["top_k", 40, 1, 200, 1, "keep the k likeliest"],
  ["top_p", 0.9, 0.01, 1, 0.01, "keep the likeliest of this mass"],
  ["min_p", 0.05, 0, 1, 0.01, "keep what is this near the likeliest"],
  ["typical", 0.95, 0.01, 1, 0.01, "keep what is about as surprising as expected"],
  ["epsilon", 0.0003, 0, 0.1, 0.0001, "keep what is at least this likely"],
  ["eta", 0.0003, 0, 0.1, 0.0001, "a threshold that falls with entropy"],
  ["top_a", 0.2, 0, 1, 0.01, "keep p of at least a · max(p)²"],
  ["top_n_sigma", 1, 0.1, 5, 0.1, "keep logits within n deviations of the largest"],
  ["top_h", 0.4, 0.01, 1, 0.01, "keep the likeliest of this share of entropy"],
  ["tail_free", 0.95, 0.01, 1, 0.01, "cut the straight tail"],
  ["xtc", 0.5, 0, 1, 0.01, "how often the top choices are left out"],
  ["mirostat", 5, 0.1, 12, 0.1, "hold this many bits a token (version 2)"],
  ["mirostat_1", 5, 0.1, 12, 0.1, "hold this many bits a token (version 1)"],
  ["adaptive_p", 0.5, 0, 0.99, 0.01, "prefer tokens near this probability; last"],
  ["dynamic_temperature", 0.5, 0.01, 3, 0.01, "temperature where the model is certain"],
  ["quadratic", 0.3, 0.01, 3, 0.01, "bend logits by their distance to the top"],
  ["repetition_penalty", 1.2, 1, 2, 0.01, "what came before becomes less likely"],
  ["presence_penalty", 0.5, -2, 2, 0.05, "off the logit of what came before"],
  ["frequency_penalty", 0.5, -2, 2, 0.05, "off the logit, for each time it came"],
  ["penalties", 1.1, 1, 2, 0.01, "repetition penalty over the last 64 tokens"],
  ["no_repeat_ngram", 3, 1, 10, 1, "no run of n tokens twice"],
  ["dry", 0.8, 0, 5, 0.05, "against longer and longer repeats"],
  ["min_new_tokens", 1, 1, 200, 1, "no end before so many tokens"],
  ["watermark", 2, 0.1, 10, 0.1, "a secret part of the vocabulary is likelier"],
];
const BY_NAME = Object.fromEntries(SAMPLERS.map((row) => [row[0], row]));

/** A chain from a link: what is no known sampler, or no number, is left out. */
export const chainOf = (told, fallback) => {
  if (told === null || told === undefined) return fallback;
  return told.split(",").map((part) => part.split("=")).filter(([name, value]) => name in BY_NAME && value && Number.isFinite(+value)).map(([name, value]) => [name, +value]);
};
export const told = (chain) => chain.map(([name, value]) => `${name}=${value}`).join(",");
export const fields = (chain) => Object.fromEntries(chain);

/** Controls that alter a chain in place. */
export function controls(chain, changed) {
  const box = el("div", { class: "samplers" });
  const draw = () => box.replaceChildren(
    ...chain.map((entry, at) => {
      const [name, , least, most, step, help] = BY_NAME[entry[0]];
      const set = (value) => {
        entry[1] = value;
        for (const input of row.querySelectorAll("input")) if (input !== document.activeElement) input.value = value;
        changed();
      };
      const row = el("div", { class: "sampler" },
        el("span", { class: "title" }, el("b", {}, name), el("small", {}, help)),
        el("input", { type: "range", min: least, max: most, step, value: entry[1], "aria-label": name, oninput: (event) => set(event.target.valueAsNumber) }),
        number(entry[1], least, most, "any", set, { "aria-label": `${name}, exactly` }),
        button("×", () => { chain.splice(at, 1); draw(); changed(); }, { class: "quiet", "aria-label": `Remove ${name}` }));
      return row;
    }),
    ...(chain.length < SAMPLERS.length ? [adder()] : []));
  const adder = () => {
    const left = SAMPLERS.map(([name]) => name).filter((name) => !chain.some((entry) => entry[0] === name));
    const made = select(["", ...left], "", (name) => {
      chain.push([name, BY_NAME[name][1]]);
      draw();
      changed();
      box.querySelector(".sampler:last-of-type input").focus();
    }, ["Add a sampler …", ...left]);
    made.setAttribute("aria-label", "Add a sampler");
    return made;
  };
  draw();
  return box;
}
