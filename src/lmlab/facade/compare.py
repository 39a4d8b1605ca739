"""Several kinds of model trained on one text, side by side."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

import numpy as np

from lmlab import disk, registry, scoring, store
from lmlab.config import Named
from lmlab.errors import EmptyDataError, UsageError
from lmlab.facade import figures
from lmlab.facade.learn import lasting, learn, new_run
from lmlab.facade.prepare import Prepared, encode_held_out, open_source, prepare
from lmlab.facade.signature import takes_settings
from lmlab.facade.surprisal import Table
from lmlab.facade.text_model import TextModel
from lmlab.models.mixture import Mixture, fit_weights
from lmlab.progress import Reporter, default_reporter
from lmlab.report.html import escape, fragment
from lmlab.report.ladder import Rung, ladder_html, ladder_text
from lmlab.run_config import Component, RunConfig, from_keywords, from_tables
from lmlab.training import baseline
from lmlab.training.budget import Budget

if TYPE_CHECKING:
    from lmlab.corpora import Corpus
    from lmlab.facade.keywords import Keywords
    from lmlab.tokens.id_store import TokenStore
    from lmlab.training.events import Listener

_SHARE = 0.08  # of a timed model's budget, for scoring the held-out split
_LEAST_SECONDS = 5.0  # for it, however short the budget
_PPMD_SHARE = 0.04  # of it for PPMd
_FITTED_TOKENS = 200_000  # of the validation split, that a mixture's weights are fitted on
_BASELINES = {
    "uniform": "no knowledge: every byte alike",
    "PPMd": "a compressor that knows the training text",
    "cm": "context mixing, one pass",
}
MIXTURE = "mixture"
DEFAULT_KINDS = ("ngram", "cnn", "lstm")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Sequence[TextModel]):
    """Models trained on one text, scored on one held-out split: a sequence of them, a table, a ladder.

    Attributes:
        models: in the order named; where there are several that can be mixed, their mixture is the last.
        title: the text, and how much of which split was scored.
        baselines: bits per byte of what was not asked for: bytes that are all equally likely; PPMd, where pyppmd is
            installed; context mixing, where the budget has a few seconds for it.
        held_out: what was scored.
    """

    models: Sequence[TextModel]
    title: str
    baselines: Mapping[str, float]
    held_out: TokenStore

    @overload
    def __getitem__(self, index: int) -> TextModel: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TextModel]: ...
    def __getitem__(self, index: int | slice) -> TextModel | Sequence[TextModel]:
        return self.models[index]

    def __len__(self) -> int:
        return len(self.models)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict a model: its figures on the held-out split, and what its budget bought."""
        return [_row(lm) for lm in self.models]

    @property
    def table(self) -> Any:
        """A pandas DataFrame where pandas is installed, else the rows."""
        rows = self.rows
        return Table({name: [row[name] for row in rows] for name in rows[0]}).table

    @property
    def ladder(self) -> list[Rung]:
        """Bits per byte from no knowledge to the mixture: baselines, then models in the order of `models`."""
        rungs = [Rung(name, bits, _BASELINES[name], baseline=True) for name, bits in self.baselines.items()]
        return rungs + [Rung(row["model"], row["bits_per_byte"], _bought(row)) for row in self.rows]

    @property
    def notes(self) -> list[str]:
        """What is to be known of a model before its figures are believed: too few steps, for example."""
        return [
            f"{lm.config.model.kind}: {note}"
            for lm in self.models
            if lm.model.family == "neural"
            for note in lm.manifest["results"].get("notes", ())
        ]

    def __repr__(self) -> str:
        head = f"{self.title}: bits per byte, lower is better"
        return "\n".join([head, ladder_text(self.ladder), *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f'<p class="note">{escape(note)}</p>' for note in self.notes)
        head = f"<p><b>{escape(self.title)}</b>: bits per byte, lower is better</p>"
        return fragment(head, ladder_html(self.ladder), notes)


def _row(lm: TextModel) -> dict[str, Any]:
    results = lm.manifest["results"]
    seen = results.get("tokens_seen")
    passes = seen / max(1, lm.manifest["data"]["splits"]["train"]["tokens"]) if seen is not None else None
    return {
        "run": str(lm.folder) if lm.folder else None,
        "model": lm.config.model.kind,
        **results["test"],
        "steps": results.get("steps"),
        "passes": passes,
        "train_seconds": results["train_seconds"],
        "model_bytes": lm.model.nbytes,
        "weights": results.get("weights"),
    }


def _bought(row: Mapping[str, Any]) -> str:
    """What a budget bought: steps and passes over the text, or how a mixture is weighed."""
    if row["steps"] is None:
        return " + ".join(f"{weight:.2f} {kind}" for kind, weight in (row["weights"] or {}).items())
    return f"{row['steps']:,} steps, {row['passes']:.2g} passes, {row['train_seconds']:.0f} s"


@takes_settings()
def compare(
    source: str,
    models: Sequence[str] = DEFAULT_KINDS,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    reporter: Reporter | None = None,
    listeners: Sequence[Listener] = (),
    **keywords: Unpack[Keywords],
) -> Comparison:
    """Train several kinds of model on the same tokens, each for the same budget, and mix them.

    Args:
        source: a file, folder, named corpus, or "-".
        models: their kinds; `hf:PATH` is a Hugging Face model that is scored as it is, by its own tokens.
        out: a new folder for the runs, one subfolder a model; None keeps none.
        overwrite: whether runs that are already there are replaced, once the text is read.
        settings: groups of settings for one kind: `{"ngram": {"model": {"order": 4}}}`.
        reporter: shows progress.
        listeners: receive the events of training, of one model after another.
        **keywords: settings for all, as in `lmlab.train`.

    Returns:
        A model a kind, and the mixture that suits the validation split best where there are several and that split;
        `manifest["results"]["test"]` of each holds the figures of the test split.

    Raises:
        RunExistsError: `out` is already there.
        EmptyDataError: there is no held-out text to compare on.
        KeyboardInterrupt: one of them was interrupted; what it has is saved.
    """
    given: Mapping[str, Any] = keywords
    own = {kind: from_tables(tables) for kind, tables in (settings or {}).items()}
    named = {"source": source} | from_keywords(given)
    return compare_named(named, models, own, out, reporter, listeners, overwrite=overwrite)


def compare_named(
    named: Named,
    models: Sequence[str],
    own: Mapping[str, Named],
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    listeners: Sequence[Listener] = (),
    *,
    overwrite: bool = False,
) -> Comparison:
    """Train and score what is named by path for all models, and for some of them alone (`own`)."""
    kinds, ready = _split_kinds(models)
    folder = Path(out) if out is not None else None
    with new_run(folder, overwrite=overwrite) if folder is not None else contextlib.nullcontext():
        others = [TextModel.load(name) for name in ready]
        return _compared(named, kinds, others, own, folder, reporter or default_reporter(), listeners)


def _compared(
    named: Named,
    kinds: Sequence[str],
    ready: Sequence[TextModel],
    own: Mapping[str, Named],
    out: Path | None,
    reporter: Reporter,
    listeners: Sequence[Listener],
) -> Comparison:
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
    if out is not None:
        disk.discard(out)
    trained = [_trained(prepared, config, out, reporter, listeners) for config in configs]
    lms, tokens = [lm for lm, _ in trained], min(affordable for _, affordable in trained)
    split = "test" if "test" in prepared.stores else "valid"
    whole = prepared.stores[split]
    held_out = whole if tokens >= whole.tokens else prepared.head(split, tokens)
    test = {"split": split, "of_tokens": whole.tokens}
    logp_MN = [_scored(lm, held_out, f"the {split} split", reporter) for lm in lms]
    for lm, logp_N in zip(lms, logp_MN, strict=True):
        lm.manifest["results"]["test"] = test | _report(logp_N, held_out)
        if lm.folder is not None:
            store.write_manifest(lm.folder, lm.manifest)
    if split == "test" and "valid" in prepared.stores and len(lms) > 1:
        mixture = _mixed(lms, prepared, tokens, reporter)
        blended_N = np.concatenate([*mixture.blend((), iter([np.stack(logp_MN)]))])
        lms.append(_kept(mixture, lms, prepared, test | _report(blended_N, held_out), out))
    beside = {"uniform": 8.0}
    budget = Budget.of(configs[0].train).seconds
    with reporter.stage("fitting baselines"):
        before = corpus.text("train", max_bytes=baseline.MOST_BYTES)
        ppmd = baseline.ppmd_bits_per_byte(before, _beginning(corpus, split, held_out), _PPMD_SHARE * budget)
        beside |= {"PPMd": ppmd} if ppmd is not None else {}
        if "cm" not in kinds:
            seconds = baseline.MIXED_SHARE * budget
            mixed = baseline.cm_baseline(prepared.stores["train"], held_out, prepared.tokenizer, seconds)
            beside |= {"cm": mixed.report.bits_per_byte} if mixed is not None else {}
    for lm in ready:
        every = encode_held_out(corpus, lm.tokenizer, split, reporter)
        others = Prepared(corpus, lm.tokenizer, {split: every})
        same = every if held_out is whole else others.head(split, tokens / whole.tokens * every.tokens)
        its = _report(_scored(lm, same, f"the {split} split", reporter), same)
        results = {"split": split, "of_tokens": every.tokens, **its}
        lm.manifest["results"] |= {"train_seconds": 0.0, "test": results}
        lms.append(lm)
    part = f", its first {held_out.tokens:,} of {whole.tokens:,} tokens" if held_out.tokens < whole.tokens else ""
    return Comparison(lms, f"{corpus.name}, {split} split{part}", beside, held_out)


def _beginning(corpus: Corpus, split: str, tokens: TokenStore) -> bytes:
    """The text that was scored, or the first megabytes of it."""
    parts, room = [], min(tokens.text_bytes, baseline.MOST_BYTES)
    for document in corpus.documents(split):
        parts.append(document.text.encode() + b"\n" * document.last)
        room -= len(parts[-1])
        if room <= 0:
            break
    return b"".join(parts)


def _scored(lm: TextModel, tokens: TokenStore, name: str, reporter: Reporter) -> np.ndarray:
    with reporter.stage(f"{lm.config.model.kind} scores {name}", tokens.tokens, " tokens") as advance:
        return scoring.token_logp(lm.model, tokens, advance)


def _report(logp_N: np.ndarray, tokens: TokenStore) -> dict[str, Any]:
    return vars(scoring.report_of(-float(logp_N.sum(dtype=np.float64)), tokens))


def _mixed(lms: Sequence[TextModel], prepared: Prepared, tokens: float, reporter: Reporter) -> Mixture:
    """The linear mixture that suits the validation split, or the beginning that there is time for, best."""
    valid = prepared.head("valid", min(tokens, _FITTED_TOKENS))
    logp_MN = np.stack([_scored(lm, valid, "the validation split", reporter) for lm in lms])
    weights = tuple(fit_weights(logp_MN).tolist())
    return Mixture(Mixture.Settings("linear", weights), [lm.model for lm in lms])


def _kept(
    mixture: Mixture, lms: Sequence[TextModel], prepared: Prepared, test: dict[str, Any], out: Path | None
) -> TextModel:
    """The mixture as a run of its own, beside those of its components."""
    config = dataclasses.replace(lms[0].config, model=Component(MIXTURE, mixture.settings))
    manifest = store.new_manifest(config, prepared.describe())
    weights = {lm.config.model.kind: round(w, 4) for lm, w in zip(lms, mixture.weights, strict=True)}
    seconds = sum(lm.manifest["results"]["train_seconds"] for lm in lms)
    manifest |= {"status": "done", "results": {"weights": weights, "train_seconds": seconds, "test": test}}
    lm = TextModel(cast(Any, mixture), prepared.tokenizer, config, manifest, held_out=prepared.stores)
    if out is not None:
        lm.save(out / MIXTURE)
    return lm


def _split_kinds(models: Sequence[str]) -> tuple[list[str], list[str]]:
    """The kinds that are trained, and the Hugging Face models (`hf:PATH`) that are only scored beside them.

    Raises:
        UsageError: a kind is unknown or named twice, or none is to be trained.
    """
    ready = [name for name in models if name.startswith("hf:")]
    kinds = [name for name in models if name not in ready]
    for kind in kinds:
        if kind == MIXTURE:
            raise UsageError("the mixture is made of the other models", "leave it out: it stands in the last row")
        registry.resolve("model", kind)
    twice = next((name for name in models if models.count(name) > 1), None)
    if twice or not kinds:
        raise UsageError(f"{twice} is named twice" if twice else "no model to train is named", "name each model once")
    return kinds, ready


def _trained(
    prepared: Prepared, config: RunConfig, out: Path | None, reporter: Reporter, listeners: Sequence[Listener]
) -> tuple[TextModel, float]:
    """A model, and how many tokens it can score in the time that its budget has for the comparison."""
    kind, budget = config.model.kind, Budget.of(config.train)
    reporter.say(f"{kind}:")
    budget.reserve("comparison", _SHARE)
    lm = learn(prepared, config, out / kind if out else None, reporter, budget, listeners)
    results = lm.manifest["results"]
    if lm.manifest["status"] == "interrupted":
        raise KeyboardInterrupt(results["signal"])
    if "budget" not in results or "valid" not in results:
        return lm, math.inf
    speed = results["valid"]["tokens"] / budget.took[figures.SCORING]
    return lm, max(figures.LEAST_SCORED, max(_SHARE * budget.seconds, _LEAST_SECONDS) * speed)
