// Compare: one prompt, several models and strategies beside each other.

import { complete, newest } from "./api.js";
import { button, el, figure, labelled, legend, number, select, toned, FULL } from "./dom.js";
import { chainOf, controls, fields, told } from "./samplers.js";

const STRATEGIES = ["greedy", "sample", "beam", "beam_sample", "diverse_beam", "stochastic_beam", "contrastive", "mbr"];

const named = (label, input) => {
  input.setAttribute("aria-label", label);
  return input;
};

export function compare(root, app) {
  const is = { prompt: "", tokens: 80, seed: 1, unknown: false, columns: [] };
  const board = el("div", { class: "board" });
  const prompt = el("textarea", { class: "plain", rows: 2, spellcheck: "false", "aria-label": "Prompt", placeholder: "Prompt", oninput: () => { is.prompt = prompt.value; app.changed(); },
    onkeydown: (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && goAll() });
  const settings = el("span", { class: "bar-inner" });

  const column = (model, strategy, chain) => ({ model, strategy, chain, parts: [], running: newest() });

  async function go(one) {
    one.parts = [];
    one.text.replaceChildren(el("span", { class: "given" }, is.prompt));
    one.figures.textContent = "";
    let waiting = [];
    let frame = 0;
    const flush = () => {
      frame = 0;
      one.text.append(...waiting.splice(0).map(({ text, bits }) => toned(text, bits / FULL)));
      drawFigures(one);
    };
    await one.running(async (signal) => {
      const request = { model: one.model, prompt: is.prompt, max_tokens: is.tokens, seed: is.seed, strategy: one.strategy, allow_unknown: is.unknown, ...fields(one.chain) };
      for await (const { text, bits } of complete(request, signal)) {
        const part = { text, bits: bits.reduce((sum, bit) => sum + bit, 0), tokens: bits.length };
        one.parts.push(part);
        waiting.push(part);
        frame ||= requestAnimationFrame(flush);
      }
    }).catch((error) => {
      if (error.status === 401) throw error;
      one.figures.textContent = error.message;
    });
    cancelAnimationFrame(frame);
    if (waiting.length) flush();
  }

  function drawFigures(one) {
    const tokens = one.parts.reduce((sum, part) => sum + part.tokens, 0);
    const bits = one.parts.reduce((sum, part) => sum + part.bits, 0);
    one.figures.textContent = tokens ? `${tokens} tokens · ${figure(bits / tokens)} bits a token · ${figure(2 ** (bits / tokens))} perplexity` : "";
  }

  const goAll = () => {
    app.changed();
    return app.tried("compare", Promise.all(is.columns.map(go)));
  };

  function draw() {
    board.replaceChildren(...is.columns.map((one, at) => {
      one.text = el("div", { class: "heat out", tabindex: 0, role: "region", "aria-label": `Text ${at + 1}` });
      one.figures = el("p", { class: "note", role: "status" });
      const changed = () => { app.changed(); app.tried("compare", go(one)); };
      return el("article", { "aria-label": `Column ${at + 1}` },
        el("div", { class: "bar-top" },
          named(`Model ${at + 1}`, select(app.names, one.model, (name) => { one.model = name; changed(); })),
          named(`Strategy ${at + 1}`, select(STRATEGIES, one.strategy, (name) => { one.strategy = name; changed(); })),
          is.columns.length > 1 ? button("×", () => { one.running.stop(); is.columns.splice(at, 1); draw(); goAll(); }, { class: "quiet", "aria-label": `Remove column ${at + 1}` }) : null),
        el("details", {}, el("summary", {}, "Sampling"), controls(one.chain, changed)),
        one.text, one.figures);
    }));
  }

  root.append(
    el("div", { class: "bar-top" }, settings, button("Run all", goAll, { class: "main", title: "Ctrl + Enter" }),
      button("Add a column", () => { is.columns.push(column(app.names[is.columns.length % app.names.length], "sample", [["temperature", 1]])); draw(); goAll(); })),
    prompt, board, legend());

  return {
    open(params) {
      is.prompt = params.get("prompt") ?? is.prompt;
      is.tokens = Number(params.get("tokens")) || is.tokens;
      is.seed = Number(params.get("seed") ?? is.seed) || 0;
      is.unknown = params.get("unknown") === "true";
      const asked = params.has("columns") ? JSON.parse(params.get("columns")) : [];
      is.columns = asked.map(([model, strategy, chain]) => column(app.names.includes(model) ? model : app.names[0], STRATEGIES.includes(strategy) ? strategy : "sample", chainOf(chain, [])));
      if (!is.columns.length) {
        const last = app.names[1] ?? app.names[0];
        is.columns = [column(app.names[0], "greedy", []), column(app.names[0], "sample", [["temperature", 0.8]]), column(last, "sample", [["temperature", 0.8]])];
      }
      prompt.value = is.prompt;
      settings.replaceChildren(
        labelled("Tokens", number(is.tokens, 1, 2000, 1, (value) => { is.tokens = value; app.changed(); })),
        labelled("Seed", number(is.seed, 0, 2 ** 31, 1, (value) => { is.seed = value; app.changed(); })),
        el("label", { class: "check", title: "Read and write what the vocabulary lacks as [UNK]" }, el("input", { type: "checkbox", checked: is.unknown, onchange: (event) => { is.unknown = event.target.checked; goAll(); } }), "allow unknown tokens"));
      draw();
      goAll();
    },
    params: () => ({ prompt: is.prompt, tokens: is.tokens, seed: is.seed, ...(is.unknown && { unknown: true }), columns: JSON.stringify(is.columns.map((one) => [one.model, one.strategy, told(one.chain)])) }),
    table: () => is.columns.flatMap((one, at) => one.parts.map(({ text, bits }) => ({ column: at + 1, model: one.model, strategy: one.strategy, chain: told(one.chain), text, bits }))),
    json: () => ({ prompt: is.prompt, tokens: is.tokens, seed: is.seed, columns: is.columns.map(({ model, strategy, chain, parts }) => ({ model, strategy, chain: fields(chain), text: parts.map((part) => part.text).join(""), parts })) }),
    picture: () => board,
  };
}
