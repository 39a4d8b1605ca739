"""Our models for lm-evaluation-harness, without a server.

    python -m lmlab.compat.lm_eval run --model lmlab --model_args run=runs/lstm --tasks arc_easy

is the harness's own command, which then knows the model `lmlab`; versions that read entry points need no launcher. In
Python: `simple_evaluate(model=Lmlab("runs/lstm"), tasks=[...])`.

Texts are read after `<bos>`, each on its own; a text's tokens are those of the whole text, context and continuation.
As everywhere in the harness `<eos>` is not predicted; with `eos` a rolling log-likelihood has it, so that bits per byte
are those of `lmlab eval`. Unknown tokens are charged their spelling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from lmlab.errors import MissingExtraError, SettingError
from lmlab.facade.text_model import TextModel
from lmlab.models.scorers import ranks_of
from lmlab.scoring import document_nats
from lmlab.vocabulary import BOS, EOS, spelling_nats

_TOGETHER = 1 << 16  # ids scored at once


class Answers:
    """What a text model answers to the harness; `Lmlab` is this with the harness's own `LM` beneath.

    Args:
        run: a model directory, `hf:PATH_OR_NAME`, or a text model.
        adapt: what `TextModel.composed` adapts it by.
        mix: what it is mixed with, `RUN:WEIGHT`, several joined by `+`.
        eos: whether a rolling log-likelihood has `<eos>`.
        **ignored: what the harness gives every model: batch_size, device.
    """

    def __init__(
        self, run: str | TextModel, adapt: str | None = None, mix: str = "", eos: bool = False, **ignored: Any
    ) -> None:
        super().__init__()
        lm = run if isinstance(run, TextModel) else TextModel.load(run)
        self._lm = lm.composed(adapt, mix.split("+") if mix else []) if adapt or mix else lm
        self._eos = eos

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each (context, continuation) the natural log-probability, and whether each token was the likeliest."""
        found = []
        for group in _groups([self._pair(*request.args) for request in requests]):
            ids_N = np.concatenate([[BOS, *ids] for ids, _ in group]).astype(np.uint32)
            pieces = [*ranks_of(self._lm.model, ids_N)]
            logp_N, rank_N = (np.concatenate([piece[at] for piece in pieces]) for at in (0, 1))
            at = 0
            for ids, begin in group:
                of_it = slice(at + begin, at + len(ids))
                found.append((float(logp_N[of_it].sum(dtype=np.float64)), bool((rank_N[of_it] == 1).all())))
                at += len(ids)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The natural log-probability of each text, read whole: a model's own window is all that bounds its context."""
        end = [EOS] if self._eos else []
        encoded = [self._lm.tokenizer.encode(request.args[0]) for request in requests]
        spelled = [spelling_nats(int((one.ids == 1).sum()), one.unknown_bytes) for one in encoded]
        found: list[float] = []
        for group in _groups([([*one.ids.tolist(), *end], 0) for one in encoded]):
            ids_N = np.concatenate([[BOS, *ids] for ids, _ in group]).astype(np.uint32)
            found += (-document_nats(self._lm.model, ids_N)).tolist()
        return [logp - nats for logp, nats in zip(found, spelled, strict=True)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context up to one of its stop strings, greedily unless it says otherwise."""
        found = []
        for request in requests:
            context, asked = request.args
            until = asked.get("until") or []
            stop = [mark for mark in ([until] if isinstance(until, str) else until) if mark]
            sampled = asked.get("do_sample", asked.get("temperature", 0) > 0) and asked.get("temperature", 1) > 0
            named = {name: asked[name] for name in ("temperature", "top_k", "top_p") if sampled and name in asked}
            most = int(asked.get("max_gen_toks", 256))
            (made,) = self._lm.generate(
                context, "sample" if sampled else "greedy", max_tokens=most, stop=stop, allow_unknown=True, **named
            )
            found.append(made.text)
        return found

    def _pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        """The ids of a text, and where its continuation begins; white space before that belongs to it."""
        if not continuation:
            raise SettingError("a continuation", continuation, "some text", "mend the task")
        held = context.rstrip()
        ids = self._lm.ids(context + continuation, allow_unknown=True)
        return ids, min(len(self._lm.ids(held, allow_unknown=True)), len(ids) - 1)


def _groups(texts: Sequence[tuple[list[int], int]]) -> Iterator[list[tuple[list[int], int]]]:
    """Neighbours of at most so many ids in all, or one longer text."""
    group: list[tuple[list[int], int]] = []
    for text in texts:
        if group and sum(len(ids) + 1 for ids, _ in (*group, text)) > _TOGETHER:
            yield group
            group = []
        group.append(text)
    if group:
        yield group


@cache
def _registered() -> Any:
    """The class that the harness knows as `lmlab`."""
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise MissingExtraError("lm-evaluation-harness", "lm-eval") from error
    return register_model("lmlab")(type("Lmlab", (Answers, LM), {"__doc__": Answers.__doc__}))


def __getattr__(name: str) -> Any:
    if name != "Lmlab":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _registered()


def main() -> None:
    """The harness's own command, which then knows `lmlab`."""
    _registered()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
