"""Several kinds of model trained on one text, side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lmlab import registry, scoring
from lmlab.config import Named
from lmlab.errors import EmptyDataError, UsageError
from lmlab.facade import figures
from lmlab.facade.learn import lasting, learn, new_run
from lmlab.facade.prepare import Prepared, encode_held_out, open_source, prepare
from lmlab.facade.signature import takes_settings
from lmlab.facade.text_model import TextModel
from lmlab.progress import Reporter, default_reporter
from lmlab.run_config import RunConfig, from_keywords, from_tables
from lmlab.training.budget import Budget

if TYPE_CHECKING:
    from lmlab.facade.keywords import Keywords
    from lmlab.tokens.id_store import TokenStore

_SHARE = 0.08  # of a timed model's budget, for scoring the held-out split
DEFAULT_KINDS = ("ngram", "cnn", "lstm")


@takes_settings()
def compare(
    source: str,
    models: Sequence[str] = DEFAULT_KINDS,
    *,
    out: str | Path | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    reporter: Reporter | None = None,
    **keywords: Unpack[Keywords],
) -> list[TextModel]:
    """Train several kinds of model on the same tokens, each for the same budget.

    Args:
        source: a file, folder, named corpus, or "-".
        models: their kinds; `hf:PATH` is a Hugging Face model that is scored as it is, by its own tokens.
        out: a new folder for the runs, one subfolder a model; None keeps none.
        settings: groups of settings for one kind: `{"ngram": {"model": {"order": 4}}}`.
        reporter: shows progress.
        **keywords: settings for all, as in `lmlab.train`.

    Returns:
        A model a kind; `manifest["results"]["test"]` holds the figures of the test split.

    Raises:
        RunExistsError: `out` is already there.
        EmptyDataError: there is no held-out text to compare on.
        KeyboardInterrupt: one of them was interrupted; what it has is saved.
    """
    given: Mapping[str, Any] = keywords
    own = {kind: from_tables(tables) for kind, tables in (settings or {}).items()}
    return compare_named({"source": source} | from_keywords(given), models, own, out, reporter)


def compare_named(
    named: Named,
    models: Sequence[str],
    own: Mapping[str, Named],
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> list[TextModel]:
    """Train and score what is named by path for all models, and for some of them alone (`own`)."""
    kinds, ready = _split_kinds(models)
    folder = Path(out) if out is not None else None
    with new_run(folder) if folder is not None else contextlib.nullcontext():
        others = [TextModel.load(name) for name in ready]
        return _compared(named, kinds, others, own, folder, reporter or default_reporter())


def _compared(
    named: Named,
    kinds: Sequence[str],
    ready: Sequence[TextModel],
    own: Mapping[str, Named],
    out: Path | None,
    reporter: Reporter,
) -> list[TextModel]:
    shared = {"train.baseline": False, **named}
    configs = [RunConfig.build({**shared, "model.kind": kind, **own.get(kind, {})}) for kind in kinds]
    source = str(named["source"])
    corpus = open_source(source, configs[0].data, reporter)
    if not (corpus.sizes["test"].documents or corpus.sizes["valid"].documents):
        raise EmptyDataError("there is no held-out text to compare on", "leave a share for it with --split")
    configs = [dataclasses.replace(config, source=lasting(source)) for config in configs]
    if corpus.pretokenised:
        configs = [config.for_code() for config in configs]
    prepared = prepare(corpus, configs[0].tokenizer, reporter)
    trained = [_trained(prepared, config, out, reporter) for config in configs]
    lms, tokens = [lm for lm, _ in trained], min(affordable for _, affordable in trained)
    split = "test" if "test" in prepared.stores else "valid"
    whole = prepared.stores[split]
    held_out = whole if tokens >= whole.tokens else prepared.head(split, tokens)
    for lm in lms:
        _score(lm, held_out, split, whole.tokens, reporter)
    for lm in ready:
        every = encode_held_out(corpus, lm.tokenizer, split, reporter)
        others = Prepared(corpus, lm.tokenizer, {split: every})
        same = every if held_out is whole else others.head(split, tokens / whole.tokens * every.tokens)
        lm.manifest["results"]["train_seconds"] = 0.0
        _score(lm, same, split, every.tokens, reporter)
    return [*lms, *ready]


def _score(lm: TextModel, held_out: TokenStore, split: str, of_tokens: int, reporter: Reporter) -> None:
    with reporter.stage("scoring the held-out split", held_out.tokens, " tokens") as advance:
        report = scoring.evaluate(lm.model, held_out, advance)
    lm.manifest["results"]["test"] = {"split": split, **vars(report), "of_tokens": of_tokens}


def _split_kinds(models: Sequence[str]) -> tuple[list[str], list[str]]:
    """The kinds that are trained, and the Hugging Face models (`hf:PATH`) that are only scored beside them.

    Raises:
        UsageError: a kind is unknown or named twice, or none is to be trained.
    """
    ready = [name for name in models if name.startswith("hf:")]
    kinds = [name for name in models if name not in ready]
    for kind in kinds:
        registry.resolve("model", kind)
    twice = next((name for name in models if models.count(name) > 1), None)
    if twice or not kinds:
        raise UsageError(f"{twice} is named twice" if twice else "no model to train is named", "name each model once")
    return kinds, ready


def _trained(prepared: Prepared, config: RunConfig, out: Path | None, reporter: Reporter) -> tuple[TextModel, float]:
    """A model, and how many tokens it can score in the time that its budget has for the comparison."""
    kind, budget = config.model.kind, Budget.of(config.train)
    reporter.say(f"{kind}:")
    budget.reserve("comparison", _SHARE)
    lm = learn(prepared, config, out / kind if out else None, reporter, budget)
    results = lm.manifest["results"]
    if lm.manifest["status"] == "interrupted":
        raise KeyboardInterrupt(results["signal"])
    if "budget" not in results or "valid" not in results:
        return lm, math.inf
    speed = results["valid"]["tokens"] / budget.took[figures.SCORING]
    return lm, max(figures.LEAST_SCORED, _SHARE * budget.seconds * speed)
