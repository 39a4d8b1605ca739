// Beam: the search as it grows, a column a step, the best on top, what was pruned below and why.

import { newest, stream } from "./api.js";
import { button, el, figure, labelled, number, select, short, svg, visible } from "./dom.js";

const WIDE = 136, HIGH = 30, TOP = 34;
const WHY = { width: "fell out of the beam", bank: "its bank is full", ended: "better ones have ended", eos: "ended by itself",
  stop: "ended by a stop string", length: "as long as asked", time: "out of time" };

export function beam(root, app) {
  const is = { model: app.names[0], prompt: "", width: 4, tokens: 16, penalty: 1, pruned: true };
  let steps = []; // {step, nodes, best}
  let nodes = new Map();
  let here = null;
  const running = newest();

  const drawing = svg("svg", { class: "lattice", role: "group", "aria-label": "Beam search, a column a step" });
  const frame = el("div", { class: "scroll lattice-frame", tabindex: 0, role: "region", "aria-label": "The search. Arrow keys go from token to token.", onkeydown: (event) => walk(event) }, drawing);
  const detail = el("p", { class: "detail", "aria-live": "polite" });
  const winners = el("ol", { class: "winners" });
  const log = el("div");

  function place(event) {
    if (event.step === 0) return; // the prompt
    const at = steps.length + 1;
    const order = { live: 0, ended: 0, pruned: 1 };
    const mine = [...event.nodes].sort((one, other) => order[one.state] - order[other.state] || other.score - one.score);
    let row = 0;
    let cut = false;
    for (const node of mine) {
      if (node.state === "pruned" && !cut) {
        cut = true;
        row = Math.max(row, is.width) + 0.6;
      }
      nodes.set(node.id, { ...node, column: at, row: row++ });
    }
    steps.push(event);
  }

  const x = (node) => 16 + node.column * WIDE;
  const y = (node) => TOP + node.row * HIGH;

  function path(id) {
    const ids = [];
    for (let node = nodes.get(id); node; node = nodes.get(node.parent)) ids.unshift(node);
    return ids;
  }
  const glue = () => (app.models.find((one) => one.id === is.model)?.lmlab?.tokenizer === "word" ? " " : "");
  const textOf = (id) => path(id).map((node) => node.text).join(glue());

  function draw() {
    const best = new Set(path(steps.at(-1)?.best[0]).map((node) => node.id));
    const traced = new Set(path(here).map((node) => node.id));
    const shown = [...nodes.values()].filter((node) => is.pruned || node.state !== "pruned");
    const edges = svg("g", { class: "edges", "aria-hidden": "true" });
    const marks = svg("g");
    const root_ = { column: 0, row: 0 };
    for (const node of [...shown].sort((one, other) => best.has(one.id) - best.has(other.id))) {
      const parent = nodes.get(node.parent) ?? root_;
      const kind = `${node.state}${best.has(node.id) ? " best" : ""}${traced.has(node.id) ? " traced" : ""}`;
      const [fromX, toX] = [x(parent) + (parent === root_ ? 12 : WIDE - 38), x(node) - 4];
      const edge = svg("path", { class: kind, d: `M${fromX} ${y(parent)} C${fromX + (toX - fromX) * 0.55} ${y(parent)} ${toX - (toX - fromX) * 0.55} ${y(node)} ${toX} ${y(node)}` });
      const mark = svg("g", { class: `node ${kind}`, transform: `translate(${x(node)} ${y(node)})`, tabindex: -1, role: "img",
        "aria-label": `Step ${node.column}: ${visible(node.text)}, score ${figure(node.score)}, ${node.state}${node.why ? `: ${WHY[node.why] ?? node.why}` : ""}` },
      svg("rect", { x: -4, y: -12, width: WIDE - 34, height: 24, rx: 5 }),
      svg("text", { x: 4, y: 4.5 }, clip(visible(node.text) + (node.state === "ended" ? " ■" : ""))),
      svg("text", { class: "score", x: WIDE - 44, y: 4.5, "text-anchor": "end" }, figure(node.score)));
      for (const event of ["pointerenter", "focus"]) mark.addEventListener(event, () => show(node));
      edge.node = mark.node = node.id;
      edges.append(edge);
      marks.append(mark);
    }
    const rows = Math.max(is.width, ...shown.map((node) => node.row)) + 1;
    const columns = Math.max(0, ...shown.map((node) => node.column)) + 1;
    const [width, height] = [columns * WIDE + 20, TOP + rows * HIGH];
    const line = TOP + (is.width - 0.2) * HIGH;
    drawing.replaceChildren(
      ...steps.map((_, at) => svg("text", { class: "head", x: 16 + (at + 1) * WIDE, y: 12 }, `step ${at + 1}`)),
      is.pruned && steps.length ? svg("line", { class: "cutline", x1: 16 + WIDE - 8, x2: width, y1: line, y2: line }) : "",
      edges, svg("circle", { class: "root", cx: 22, cy: TOP, r: 5 }), marks);
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) drawing.setAttribute(name, value);
  }

  const clip = (text) => ([...text].length > 8 ? `${[...text].slice(0, 7).join("")}…` : text);

  function show(node) {
    here = node.id;
    const traced = new Set(path(here).map((one) => one.id));
    const marks = [...drawing.querySelectorAll(".node"), ...drawing.querySelectorAll(".edges path")];
    for (const mark of marks) mark.classList.toggle("traced", traced.has(mark.node));
    const state = { live: "alive", ended: "ended", pruned: "pruned" }[node.state];
    detail.replaceChildren(el("span", {}, el("b", {}, `${short(is.prompt.slice(-30), 30)}`), short(textOf(node.id), 80)),
      el("span", {}, `log-probability ${figure(node.logp)} nats · score ${figure(node.score)} · ${state}${node.why ? `: ${WHY[node.why] ?? node.why}` : ""}`));
  }

  /** Left to the parent, right to a child, up and down within the step. */
  function walk(event) {
    const all = [...nodes.values()].filter((one) => is.pruned || one.state !== "pruned");
    const at = nodes.get(here);
    const near = { ArrowLeft: (one) => one.id === at.parent, ArrowRight: (one) => one.parent === at.id,
      ArrowUp: (one) => one.column === at.column && one.row < at.row, ArrowDown: (one) => one.column === at.column && one.row > at.row }[event.key];
    if (!near || !all.length) return;
    event.preventDefault();
    const found = at ? all.filter(near) : all;
    const to = event.key === "ArrowUp" ? found.at(-1) : found[0];
    [...drawing.querySelectorAll(".node")].find((mark) => mark.node === to?.id)?.focus();
  }

  function drawWinners() {
    winners.replaceChildren(...(steps.at(-1)?.best ?? []).map((id) => el("li", {}, button([el("span", { class: "context" }, textOf(id).replaceAll("\n", "↵")), el("span", { class: "n" }, `score ${figure(nodes.get(id)?.score)}`)], () => show(nodes.get(id)), { class: "row" }))));
    log.replaceChildren(...steps.map((step, at) => el("div", {}, el("h3", {}, `Step ${at + 1}`), el("ul", {}, step.nodes.map((node) =>
      el("li", {}, `${visible(textOf(node.id))}: score ${figure(node.score)}, ${node.state}${node.why ? `, ${WHY[node.why] ?? node.why}` : ""}`))))));
  }

  async function go() {
    if (grow.textContent === "Stop") return running.stop();
    steps = [];
    nodes = new Map();
    here = null;
    detail.replaceChildren();
    grow.textContent = "Stop";
    app.changed();
    await app.tried("beam", running(async (signal) => {
      const asked = { model: is.model, prompt: is.prompt, width: is.width, max_tokens: is.tokens, length_penalty: is.penalty };
      let frameAsked = 0;
      for await (const event of stream("beam", asked, signal)) {
        place(event);
        frameAsked ||= requestAnimationFrame(() => {
          frameAsked = 0;
          draw();
          frame.scrollLeft = frame.scrollWidth;
        });
      }
    }));
    draw();
    drawWinners();
    frame.scrollLeft = frame.scrollWidth;
    grow.textContent = "Grow";
  }

  const grow = button("Grow", go, { class: "main" });
  const which = el("span"), settings = el("span", { class: "bar-inner" });
  const prompt = el("input", { type: "text", class: "prompt", "aria-label": "Prompt", placeholder: "Prompt", oninput: () => { is.prompt = prompt.value; app.changed(); }, onkeydown: (event) => event.key === "Enter" && go() });
  root.append(
    el("div", { class: "bar-top" }, which, settings, grow), prompt, frame, detail,
    el("h2", {}, "Best so far"), winners, el("details", {}, el("summary", {}, "The search as a list"), log));

  return {
    open(params) {
      if (app.names.includes(params.get("model"))) is.model = params.get("model");
      is.prompt = params.get("prompt") ?? is.prompt;
      is.width = Math.min(32, Number(params.get("width")) || is.width);
      is.tokens = Math.min(200, Number(params.get("tokens")) || is.tokens);
      is.penalty = Number(params.get("penalty") ?? is.penalty);
      is.pruned = (params.get("pruned") ?? String(is.pruned)) === "true";
      prompt.value = is.prompt;
      which.replaceChildren(labelled("Model", select(app.names, is.model, (name) => { is.model = name; app.changed(); })));
      const pruned = el("input", { type: "checkbox", checked: is.pruned, onchange: () => { is.pruned = pruned.checked; draw(); app.changed(); } });
      settings.replaceChildren(
        labelled("Width", number(is.width, 1, 32, 1, (value) => { is.width = value; app.changed(); })),
        labelled("Tokens", number(is.tokens, 1, 200, 1, (value) => { is.tokens = value; app.changed(); })),
        labelled("Length penalty", number(is.penalty, 0, 5, 0.1, (value) => { is.penalty = value; app.changed(); })),
        el("label", { class: "check" }, pruned, "show what was pruned"));
      draw();
      go();
    },
    params: () => ({ model: is.model, prompt: is.prompt, width: is.width, tokens: is.tokens, penalty: is.penalty, pruned: is.pruned }),
    table: () => [...nodes.values()].map(({ column, id, parent, text, logp, score, state, why }) => ({ step: column, id, parent, text, logp, score, state, why })),
    json: () => ({ ...is, steps }),
    picture: () => frame,
  };
}
