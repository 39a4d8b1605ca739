// Score: how many bits one or two texts cost under several models, and where.

import { newest, post } from "./api.js";
import { el, figure, heat, labelled, later, legend, percent, pieces, select, visible, FULL, button } from "./dom.js";

const sum = (numbers) => numbers.reduce((total, one) => total + one, 0);

/** The words of a text with their bits under each model; white space counts to the word that follows, as in the library. */
function words(text, results) {
  const found = [...text.matchAll(/\S+/gu)].map(({ 0: word, index }) => ({ from: index, to: index + word.length, bits: results.map(() => 0) }));
  results.forEach(({ list }, model) => {
    let at = 0;
    for (const { from, to, piece, bits } of list) {
      if (to === from) continue;
      const begins = from + (piece.length - piece.trimStart().length);
      while (at < found.length && found[at].to <= begins) at++;
      if (at < found.length) found[at].bits[model] += bits;
    }
  });
  return found;
}

export function score(root, app) {
  const is = { models: app.names.slice(0, 2), a: "", b: null, by: "bits" };
  let results = []; // {model, which, text, got, list, box}
  const running = newest(), counting = newest();

  const table = el("div"), maps = el("div", { class: "whole" }), places = el("div"), chips = el("div", { class: "chips", role: "group", "aria-label": "Models" });
  const detail = el("p", { class: "detail", "aria-live": "polite" });
  const area = (label, which) => el("textarea", { class: "plain", rows: 4, spellcheck: "false", "aria-label": label, placeholder: "Paste a text …", oninput: (event) => { is[which] = event.target.value; again(); } });
  const first = area("Text A", "a"), second = area("Text B", "b");
  const texts = el("div", { class: "pair" }, first);
  const by = el("span");
  const addition = button("Add a second text", () => { is.b = is.b === null ? "" : null; layTexts(); again(); });

  function layTexts() {
    texts.replaceChildren(first, ...(is.b === null ? [] : [second]));
    first.value = is.a;
    second.value = is.b ?? "";
    addition.textContent = is.b === null ? "Add a second text" : "One text";
  }

  const again = later(150, () => {
    app.changed();
    return app.tried("score", running(async (signal) => {
      const asked = [["A", is.a], ["B", is.b]].filter(([, text]) => text).flatMap(([which, text]) => is.models.map((model) => ({ which, text, model })));
      const got = await Promise.all(asked.map(({ model, text }) => post("score", { model, text, alternatives: 5 }, signal)));
      results = asked.map((one, at) => ({ ...one, got: got[at], list: pieces(one.text, got[at].tokens) }));
      draw();
    }));
  });

  const SHARES = {
    bits: (piece) => piece.bits / FULL,
    "matched order": (piece, most) => (piece.matched ?? 0) / most,
  };

  function draw() {
    const components = [...new Set(results.flatMap(({ list }) => Object.keys(list[0]?.weights ?? {})))];
    const orders = results.some(({ list }) => list[0]?.matched !== undefined) ? ["matched order"] : [];
    const scales = ["bits", ...orders, ...components.map((name) => `weight of ${name}`)];
    if (!scales.includes(is.by)) is.by = "bits";
    by.replaceChildren(scales.length > 1 ? labelled("Colour", select(scales, is.by, (value) => { is.by = value; draw(); app.changed(); })) : "");
    drawTable();
    drawMaps();
    drawPlaces();
  }

  function drawTable() {
    if (!results.length) return table.replaceChildren();
    const two = is.b;
    const least = (which) => Math.min(...results.filter((one) => one.which === which).map(({ got }) => got.bits_per_byte));
    const names = ["Model", ...(two ? ["Text"] : []), "bits per byte", "bits per character", "perplexity a token", "bits", "tokens"];
    table.replaceChildren(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures" }, el("table", {},
      el("thead", {}, el("tr", {}, names.map((name, at) => el("th", { scope: "col", class: at > (two ? 1 : 0) ? "n" : "" }, name)))),
      el("tbody", {}, results.map(({ model, which, got }) => el("tr", { class: is.models.length > 1 && got.bits_per_byte === least(which) ? "best" : "" },
        el("th", { scope: "row" }, model), two ? el("td", {}, which) : null,
        ...[[got.bits_per_byte, 3], [got.bits_per_char, 3], [got.perplexity, 2], [got.bits, 1], [got.tokens_scored, 0]].map(([value, digits]) => el("td", { class: "n" }, figure(value, digits)))))))));
  }

  function drawMaps() {
    maps.replaceChildren(...["A", "B"].map((which) => {
      const mine = results.filter((one) => one.which === which);
      if (!mine.length) return "";
      const most = Math.max(1, ...mine.flatMap(({ list }) => list.map((piece) => piece.matched ?? 0)));
      const component = is.by.startsWith("weight of ") && is.by.slice(10);
      const share = component ? (piece) => piece.weights?.[component] ?? 0 : (piece) => SHARES[is.by](piece, most);
      for (const one of mine) one.box = heat(one.list, share, `${one.model}, text ${which}`, (piece) => pick(mine, piece));
      return el("div", {}, is.b ? el("h2", {}, `Text ${which}`) : "",
        el("div", { class: "maps" }, mine.map((one) => el("figure", {}, el("figcaption", {}, one.model), one.box))));
    }), is.by === "bits" && results.length ? legend() : "");
  }

  /** The same characters under every model. */
  function pick(mine, piece) {
    const { from, to } = piece;
    const counted = [];
    detail.replaceChildren(...mine.map((one) => {
      if (to > from) one.box.mark(from, to);
      const here = one.list.filter((other) => (to > from ? other.from < to && other.to > from : other.from === from && other.to === to));
      const bits = sum(here.map((other) => other.bits));
      const [only] = here.length === 1 ? here : [];
      const note = el("small");
      if (only?.matched !== undefined) counted.push([one, only, note]);
      return el("span", {}, el("b", {}, one.model), ` ${here.map((other) => visible(other.piece || other.text)).join(" · ")}  ${figure(bits)} bits`,
        only ? ` · rank ${only.rank.toLocaleString("en")}` : "",
        only?.matched !== undefined ? ` · matched order ${only.matched}` : "",
        only?.weights ? ` · ${Object.entries(only.weights).map(([name, weight]) => `${name} ${percent(weight)}`).join(", ")}` : "",
        only?.alternatives?.length ? el("small", {}, `expected ${only.alternatives.slice(0, 5).map((other) => `${visible(other.text)} ${percent(other.p)}`).join(", ")}`) : "", note);
    }));
    countSoon(counted);
  }

  /** How often the n-gram that predicted a token stood in training, and one line that holds it. */
  const countSoon = later(100, (counted) => counting(async (signal) => {
    for (const [{ model, text, list }, token, note] of counted) {
      const from = list[Math.max(0, list.indexOf(token) - 40)].from; // the server looks at so many tokens, and no n-gram is as long
      const got = await post("ngrams", { model, text: text.slice(from, token.to) }, signal).catch((error) => {
        if (signal.aborted) throw error;
        return null; // the text that was counted is not kept
      });
      const found = got?.tokens.at(token.to > token.from ? -2 : -1);
      if (found) note.textContent = ` · ${found.count.toLocaleString("en")} of ${found.of.toLocaleString("en")} in training${found.count ? `, as in “${line(found.line.trim())}”` : ""}`;
    }
  }));

  function drawPlaces() {
    places.replaceChildren(...["A", "B"].map((which) => {
      const mine = results.filter((one) => one.which === which);
      if (!mine.length) return "";
      const [{ text }] = mine;
      const top = words(text, mine).sort((one, other) => sum(other.bits) - sum(one.bits)).slice(0, 8);
      return el("div", {}, el("h2", {}, `The most surprising words${is.b ? ` of text ${which}` : ""} `, el("small", {}, `bits by ${mine.map((one) => one.model).join(" / ")}`)),
        el("ol", { class: "places" }, top.map((word) => el("li", {}, button([
          el("span", { class: "context" }, line(text.slice(Math.max(0, word.from - 28), word.from)), el("mark", {}, text.slice(word.from, word.to)), line(text.slice(word.to, word.to + 28))),
          el("span", { class: "n" }, word.bits.map((bits) => figure(bits, 1)).join(" / ")),
        ], () => pick(mine, word), { class: "row" })))));
    }));
  }
  const line = (text) => text.replaceAll("\n", "↵");

  root.append(
    el("div", { class: "bar-top" }, chips, addition, by),
    texts, table, maps, detail, places);

  return {
    open(params) {
      if (params.has("models")) is.models = params.getAll("models").flatMap((told) => JSON.parse(told)).filter((name) => app.names.includes(name));
      is.a = params.get("a") ?? is.a;
      is.b = params.has("b") ? params.get("b") : params.has("a") ? null : is.b;
      is.by = params.get("by") ?? is.by;
      chips.replaceChildren(...app.names.map((name) => {
        const box = el("input", { type: "checkbox", checked: is.models.includes(name), onchange: () => {
          is.models = app.names.filter((one) => (one === name ? box.checked : is.models.includes(one)));
          again();
        } });
        return el("label", { class: "chip" }, box, el("span", {}, name));
      }));
      layTexts();
      again();
    },
    params: () => ({ models: JSON.stringify(is.models), a: is.a, ...(is.b !== null && { b: is.b }), by: is.by }),
    table: () => results.flatMap(({ model, which, list }) => list.map(({ piece, start, end, bits, rank, matched, weights }) => ({ model, text: which, start, end, token: piece || "<eos>", bits, rank, ...(matched !== undefined && { matched }), ...weights }))),
    json: () => ({ ...is, results: results.map(({ model, which, got }) => ({ model, text: which, ...got })) }),
    picture: () => maps,
  };
}
