"""How far back models look: what a text costs where only the last tokens before each one are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from lmlab.errors import DataError, check_integer
from lmlab.seeing.picture import Picture, Seen, encoded, names
from lmlab.seeing.style import COLOURS, DASHES, bare
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, spelling_nats

_CHARS = 500_000  # of the text
_BATCH_TOKENS = 1 << 14
_ENOUGH = 0.01  # more than the least loss: what the effective context may cost
_REACHES: Mapping[str, Callable[[Any], int]] = {
    "ngram": lambda settings: settings.order - 1,
    "cnn": lambda settings: settings.receptive_field,
}  # tokens beyond which nothing can be seen


def context(lm: Seen, *others: Seen, on: Any = None, longest: int = 256, positions: int = 128) -> Picture:
    """Bits per byte against truncated history, of one or several runs on one text.

    The same tokens are predicted again and again, each time from `<bos>` and fewer of the tokens before them
    (Khandelwal et al. 2018). The effective context is the shortest history that costs at most 1 % more than the
    longest. A vertical line marks what a convolution or an n-gram can see at all.

    Args:
        lm: the model whose held-out text is read.
        others: more of them, of any tokenizer.
        on: another text, such as a file.
        longest: the longest history, in tokens.
        positions: how many tokens are predicted, evenly spaced over the text.

    Raises:
        SettingError: longest or positions below 1.
        DataError: no document is long enough.
    """
    check_integer("longest", longest)
    check_integer("positions", positions)
    text, texts = lm.texts(on, chars=_CHARS)
    lms = (lm, *others)
    runs = names(lms)
    same = len({(each.config.tokenizer.kind, each.tokenizer.vocab_size) for each in lms}) == 1
    rows: list[dict[str, Any]] = []
    lines: list[tuple[str, list[float], list[float], float, float | None]] = []
    for name, each in zip(runs, lms, strict=True):
        store = encoded(each, texts)
        bytes_a_token = store.text_bytes / store.tokens
        unit = 1.0 if same else bytes_a_token
        reach = _REACHES.get(each.config.model.kind, lambda settings: longest + 1)(each.config.model.settings)
        histories = {0, longest, reach, *(size for two in _doubled(longest) for size in (two, two * 3 // 2))}
        spelling = spelling_nats(store.unknown_tokens, store.unknown_bytes) / store.tokens
        nats = _losses(each.model, store, sorted(size for size in histories if size <= longest), positions)
        bits = {size: (loss + spelling) / math.log(2) / bytes_a_token for size, loss in nats.items()}
        enough = min(size for size, loss in bits.items() if loss <= (1 + _ENOUGH) * bits[longest])
        rows += [
            {"run": name, "history in tokens": size, "history in bytes": size * bytes_a_token, "bits/byte": loss}
            for size, loss in bits.items()
        ]
        seen = reach * unit if reach <= longest else None
        lines.append(
            (f"{name}: {enough} tokens", [size * unit for size in bits], [*bits.values()], enough * unit, seen)
        )

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for (label, x, y, enough, seen), colour, dash in zip(lines, cycle(COLOURS), cycle(DASHES), strict=False):
            axes.plot(x, y, dash, color=colour, marker="o", markersize=3, label=label)
            axes.plot(enough, np.interp(enough, x, y), "o", color=colour, markersize=9, fillstyle="none")
            if seen is not None:
                axes.axvline(seen, color=colour, linestyle=":", linewidth=1.2)
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        note = "ring: effective context, at most 1 % above the longest; dotted: all that the model can see"
        bare(axes, f"history, in {'tokens' if same else 'bytes (of the mean token)'}", "bits/byte", note)
        axes.legend(frameon=False, title="effective context")

    title = f"Loss against truncated history · {text}" + (f", {lm.config.tokenizer.kind} tokens" if same else "")
    note = f"the same {positions:,} tokens at most, evenly spaced, each predicted after <bos> and its history alone"
    return Picture(title, rows, draw, (8, 4.5), note)


def _doubled(longest: int) -> list[int]:
    return [1 << power for power in range(longest.bit_length())]


def _losses(model: Any, store: TokenStore, histories: Sequence[int], positions: int) -> dict[int, float]:
    """Mean nats of evenly spaced tokens after histories of these lengths."""
    import torch

    ids_N, longest = np.asarray(store.ids, np.int64), max(histories)
    place_N = np.arange(len(ids_N))
    place_N -= np.maximum.accumulate(np.where(ids_N == BOS, place_N, 0))  # in its document, <bos> at 0
    eligible_M = np.flatnonzero(place_N > longest)
    if not len(eligible_M):
        remedy = f"lower --longest to {max(1, place_N.max() - 1)}, or name a longer text with --on"
        raise DataError(f"no document has more than {longest} tokens, but a history of so many is asked for", remedy)
    at_M = eligible_M[np.linspace(0, len(eligible_M) - 1, min(positions, len(eligible_M))).astype(int)]
    losses = {}
    for size in histories:
        nats, rows = 0.0, max(1, _BATCH_TOKENS // (size + 1))
        for first in range(0, len(at_M), rows):
            batch = at_M[first : first + rows]
            logp_BV, _ = model.start([ids_N[at - size : at].tolist() for at in batch])
            target_B1 = torch.from_numpy(ids_N[batch])[:, None].to(logp_BV.device)
            nats -= float(logp_BV.gather(1, target_B1).double().sum())
        losses[size] = nats / len(at_M)
    return losses
