// Write: a text whose tokens show how much they surprise the model, and how it might go on.

import { complete, newest, post } from "./api.js";
import { bars, button, el, figure, labelled, later, legend, number, pieces, select, short, toned, visible, FULL } from "./dom.js";
import { chainOf, controls, fields, told } from "./samplers.js";
import { tree } from "./tree.js";

export function write(root, app) {
  const is = { model: app.names[0], text: "", seed: 1, tokens: 40, live: true, unknown: false, chain: [["temperature", 0.8], ["top_p", 0.9]] };
  let tokens = []; // pieces that lie where the text has them: {from, to, bits, rank}
  let ghost = [];
  let written = []; // every text that was kept, for the tree
  let past = [""]; // for undo
  let future = [];
  let begun = null; // the text before the last continuation
  let hovered = null;
  let drawn = []; // the spans of the mirror and what they show
  let figures = null;
  let busy = false; // while a continuation streams in
  let nearest = []; // the next tokens that are shown
  const scoring = newest(), looking = newest(), growing = newest(), dreaming = newest();

  // -- the text and its mirror ---------------------------------------------------------------------------------------

  const mirror = el("div", { class: "mirror", "aria-hidden": "true" });
  const editor = el("textarea", { class: "editor", spellcheck: "false", autocapitalize: "off", "aria-label": "Text", "aria-describedby": "write-keys", placeholder: "Write, or let the model begin …" });

  function draw() {
    const shown = [];
    let at = 0;
    for (const token of tokens) {
      if (token.from > at) shown.push({ text: is.text.slice(at, token.from) });
      shown.push({ text: is.text.slice(token.from, token.to), share: token.bits / FULL, token });
      at = token.to;
    }
    if (at < is.text.length) shown.push({ text: is.text.slice(at) });
    for (const { text, bits } of ghost) shown.push({ text, share: bits / FULL, kind: "ghost" });
    let same = 0;
    while (same < shown.length && same < drawn.length && shown[same].text === drawn[same].text && shown[same].share === drawn[same].share && shown[same].kind === drawn[same].kind) {
      shown[same].span = drawn[same].span;
      drawn[same].span.token = shown[same].token;
      same++;
    }
    for (const old of drawn.slice(same)) old.span.remove();
    mirror.querySelector("br")?.remove();
    const fresh = shown.slice(same).map((part) => {
      part.span = part.share === undefined ? el("span", {}, part.text) : toned("", part.share, part.kind);
      part.span.textContent = part.text;
      part.span.token = part.token;
      return part.span;
    });
    mirror.append(...fresh, el("br"));
    drawn = shown;
  }

  function put(text, kept, caret = text.length) {
    is.text = text;
    tokens = kept;
    ghost = [];
    if (editor.value !== text) {
      editor.value = text;
      if (document.activeElement === editor) editor.setSelectionRange(caret, caret);
    }
    draw();
  }

  /** Another text: tokens that both begin with keep their colours until the new ones are known. */
  function change(text, caret) {
    let same = 0;
    while (same < text.length && text[same] === is.text[same]) same++;
    put(text, tokens.filter((token) => token.to <= same), caret);
    rescore();
    look();
    dream();
    app.changed();
  }

  function keep() {
    if (past.at(-1) === is.text) return;
    past.push(is.text);
    future = [];
    if (is.text && !written.includes(is.text)) written.push(is.text);
    drawTree();
  }
  const keepSoon = later(600, keep);

  function travel(from, to) {
    growing.stop();
    keepSoon.stop();
    keep();
    if (from === past ? past.length < 2 : !future.length) return;
    if (from === past) future.push(past.pop());
    else past.push(future.pop());
    change(past.at(-1));
    drawTree();
  }
  const undo = () => travel(past, future);
  const redo = () => (future.length ? travel(future, past) : undefined);

  // -- what the server knows -----------------------------------------------------------------------------------------

  const rescore = later(10, () => app.tried("score", scoring(async (signal) => {
    const text = is.text;
    if (!text) figures = null;
    else {
      const got = await post("score", { model: is.model, text, alternatives: 0 }, signal);
      if (text !== is.text) return;
      figures = got;
      tokens = pieces(text, got.tokens).filter((token) => token.to > token.from);
      draw();
    }
    drawFigures();
    drawPlace();
  })));

  const dream = () => {
    dreaming.stop();
    if (ghost.length) {
      ghost = [];
      draw();
    }
    if (is.live && !busy) dreamSoon();
  };
  const dreamSoon = later(5, () => app.tried("ghost", dreaming(async (signal) => {
    await grow(signal, Math.min(24, is.tokens), (parts) => {
      ghost.push(...parts);
      draw();
    });
  })));

  /** Streams a continuation; what came within a frame is shown with it. */
  async function grow(signal, most, show) {
    let waiting = [];
    let frame = 0;
    const flush = () => {
      frame = 0;
      if (waiting.length && !signal.aborted) show(waiting.splice(0));
    };
    const request = { model: is.model, prompt: is.text, max_tokens: most, seed: is.seed, strategy: "sample", allow_unknown: is.unknown, ...fields(is.chain) };
    for await (const { text, bits } of complete(request, signal)) {
      if (text) waiting.push({ text, bits: bits.reduce((sum, one) => sum + one, 0) });
      frame ||= requestAnimationFrame(flush);
    }
    cancelAnimationFrame(frame);
    flush();
  }

  async function go() {
    if (busy) return growing.stop();
    keepSoon.stop();
    keep();
    dreaming.stop();
    begun = is.text;
    busy = true;
    stop.textContent = "Stop";
    await app.tried("grow", growing((signal) => grow(signal, is.tokens, (parts) => {
      let at = is.text.length;
      const text = is.text + parts.map((part) => part.text).join("");
      put(text, [...tokens, ...parts.map(({ text: piece, bits }) => ({ from: at, to: (at += piece.length), bits }))]);
    })));
    busy = false;
    stop.textContent = "Continue";
    keep();
    change(is.text);
  }

  /** The same place once more, with the next seed. */
  async function another() {
    if (busy || begun === null) return;
    is.seed += 1;
    seed.value = is.seed;
    change(begun);
    dreamSoon.stop();
    await go();
  }

  function take(count) {
    if (!ghost.length) return;
    const parts = ghost.slice(0, count);
    const left = ghost.slice(count);
    let at = is.text.length;
    const more = parts.map(({ text, bits }) => ({ from: at, to: (at += text.length), bits }));
    put(is.text + parts.map((part) => part.text).join(""), [...tokens, ...more]);
    rescore();
    look();
    keepSoon();
    if (left.length) {
      ghost = left;
      draw();
    } else dream();
    app.changed();
  }

  // -- the place that is looked at -----------------------------------------------------------------------------------

  const place = el("h2", { class: "place" });
  const told_ = el("p", { class: "note", "aria-live": "polite" });
  const list = el("div");

  /** The token under the mouse, else the one at the caret; null is the end of the text. */
  const token = () => hovered ?? (editor.selectionStart >= is.text.length ? null : tokens.find((one) => one.to > editor.selectionStart) ?? null);

  const look = () => {
    const here = token();
    drawPlace();
    list.setAttribute("aria-busy", "true");
    lookSoon(here?.from ?? is.text.length);
  };
  const lookSoon = later(0, (at) => app.tried("next", looking(async (signal) => {
    const prompt = is.text.slice(0, at);
    const request = { model: is.model, prompt, top: 10, allow_unknown: is.unknown, ...fields(is.chain) };
    const got = await post("next", request, signal).catch((error) => {
      if (!signal.aborted) list.replaceChildren(); // what stands there belongs to another place
      throw error;
    });
    list.setAttribute("aria-busy", "false");
    nearest = got.tokens.map((one, index) => ({ ...one, rank: index + 1 }));
    const here = token();
    const piece = here && is.text.slice(here.from, here.to);
    const chosen = here && nearest.find((one) => one.rank === here.rank && one.text === here.text) || here && nearest.find((one) => one.text === piece);
    list.replaceChildren(
      bars(nearest, chosen, (one) => choose(prompt, one)),
      el("p", { class: "note" }, `${got.kept.toLocaleString("en")} token${got.kept === 1 ? "" : "s"} left by the samplers; entropy ${figure(got.entropy_bits)} bits`));
  })));

  function drawPlace() {
    const here = token();
    told_.setAttribute("aria-live", here ? "polite" : "off"); // not at every key
    if (!here) {
      place.textContent = "What comes next";
      told_.textContent = is.text ? `after “${short(is.text.slice(-24), 24)}”` : "at the beginning of a text";
    } else {
      place.textContent = visible(is.text.slice(here.from, here.to));
      told_.textContent = `${figure(here.bits)} bits${here.rank ? `, rank ${here.rank.toLocaleString("en")}` : ""}. Pick another to go on from here.`;
    }
  }

  /** Goes on with another token; the tokenizer says how it is spelt after what stands before. */
  const choose = (prompt, one) => app.tried("choose", (async () => {
    const { tokens: ids } = await post("tokenize", { model: is.model, prompt, add_special_tokens: false });
    const [before, after] = await Promise.all([ids, [...ids, one.id]].map((tokens) => post("detokenize", { model: is.model, tokens })));
    const added = after.prompt.startsWith(before.prompt) ? after.prompt.slice(before.prompt.length) : one.text;
    growing.stop();
    keepSoon.stop();
    keep();
    hovered = null;
    change(prompt + added);
    editor.focus();
    editor.setSelectionRange(is.text.length, is.text.length);
    keep();
  })());

  // -- figures and the tree ------------------------------------------------------------------------------------------

  const counts = el("p", { class: "figures" });
  function drawFigures() {
    counts.replaceChildren(...(figures
      ? [["bits", figures.bits, 1], ["bits per byte", figures.bits_per_byte, 3], ["bits per character", figures.bits_per_char, 3], ["perplexity a token", figures.perplexity, 2]]
        .map(([name, value, digits]) => el("span", {}, el("b", {}, figure(value, digits)), ` ${name}`))
      : []));
  }

  const branches = el("div", { class: "tree" });
  function drawTree() {
    const items = (nodes) => el("ul", {}, nodes.map((node) => el("li", {},
      button(short(node.text), () => {
        keep();
        change(node.end);
        keep();
      }, { class: "branch", title: node.text.slice(0, 500), "aria-current": is.text.startsWith(node.end) ? "true" : false }),
      node.children.length ? items(node.children) : null)));
    const { children } = tree(written);
    branches.replaceChildren(children.length ? items(children) : el("p", { class: "note" }, "Texts that you leave behind stay here."));
    back.disabled = past.length < 2;
    forth.disabled = !future.length;
  }

  // -- events and layout ---------------------------------------------------------------------------------------------

  const stop = button("Continue", go, { class: "main", title: "Ctrl + Enter" });
  const back = button("Undo", undo, { title: "Ctrl + Z" });
  const forth = button("Redo", redo, { title: "Ctrl + Shift + Z" });
  const seed = number(is.seed, 0, 2 ** 31, 1, (value) => { is.seed = value; dream(); app.changed(); });
  const most = number(is.tokens, 1, 2000, 1, (value) => { is.tokens = value; app.changed(); });
  const live = el("input", { type: "checkbox", checked: is.live, onchange: () => { is.live = live.checked; dream(); app.changed(); } });
  const unknown = el("input", { type: "checkbox", onchange: () => { is.unknown = unknown.checked; retuned(); } });
  const which = el("span");
  const samplers = el("div");
  const retuned = () => {
    look();
    dream();
    app.changed();
  };

  editor.addEventListener("input", () => {
    growing.stop();
    change(editor.value);
    keepSoon();
  });
  editor.addEventListener("keydown", (event) => {
    const command = event.ctrlKey || event.metaKey;
    const end = editor.selectionStart === is.text.length;
    const act = {
      Enter: command && go,
      z: command && (event.shiftKey ? redo : undo),
      Z: command && (event.shiftKey ? redo : undo),
      y: command && redo,
      ArrowRight: end && ghost.length && !event.shiftKey && (() => take(command ? Infinity : 1)),
      Escape: () => { growing.stop(); dreaming.stop(); dreamSoon.stop(); ghost = []; draw(); },
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  document.addEventListener("selectionchange", () => {
    if (document.activeElement === editor && !busy) look();
  });
  editor.addEventListener("pointermove", (event) => {
    const under = document.elementsFromPoint(event.clientX, event.clientY).find((one) => one.parentNode === mirror)?.token ?? null;
    if (under === hovered) return;
    hovered = under;
    mirror.querySelector(".here")?.classList.remove("here");
    drawn.find((part) => part.token === under && under)?.span.classList.add("here");
    look();
  });
  editor.addEventListener("pointerleave", () => {
    hovered = null;
    mirror.querySelector(".here")?.classList.remove("here");
    look();
  });

  root.append(
    el("div", { class: "bar-top" }, which, stop, button("Another", another, { title: "Continue from the same place with the next seed" }), back, forth,
      labelled("Tokens", most), labelled("Seed", seed), el("label", { class: "check" }, live, "show what comes next")),
    el("div", { class: "columns" },
      el("div", {},
        el("div", { class: "surface" }, mirror, editor),
        el("p", { class: "note keys", id: "write-keys" }, "→ takes a grey token, Ctrl+→ all, Esc none. Point at a token, or move the caret to it, to see its rivals."),
        el("div", { class: "under" }, counts, legend())),
      el("aside", { "aria-label": "Next token and sampling" }, place, told_, el("p", { class: "key" }, el("i", { class: "before" }), "model", el("i", { class: "after" }), "after the samplers"), list,
        el("h2", {}, "Sampling"), samplers,
        el("label", { class: "check", title: "Read and write what the vocabulary lacks as [UNK]" }, unknown, "allow unknown tokens")),
      el("div", { class: "past" }, el("h2", {}, "Branches"), branches)));

  return {
    open(params) {
      if (params.has("model") && app.names.includes(params.get("model"))) is.model = params.get("model");
      is.chain = chainOf(params.get("chain"), is.chain);
      is.seed = Number(params.get("seed") ?? is.seed) || 0;
      is.tokens = Number(params.get("tokens")) || is.tokens;
      is.live = (params.get("live") ?? String(is.live)) === "true";
      seed.value = is.seed;
      most.value = is.tokens;
      live.checked = is.live;
      unknown.checked = is.unknown = params.get("unknown") === "true";
      which.replaceChildren(labelled("Model", select(app.names, is.model, (name) => {
        is.model = name;
        tokens = [];
        change(is.text);
      })));
      samplers.replaceChildren(controls(is.chain, retuned));
      change(params.get("text") ?? is.text);
      keep();
      drawFigures();
      drawTree();
    },
    params: () => ({ model: is.model, text: is.text, chain: told(is.chain), seed: is.seed, tokens: is.tokens, live: is.live, ...(is.unknown && { unknown: true }) }),
    table: () => tokens.map(({ from, to, bits, rank }) => ({ text: is.text.slice(from, to), bits, rank })),
    json: () => ({ ...is, chain: fields(is.chain), tokens, figures, next: nearest, tree: tree(written) }),
    picture: () => root.querySelector(".surface"),
  };
}
