"""A report on some models: one page that needs no other file, with all that each can show, or why it cannot."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from lmlab.errors import LmlabError, UsageError
from lmlab.facade.text_model import TextModel
from lmlab.progress import Reporter
from lmlab.report.curve import curves_figure
from lmlab.report.html import coloured, escape, facts, page
from lmlab.report.ladder import Rung, ladder_html
from lmlab.seeing import PLOTS, function_of
from lmlab.seeing.beams import beams
from lmlab.seeing.curves import read_curve
from lmlab.seeing.picture import names
from lmlab.seeing.style import COLOURS
from lmlab.store import METRICS

_STRATEGIES = (
    "greedy",
    "sample:seed=1",
    "sample:temperature=0.7,seed=1",
    "sample:top_k=40,seed=1",
    "sample:top_p=0.9,seed=1",
    "beam:width=5",
    "diverse_beam",
)
_SAMPLE_TOKENS, _BEAM_WIDTH, _BEAM_TOKENS = 80, 3, 8
_HEAT_CHARS = 1_500  # of each model's heat map; fewer where there are many models, to stay below 5 MB
_ALL_HEAT_CHARS = 12_000
_ALTERNATIVES = 5
_PROMPT_CHARS = 24
_END = "⏹"  # what `Scores.pieces` shows for <eos>


@dataclass
class Report:
    """A report as it is written.

    Attributes:
        models: that it is on.
        text: some held-out documents, which every model is asked about.
        source: where they came from.
        prompt: what samples and beams go on from.
        left_out: what it does not show, and why.
    """

    models: Sequence[TextModel]
    text: Sequence[str]
    source: str
    prompt: str
    left_out: list[str] = field(default_factory=list)

    def page(self, reporter: Reporter) -> str:
        """The page."""
        sections: dict[str, Callable[[], str]] = {
            "Figures": self._figures,
            "Learning curves": self._curves,
            "Samples": self._samples,
            "Surprisal": self._heat_maps,
            "Beam trees": self._beams,
            "Context length": self._context,
            "Manifests": self._manifests,
        }
        body = []
        for title, make in sections.items():
            with reporter.stage(f"report: {title.lower()}"):
                body.append(f'<section id="{_anchor(title)}"><h2>{title}</h2>{make()}</section>')
        title = f"Report on {', '.join(self._names)}"
        links = "".join(f'<a href="#{_anchor(each)}">{each}</a>' for each in sections)
        return page(title, f"<h1>{escape(title)}</h1><nav aria-label='sections'>{links}</nav>", *body)

    @property
    def _names(self) -> list[str]:
        return names(cast(Any, self.models))

    def _missing(self, what: str, name: str, why: object) -> str:
        self.left_out.append(f"{what} of {name}: {why}")
        return f'<p class="note">left out: {escape(name)}, {escape(why)}</p>'

    def _each(self, what: str, make: Callable[[TextModel], str], level: int = 3) -> str:
        """A part for each model, side by side where there is room; what it cannot do is told in its place."""
        parts = []
        for name, lm in zip(self._names, self.models, strict=True):
            try:
                part = make(lm)
            except LmlabError as error:
                part = self._missing(what, name, error)
            parts.append(f"<div><h{level}>{escape(name)}</h{level}>{part}</div>")
        return f'<div class="side">{"".join(parts)}</div>'

    # -- sections -------------------------------------------------------------------------------------------------

    def _figures(self) -> str:
        rows, rungs = [], []
        for name, lm in zip(self._names, self.models, strict=True):
            results = {} if lm.composition else lm.manifest["results"]
            split = next((each for each in ("test", "valid") if results.get(each)), "")
            figures = results.get(split, {})
            if not figures:
                self._missing("figures", name, "none are kept with it; lmlab eval takes them")
            rungs.append(Rung(name, figures.get("bits_per_byte"), "" if figures else "no figures are kept with it"))
            rows.append(_row(name, results, figures.get("split", split), figures))
        texts = {(lm.manifest["data"]["name"], lm.manifest["data"]["sha256"]) for lm in self.models}
        note = "Each on its own text: only bits/byte compare, and roughly. " if len(texts) > 1 else ""
        note += "Documents read after <bos>, <eos> counted, context reset between documents, unknown tokens charged."
        head = "<p>Bits for each byte of held-out text: 8 is knowing nothing, lower is better.</p>"
        about = self._each("description", lambda lm: facts(lm._about().rows))
        return f'{head}{ladder_html(rungs)}{_table(rows)}<p class="note">{escape(note)}</p>{about}'

    def _curves(self) -> str:
        groups: dict[tuple[str, str], tuple[dict[str, Any], dict[str, float]]] = {}
        missing = ""
        for name, lm in zip(self._names, self.models, strict=True):
            made = f"{lm.config.tokenizer.kind} tokens, vocabulary {lm.tokenizer.vocab_size:,}"
            curves, levels = groups.setdefault((lm.manifest["data"]["name"], made), ({}, {}))
            metrics = lm.folder / METRICS if lm.folder else None
            if metrics and metrics.is_file():
                curve = read_curve(metrics)
                curves[name] = curve["train"], curve["valid"]
            else:
                missing += self._missing("learning curve", name, f"no {METRICS}: it was not trained in steps")
            levels.update(_levels(name, lm, drawn=name in curves))
        return missing + "".join(
            f"<h3>{escape(data)}, {made}</h3>{curves_figure(curves, levels, COLOURS)}"
            for (data, made), (curves, levels) in groups.items()
            if curves
        )

    def _samples(self) -> str:
        parts = [f"<p>The prompt is the beginning of held-out text: <code>{escape(repr(self.prompt))}</code></p>"]
        for strategy in _STRATEGIES:

            def sample(lm: TextModel, strategy: str = strategy) -> str:
                (made,) = lm.generate(self.prompt, strategy, max_tokens=_SAMPLE_TOKENS, allow_unknown=True)
                told = f"{made.tokens} tokens, {-made.logp / math.log(2) / max(1, made.tokens):.2f} bits each"
                text = f'<span class="dim">{escape(made.prompt)}</span>{escape(made.text)}'
                return f'<pre>{text}</pre><p class="note">{told}, ended by {made.end}</p>'

            parts.append(f"<h3><code>{strategy}</code></h3>{self._each(strategy, sample, level=4)}")
        return "".join(parts)

    def _heat_maps(self) -> str:
        if not self.text:
            return self._missing("surprisal", "held-out text", self.source)
        key = "the redder, the more surprising; point at a token for its probability, its rank and the likeliest"
        return f"<p>{escape(self.source)}: {key}.</p>{self._each('surprisal', self._heat_map)}"

    def _heat_map(self, lm: TextModel) -> str:
        scores = lm.score(self.text, alternatives=_ALTERNATIVES)
        pieces = [piece for number in range(len(self.text)) for piece in scores.pieces(number)]
        told = [{**piece, "text": piece["text"].replace(_END, "■\n")} for piece in pieces]
        total = scores.total
        bits = f"{total['total_nats'] / math.log(2):,.1f} bits in {total['tokens']:,} tokens"
        return f'<p class="note">{bits}: {total["bits_per_byte"]:.3f} bits/byte</p>{coloured(told)}'

    def _beams(self) -> str:
        def tree(lm: TextModel) -> str:
            return beams(cast(Any, lm), self.prompt, width=_BEAM_WIDTH, max_tokens=_BEAM_TOKENS).body

        return f"<p>A beam of {_BEAM_WIDTH} after the same prompt.</p>{self._each('beam tree', tree)}"

    def _context(self) -> str:
        if "context" not in PLOTS:
            return self._missing("context length", "all", "this version draws no such picture")
        try:
            picture = function_of("plot", "context")(*self.models)
        except LmlabError as error:
            return self._missing("context length", "all", error)
        drawn = base64.b64encode(picture.drawn("svg")).decode()
        image = f'<img class="white" alt="{escape(picture.title)}" src="data:image/svg+xml;base64,{drawn}">'
        return f'<figure>{image}<figcaption class="note">{escape(picture.note)}</figcaption></figure>'

    def _manifests(self) -> str:
        def manifest(lm: TextModel) -> str:
            told = json.dumps(lm.manifest, indent=1, ensure_ascii=False, default=str)
            return f"<details><summary>manifest.json</summary><pre>{escape(told)}</pre></details>"

        return self._each("manifest", manifest, level=3)


def report_on(models: Sequence[TextModel], on: Any = None, prompt: str | None = None) -> Report:
    """Find the text that a report asks its models about.

    Args:
        models: one or more.
        on: a source of text that none was trained on; None is held-out text of the first that keeps some.
        prompt: what samples and beams go on from; None is the beginning of that text.

    Raises:
        UsageError: there is no model.
        LmlabError: the source cannot be read.
    """
    if not models:
        raise UsageError("a report needs a model", "name a run")
    chars = min(_HEAT_CHARS, _ALL_HEAT_CHARS // len(models))
    text, source = _held_out(models, on, chars)
    if prompt is None:
        words = "".join(text)[:_PROMPT_CHARS].splitlines()[:1]
        prompt = (words[0].rsplit(" ", 1)[0] or words[0]) if words else ""
    return Report(models, text, source, prompt)


def _held_out(models: Sequence[TextModel], on: Any, chars: int) -> tuple[list[str], str]:
    """Documents of so many characters, and where they came from; none, and why."""
    why = ""
    for lm in models:
        try:
            name, texts = lm.texts(on, chars=chars)
        except LmlabError as error:
            if on is not None:
                raise
            why = why or str(error)
        else:
            return texts, f"The beginning of {name}"
    return [], why


def _levels(name: str, lm: TextModel, *, drawn: bool) -> dict[str, float]:
    """Nats/token, [UNK] as a class, of the baseline beside a run, or of the run itself where it has no curve."""
    results = lm.manifest["results"]
    beside = results.get("baselines", {}).get("ngram")
    found = {f"n-gram beside {name}": beside} if drawn else {name: results.get("valid")}
    return {level: math.log(each["perplexity_unk_as_class"]) for level, each in found.items() if each}


def _row(name: str, results: Mapping[str, Any], split: str, figures: Mapping[str, Any]) -> dict[str, str]:
    def told(key: str, form: str, of: Mapping[str, Any] = figures) -> str:
        return format(of[key], form) if isinstance(of.get(key), int | float) else "-"

    return {
        "model": name,
        "bits/byte": told("bits_per_byte", ".3f"),
        "bits/char": told("bits_per_char", ".3f"),
        "nats/token": told("nats_per_token", ".4f"),
        "perplexity/token": told("perplexity", ",.4g"),
        "tokens": told("tokens", ","),
        "unknown": told("unk_tokens", ","),
        "split": split or "-",
        "parameters": told("parameters", ",", results),
        "seconds": told("train_seconds", ",.1f", results),
    }


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in rows[0])
    lines = []
    for row in rows:
        first, *others = row.values()
        cells = "".join(f'<td class="n">{escape(each)}</td>' for each in others)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="wide" role="region" aria-label="table of figures" tabindex="0">{table}</div>'


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
