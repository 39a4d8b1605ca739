"""The n-grams that predicted a text: how long they are, how often they were counted, where they stood in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.errors import DataError, UsageError
from lmlab.report.html import escape
from lmlab.seeing.picture import Picture, Seen, encoded, shown_text, subject
from lmlab.seeing.style import FAINT, MAP, bare, plain, token_label
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, EOS, SPECIALS

_MOST = 60  # tokens
_AROUND = 60  # tokens of training text, on each side
_CUT = 32  # characters of a line in the drawing, on each side
_AT = (0.08, 0.24, 0.33, 0.36)  # where the columns of the drawing stand


def ngram(lm: Seen, text: str = "", *, on: Any = None) -> Picture:
    """The longest n-gram that ends in each token of a text, its counts, and the first training line that holds it.

    Counts are those of the training text: how often the n-gram occurs, of how often its context does. (Kneser-Ney
    smooths them, and counts different contexts instead of occurrences for all but the longest n-grams.)

    Args:
        lm: an n-gram model whose text is kept.
        text: of at most 60 tokens; the beginning of the run's held-out text where none is named.
        on: a source in its place, such as a file or - for standard input.

    Raises:
        UsageError: it is no n-gram model, or its text is not kept.
        DataError: the text is longer.
    """
    if lm.config.model.kind != "ngram" or lm.model.family != "counted":
        kind = lm.config.model.kind if lm.model.family != "composed" else "composed of several"
        problem = f"only an n-gram model has counts, and this run's is {kind}"
        raise UsageError(problem, "lmlab plot surprisal shows a text under any model")
    if (train := lm.held_out("train")) is None:
        raise UsageError("the text that was counted is not kept as documents", "name a run that was trained on a file")
    name, texts = shown_text(lm, text, on, 40 * _MOST, int(30 * train.text_chars / train.tokens))
    scores, ids_N = lm.score(texts), np.asarray(encoded(lm, texts).ids)
    if len(scores.columns["bits"]) > _MOST:
        problem = f"{name} has {len(scores.columns['bits'])} tokens, but this picture has room for {_MOST}"
        raise DataError(problem, "show less of it; lmlab plot surprisal has room for more")
    order_N = lm.model.fast_trie.matched(ids_N)
    rows, labels = [], []
    for at, token, bits in zip(
        np.flatnonzero(ids_N != BOS), scores.columns["text"], scores.columns["bits"], strict=True
    ):
        gram = ids_N[at - order_N[at] + 1 : at + 1].tolist()
        found = _places(train.ids, gram)
        context = len(_places(train.ids, gram[:-1])) if gram[:-1] else train.tokens
        before, there, after = _line(lm, train, int(found[0]), len(gram)) if len(found) else ("", "", "")
        labels.append((before, there, after))
        rows.append(
            {"token": token, "order": len(gram), "after": _text(lm, gram[:-1]), "count": len(found), "of": context}
            | {"bits": float(bits), "training line": before + there + after}
        )
    longest = lm.config.model.settings.order

    def draw(figure: Any) -> None:
        from matplotlib import colormaps

        bars, words = figure.subplots(1, 2, sharey=True, width_ratios=(1, 3.4))
        orders, places = [row["order"] for row in rows], range(len(rows))
        bars.barh(places, orders, height=0.8, color=[colormaps[MAP](0.9 * order / longest) for order in orders])
        bars.set_yticks(places, [token_label(row["token"]) for row in rows])
        bars.set(xlim=(0, longest), ylim=(len(rows) - 0.4, -1.6), xticks=range(0, longest + 1, 1 + longest // 8))
        bare(bars, "tokens of the n-gram", grid=False)
        words.set_axis_off()
        heads = ((_AT[0], "count"), (_AT[1], "of its context"), (_AT[2], "bits"))
        for x, head in heads:
            words.text(x, -1.1, head, ha="right", va="center", fontsize=8, weight="bold")
        words.text(_AT[3], -1.1, "the first training line that holds [it]", va="center", fontsize=8, weight="bold")
        for place, (row, (before, there, after)) in enumerate(zip(rows, labels, strict=True)):
            for x, told in zip(_AT, (f"{row['count']:,}", f"{row['of']:,}", f"{row['bits']:.2f}"), strict=False):
                words.text(x, place, told, va="center", ha="right", fontsize=8)
            line = f"{before[-_CUT:]}[{there}]{after[:_CUT]}".replace("\n", "↵") if row["count"] else "-"
            words.text(_AT[3], place, plain(line), va="center", fontsize=8, color=FAINT)

    title = f"The n-grams that predict {name} · {subject(lm)}"
    return Picture(
        title, rows, draw, (9.5, 0.2 * len(rows) + 1.5), "counts before smoothing", _body(title, rows, labels)
    )


def _places(ids_N: np.ndarray, gram: Sequence[int]) -> np.ndarray:
    """Where an n-gram begins in a text."""
    at_M = np.flatnonzero(ids_N[: len(ids_N) - len(gram) + 1] == gram[0])
    for place, id in enumerate(gram[1:], 1):
        at_M = at_M[ids_N[at_M + place] == id]
    return at_M


def _line(lm: Seen, train: TokenStore, at: int, size: int) -> tuple[str, str, str]:
    """The line around an n-gram: what stands before it, itself, and what follows."""
    begin, end = train.offsets[np.searchsorted(train.offsets, at, side="right") - 1 :][:2].tolist()
    first, inside, last = max(begin + 1, at - _AROUND), max(begin + 1, at), min(at + size, end - 1)
    upto = [_text(lm, train.ids[first:stop]) for stop in (inside, last, min(end - 1, last + _AROUND))]
    there = SPECIALS[BOS] * bool(at == begin) + upto[1][len(upto[0]) :] + SPECIALS[EOS] * bool(at + size == end)
    return upto[0].rpartition("\n")[2], there, upto[2][len(upto[1]) :].partition("\n")[0]


def _text(lm: Seen, ids: Sequence[int] | np.ndarray) -> str:
    """The text of ids, `<bos>` as such."""
    begins = bool(len(ids) and ids[0] == BOS)
    return SPECIALS[BOS] * begins + lm.tokenizer.decode(ids[1:] if begins else ids)


def _body(title: str, rows: Sequence[Any], labels: Sequence[tuple[str, str, str]]) -> str:
    """A table, the n-gram in bold in its line."""
    keys = ("token", "order", "count", "of", "bits")
    head = "".join(f"<th>{key}</th>" for key in (*keys, "training line"))
    lines = []
    for row, (before, there, after) in zip(rows, labels, strict=True):
        cells = (f"{row[key]:.2f}" if key == "bits" else row[key] for key in keys)
        told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr>{told}<td>{escape(before)}<b>{escape(there)}</b>{escape(after)}</td></tr>")
    return f"<h1>N-grams</h1><p>{escape(title)}</p><table><tr>{head}</tr>{''.join(lines)}</table>"
