// Small parts that the views are made of. Data reaches the document as text nodes and attributes, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") node[name] = value;
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== false && child !== undefined));
  return node;
}

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const button = (label, onclick, attributes = {}) => el("button", { type: "button", onclick, ...attributes }, label);
export const labelled = (label, input) => el("label", { class: "field" }, el("span", {}, label), input);

export const number = (value, min, max, step, oninput, attributes = {}) =>
  el("input", { type: "number", min, max, step, value, oninput: (event) => {
    const asked = event.target.valueAsNumber;
    if (asked >= min && asked <= max) oninput(asked);
  }, ...attributes });

export const select = (values, chosen, onchange, names = values) => {
  const made = el("select", { onchange: () => onchange(made.value) },
    values.map((value, at) => el("option", { value }, names[at])));
  if (values.includes(chosen)) made.value = chosen;
  return made;
};

export function later(wait, work) {
  let timer = 0;
  const soon = (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
  soon.stop = () => clearTimeout(timer);
  return soon;
}

export const figure = (value, digits = 2) =>
  value === null || value === undefined || !Number.isFinite(value) ? "–" : value >= 1e7 ? value.toExponential(2) : value.toFixed(value >= 1e4 ? 0 : digits);
export const percent = (p) => (p === 0 ? "0 %" : p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);

/** A text of which every character can be seen: for names of tokens. */
export const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll("\r", "␍").replaceAll(" ", "␣") || "∅";
/** A text on one line, cut in its middle where it is long. */
export const short = (text, most = 60) => {
  const line = [...text.replaceAll("\n", "↵")];
  return line.length <= most ? line.join("") : [...line.slice(0, most / 2), " … ", ...line.slice(-most / 2)].join("");
};

/** Where each code point begins in the UTF-16 of JavaScript, and the end: the server counts code points. */
export function places(text) {
  const at = [];
  let place = 0;
  for (const point of text) {
    at.push(place);
    place += point.length;
  }
  return [...at, place];
}

/** Tokens of the server as pieces of a text; white space that no token holds belongs to the next. */
export function pieces(text, tokens) {
  const at = places(text);
  let from = 0;
  return tokens.map((token) => {
    const to = Math.max(from, at[Math.min(token.end, at.length - 1)]);
    const piece = { ...token, from, to, piece: text.slice(from, to) };
    from = to;
    return piece;
  });
}

export const FULL = 12; // bits of the strongest colour

/** A span on the colour of a share from 0 to 1. */
export function toned(text, share, kind = "") {
  const span = el("span", { class: `t ${kind}` }, text.replaceAll("\n", "↵\n"));
  span.style.setProperty("--b", (Math.max(0, Math.min(1, share)) ** 0.75).toFixed(3)); // a little lift for what is small
  return span;
}

/** A heat map: the mouse, and the arrow keys once it has the focus, pick a piece. */
export function heat(list, share, label, pick) {
  const spans = list.map((piece) => toned(piece.piece || (piece.text === "<eos>" ? "■" : ""), share(piece)));
  let at = -1;
  const go = (to) => {
    spans[at]?.classList.remove("here");
    at = Math.max(0, Math.min(spans.length - 1, to));
    spans[at]?.classList.add("here");
    if (list[at]) pick(list[at]);
  };
  const box = el("div", { class: "heat", tabindex: 0, role: "application", "aria-label": `${label}. Arrow keys go from token to token.`,
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      go(Math.max(-1, at) + step);
    },
    onpointermove: (event) => {
      const found = spans.indexOf(event.target);
      if (found >= 0 && found !== at) go(found);
    } }, spans);
  box.mark = (from, to) => list.forEach((piece, i) => spans[i].classList.toggle("here", piece.from < to && piece.to > from));
  return box;
}

export const legend = (label = "bits of surprise") =>
  el("span", { class: "legend" }, el("span", {}, "0"), el("i", { "aria-hidden": "true" }), el("span", {}, `${FULL}+ ${label}`));

const percentWidth = (bar, p) => {
  bar.style.width = `${(100 * p).toFixed(2)}%`;
  return bar;
};

const heard = (text) => el("span", { class: "heard" }, text); // by screen readers alone

/** Next tokens as bars: p under the model, and p after the samplers; what they cut is faint. */
export function bars(tokens, chosen, onpick) {
  const most = Math.max(...tokens.map((token) => Math.max(token.p, token.chain_p)), 1e-9);
  return el("ol", { class: "bars" }, tokens.map((token) => el("li", {},
    el("button", { type: "button", class: `bar${token.chain_p === 0 ? " cut" : ""}${token === chosen ? " chosen" : ""}`,
      onclick: () => onpick(token) },
    el("span", { class: "rank" }, heard("rank "), String(token.rank)),
    el("span", { class: "name" }, visible(token.text)),
    el("span", { class: "track" }, percentWidth(el("i", { class: "before" }), token.p / most), percentWidth(el("i", { class: "after" }), token.chain_p / most)),
    el("span", { class: "p" }, percent(token.p)),
    el("span", { class: "p after" }, heard("after sampling "), token.chain_p === 0 ? "cut" : percent(token.chain_p))))));
}
