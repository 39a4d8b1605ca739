"""Two runs on the same documents, and how certain their difference is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from lmlab.errors import DataError, UnknownNameError, UsageError, check_integer
from lmlab.seeing.picture import Picture, Seen, names
from lmlab.seeing.style import BLUE, DARK, GREY, RED, bare

_UNITS = ("auto", "document", "sentence")
_FEW = 30  # documents: sentences are compared instead
_AT_ONCE = 1 << 22  # drawn numbers


def compare(
    lm: Seen, *others: Seen, on: Any = None, unit: str = "auto", resamples: int = 10_000, seed: int = 0,
    chars: int = 200_000,
) -> Picture:  # fmt: skip
    """Two runs compared document by document, with a paired bootstrap interval on their difference in bits per byte.

    The documents are drawn again with replacement, both runs' figures together (Efron 1979; Koehn 2004).

    Args:
        lm: the first run, whose held-out text is read.
        others: the second run, of any tokenizer.
        on: another text, such as a file.
        unit: what is drawn: document, sentence, or auto for documents where there are 30.
        resamples: how often the documents are drawn.
        seed: of the draws.
        chars: of the text, at most.

    Raises:
        UsageError: not two runs.
        DataError: fewer than two documents or sentences.
    """
    for name, count in (("resamples", resamples), ("chars", chars)):
        check_integer(name, count)
    if len(others) != 1:
        remedy = "lmlab eval A B C puts any number in one table; lmlab plot curves draws them"
        raise UsageError(f"two runs are compared, not {1 + len(others)}", remedy)
    if unit not in _UNITS:
        raise UnknownNameError("unit", unit, _UNITS)
    text, texts = lm.texts(on, chars=chars)
    unit = unit if unit != "auto" else "document" if len(texts) >= _FEW else "sentence"
    first, second = names((lm, others[0]))
    bits_2D, bytes_D = _paired(texts, [each.score(texts).by(unit).columns for each in (lm, others[0])], unit)
    if len(bytes_D) < 2:
        raise DataError(f"{text} is one {unit}, but two at least are drawn from", "name a longer text with --on")
    rate_2D = bits_2D / np.maximum(1, bytes_D)
    drawn_R = np.sort(_bootstrap(bits_2D[1] - bits_2D[0], bytes_D, resamples, seed))
    low, high = np.quantile(drawn_R, (0.025, 0.975))
    one, two = bits_2D.sum(1) / bytes_D.sum()
    better = float((bits_2D[1] < bits_2D[0]).mean())
    verdict = "not certain" if low <= 0 <= high else f"{second if high < 0 else first} is better"
    summary = {"run": f"{second} - {first}", "bits/byte": two - one, "low": low, "high": high, unit + "s": len(bytes_D)}
    rows = [
        summary | {"better in": better},
        {"run": first, "bits/byte": one},
        {"run": second, "bits/byte": two},
    ]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        least, most = np.quantile(rate_2D, (0.005, 0.995))
        left.plot([least, most], [least, most], color=GREY, linewidth=1)
        left.scatter(*rate_2D, s=3 + 250 * bytes_D / bytes_D.sum(), color=BLUE, alpha=0.35, edgecolor="none")
        left.set(xlim=(least, most), ylim=(least, most), aspect="equal")
        note = f"a dot a {unit}: {second} is better in {100 * better:.0f} % (below the line)"
        bare(left, f"{first}, bits/byte", f"{second}, bits/byte", note)
        right.hist(drawn_R, bins=50, color=BLUE, alpha=0.7)
        right.axvline(0, color=DARK, linewidth=1)
        for edge in (low, high):
            right.axvline(edge, color=RED, linestyle="--", linewidth=1.2)
        note = f"{two - one:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}: {verdict}"
        bare(right, f"bits/byte, {second} minus {first}", "resamples", note)

    title = f"{first} and {second} · {text}, {len(bytes_D):,} {unit}s, {resamples:,} paired bootstrap resamples"
    return Picture(title, rows, draw, (10, 4.6), "a negative difference: the second run needs fewer bits")


def _paired(texts: Sequence[str], tables: Sequence[Any], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """The bits of each unit under each run, and its UTF-8 bytes; what lies between two units belongs to the second.

    Where a token reaches over several sentences, its bits are with the first, and the others may have no token.
    """
    keys = [list(zip(np.asarray(table["document"]), np.asarray(table[unit]), strict=True)) for table in tables]
    place = {key: at for at, key in enumerate(sorted(set().union(*keys)))}
    bits_2D, end_D = np.zeros((len(tables), len(place))), np.zeros(len(place), np.int64)
    for bits_D, table, own in zip(bits_2D, tables, keys, strict=True):
        at_D = [place[key] for key in own]
        bits_D[at_D] = table["bits"]
        end_D[at_D] = np.maximum(end_D[at_D], table.get("end", 0))
    sizes = []
    for number, several in groupby(place, key=lambda key: key[0]):
        edges = [0, *(end_D[place[key]] for key in several)]
        edges[-1] = len(texts[number])
        sizes += [len(texts[number][start:end].encode()) for start, end in pairwise(edges)]
    return bits_2D, np.array(sizes)


def _bootstrap(bits_D: np.ndarray, bytes_D: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Differences in bits per byte of documents drawn with replacement."""
    rng, parts = np.random.default_rng(seed), []
    size = max(1, _AT_ONCE // len(bits_D))
    for done in range(0, resamples, size):
        drawn_RD = rng.integers(len(bits_D), size=(min(size, resamples - done), len(bits_D)))
        parts.append(bits_D[drawn_RD].sum(1) / bytes_D[drawn_RD].sum(1))
    return np.concatenate(parts)
