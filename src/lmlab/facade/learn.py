"""Learning: from a source and a few names to a `TextModel`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lmlab import disk, registry, scoring, store
from lmlab.config import load_recipe
from lmlab.corpora import open_objects
from lmlab.corpora.named import CORPORA
from lmlab.corpora.settings import IN_HAND
from lmlab.errors import MissingExtraError, UsageError
from lmlab.facade.encode import as_encoded, is_encoded
from lmlab.facade.figures import account, afterwards, baselines, calibrated, held_out, reserve
from lmlab.facade.planning import expect, planned
from lmlab.facade.prepare import (
    Prepared,
    open_again,
    open_source,
    prepare,
    training_batches,
    validation_batches,
)
from lmlab.facade.signature import takes_settings
from lmlab.facade.text_model import TextModel
from lmlab.kernels import watch_compiling
from lmlab.models.base import estimated
from lmlab.models.scorers import scorer_of
from lmlab.progress import Reporter, Silent, default_reporter
from lmlab.run_config import RunConfig, from_keywords, from_tables, merged
from lmlab.tokens import Tokenizer
from lmlab.training.budget import Budget
from lmlab.training.ranks import Ranks, joined

if TYPE_CHECKING:
    from lmlab.facade.keywords import Keywords
    from lmlab.train_settings import TrainSettings
    from lmlab.training.baseline import Baseline
    from lmlab.training.checkpoint import Checkpoint
    from lmlab.training.events import Listener

_MOST_NOTES = 5  # said of an estimation; the manifest keeps them all
# With these a run repeats bit for bit, whatever was measured when it was first made.
_DECIDED = ("plan", "precision", "threads", "row_blocks", "evaluations", "validation_tokens")


@takes_settings()
def train(
    source: Any = None,
    *,
    text: str | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    listeners: Sequence[Listener] = (),
    **keywords: Unpack[Keywords],
) -> TextModel:
    """Train a model on a text; in all processes together where `torchrun` or the like started several.

    Args:
        source: a file, folder, named corpus, "hf:NAME" of the Hugging Face hub, or "-" for standard input; or what a
            program holds: strings, lists of tokens, records, a pandas or polars frame, a data set, or a dict of such
            named after splits.
        text: the text itself, instead of a source.
        recipe: a named recipe, a TOML file, or a run to repeat.
        out: the model directory to write; None keeps the model in memory.
        overwrite: whether a run that is already there is replaced, once the text is read.
        settings: groups of settings, `{"model": {"layers": 2}}`.
        reporter: shows progress; None draws a bar in a terminal.
        listeners: receive the events of training.
        **keywords: any setting by its name: `tokenizer`, `model`, `minutes`, `order`, `seed`... A name that several
            groups have is that of the first of train, data, model, tokenizer; docs/settings.md has them all.

    Raises:
        LmlabError: `lmlab.errors` has the tree.
    """
    layer = from_tables(load_recipe(recipe)) if recipe else {}
    given: Mapping[str, Any] = keywords
    named = merged(layer, from_keywords(given, layer) | from_tables(settings or {}))
    if source is not None and not isinstance(source, str | Path):
        if text is not None:
            raise UsageError("train was given a text and a source", "leave one of them out")
        source, text = None, source
    if text is not None:
        named.pop("source", None)  # a recipe's
    named |= {"source": str(source)} if source else {}
    reporter = reporter or default_reporter()
    return _kept_said(train_named(named, text, out, reporter, listeners, overwrite=overwrite), reporter)


def train_named(
    named: Mapping[str, Any],
    text: Any = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    listeners: Sequence[Listener] = (),
    began: float | None = None,
    *,
    overwrite: bool = False,
) -> TextModel:
    """Train what is named by path, `{"source": "my.txt", "model.kind": "cnn"}`; `train` and the command line end here.

    The text may be any object that holds texts. Minutes count from `began`, by `time.perf_counter`, or from now.

    Raises:
        LmlabError: `lmlab.errors` has the tree.
    """
    began, reporter = time.perf_counter() if began is None else began, reporter or default_reporter()
    named = as_encoded(named) if text is None and is_encoded(named.get("source")) else named
    config = RunConfig.build({**named, "source": IN_HAND} if text is not None else dict(named))
    registry.resolve("model", config.model.kind)  # a library may be missing: said before a text is read, a run replaced
    if config.source is None or (text is not None and "source" in named):
        raise UsageError("train needs one source of text", "name a file, a folder, a corpus or a recipe that does")
    with joined() as ranks, contextlib.ExitStack() as holding:
        if ranks.count > 1 and config.source == "-":
            raise UsageError("several processes cannot share standard input", "write the text to a file")
        if not ranks.first:
            out, reporter, listeners = None, Silent(), ()
        if out is not None:
            store.check_one_file(Path(out), config.model.kind)
            holding.enter_context(new_run(Path(out), overwrite=overwrite))
        with ranks.in_turn():
            if text is not None:
                corpus = open_objects(text, config.data)
            else:
                corpus = open_source(config.source, config.data, reporter)
                config = dataclasses.replace(config, source=lasting(config.source))
            config = config.for_code() if corpus.pretokenised else config
            prepared = prepare(corpus, config.tokenizer, reporter)
        folder = Path(out) if out is not None else None
        if folder is not None:
            disk.discard(folder)
        budget = Budget.of(config.train, began)
        budget.took["reading"] = budget.spent
        return learn(prepared, config, folder, reporter, budget, listeners, ranks)


def _kept_said(lm: TextModel, reporter: Reporter) -> TextModel:
    """Say of an interrupted run where its weights are, and how to go on."""
    if lm.manifest["status"] == "interrupted":
        kept = f"its best weights are in the model, and in {lm.folder}; go on with lmlab.resume({str(lm.folder)!r})"
        unkept = "its best weights are in the model, lm.save(...) keeps them; with out=... a run can also go on"
        reporter.say(f"interrupted at step {lm.manifest['results']['steps']:,}: {kept if lm.folder else unkept}")
    return lm


def new_run(out: Path, *, overwrite: bool = False) -> contextlib.AbstractContextManager[None]:
    """Hold a model directory that is still to be made, or made again.

    Raises:
        RunExistsError: it is there.
        HeldError: another process makes it.
    """
    store.check_free(out, overwrite=overwrite)
    return disk.held(out)


@contextlib.contextmanager
def _compiling_said(reporter: Reporter) -> Iterator[None]:
    """Say that a machine compiles its loops, and what that took: the budget of a first run pays for it."""
    with watch_compiling(lambda: reporter.say("compiling loops for this machine: once, then they are kept")) as spent:
        yield
    if spent.seconds:
        reporter.say(f"compiling took {spent.seconds:.1f} s of this run; the next ones find the loops on disk")


def lasting(source: str) -> str:
    """A source that can be found again from another folder: a path made absolute, a corpus's name as it is."""
    return source if source in CORPORA or not disk.exists(source) else str(Path(source).resolve())


def learn(
    prepared: Prepared,
    config: RunConfig,
    out: Path | None,
    reporter: Reporter,
    budget: Budget,
    listeners: Sequence[Listener] = (),
    ranks: Ranks = Ranks(),  # noqa: B008  # frozen
) -> TextModel:
    """Choose what suits the budget, where one process trains, and train; says what compiling took of it.

    Raises:
        UsageError: two packages claim one name of a model, or this kind is not trained from text.
    """
    kind = config.model.kind
    registry.names("model")  # which fails where a name is claimed twice
    family = registry.resolve("model", kind).family
    with _compiling_said(reporter):
        if family == "counted":
            if ranks.count > 1:
                raise UsageError(f"a {kind} is counted in one process", "start it without torchrun")
            return _count(prepared, config, store.new_manifest(config, prepared.describe()), out, reporter)
        if family != "neural":
            raise UsageError(f"a {kind} is not trained from text", "`lmlab train --help` lists the models that are")
        reserve(budget, prepared, config)
        config, tokens = planned(config, prepared, reporter, budget) if ranks.count == 1 else (config, None)
        manifest = store.new_manifest(config, prepared.describe())
        return _fit(prepared, config, manifest, out, reporter, budget, listeners, ranks=ranks, tokens=tokens)


def resume(path: str | Path, reporter: Reporter | None = None, listeners: Sequence[Listener] = ()) -> TextModel:
    """Go on with a run that was stopped, to the same weights that it would have had.

    Args:
        path: the run's directory.
        reporter: shows progress; None draws a bar in a terminal.
        listeners: receive the events of training.

    Raises:
        ArtifactError: there is no run to go on with.
        DataError: its text has changed.
    """
    reporter = reporter or default_reporter()
    return _kept_said(resume_named(Path(path), reporter, listeners), reporter)


def resume_named(folder: Path, reporter: Reporter, listeners: Sequence[Listener] = ()) -> TextModel:
    """Go on with a run; `resume` and the command line end here."""
    from lmlab.training import checkpoint

    with joined() as ranks, disk.held(folder) if ranks.first else contextlib.nullcontext():
        manifest, config = store.read_manifest(folder), store.read_config(folder)
        if manifest["status"] in ("done", "early"):
            reporter.say(f"{folder} is finished; nothing is left to do")
            return TextModel.load(folder)
        with ranks.in_turn():
            prepared = prepare(open_again(config, manifest, reporter), config.tokenizer, reporter)
        if not ranks.first:
            reporter, listeners = Silent(), ()
        out, newest = folder if ranks.first else None, checkpoint.newest(folder, reporter.say)
        spent = checkpoint.Progress.of(newest.counters).seconds if newest else 0.0
        budget = Budget.of(config.train, time.perf_counter() - spent)
        reserve(budget, prepared, config)
        with _compiling_said(reporter):
            return _fit(prepared, config, manifest, out, reporter, budget, listeners, newest, resumed=True, ranks=ranks)


# -- counted models ---------------------------------------------------------------------------------------------------


def _count(
    prepared: Prepared, config: RunConfig, manifest: dict[str, Any], out: Path | None, reporter: Reporter
) -> TextModel:
    model_class = registry.resolve("model", config.model.kind)
    began = time.perf_counter()
    ids_N = prepared.stores["train"].ids
    with reporter.stage("counting") as advance:
        model = estimated(model_class, config.model.settings, prepared.tokenizer.spellings(), ids_N)
        advance(len(ids_N))
    seconds = time.perf_counter() - began
    notes = list(getattr(model, "notes", ()))
    for note in notes[:_MOST_NOTES]:
        reporter.say(note)
    if len(notes) > _MOST_NOTES:
        reporter.say(f"and {len(notes) - _MOST_NOTES} notes more, all in the manifest")
    manifest["results"] = {"train_seconds": seconds, "notes": notes, **_held_out(model, prepared, reporter)}
    manifest["status"] = "done"
    lm = TextModel(model, prepared.tokenizer, config, manifest, held_out=prepared.stores)
    if out is not None:
        lm.save(out)
    return lm


def _held_out(model: Any, prepared: Prepared, reporter: Reporter) -> dict[str, Any]:
    """The figures on the validation split, where there is one and the model has probabilities."""
    if "valid" not in prepared.stores or not scorer_of(model).normalised:
        return {}
    tokens = prepared.head("valid")
    with reporter.stage("scoring the validation split", tokens.tokens, " tokens") as advance:
        report = scoring.evaluate(model, tokens, advance)
    return {"valid": {**vars(report), "of_tokens": prepared.stores["valid"].tokens}}


# -- trained models ---------------------------------------------------------------------------------------------------


def _fit(
    prepared: Prepared,
    config: RunConfig,
    manifest: dict[str, Any],
    out: Path | None,
    reporter: Reporter,
    budget: Budget,
    listeners: Sequence[Listener] = (),
    checkpoint: Checkpoint | None = None,
    *,
    resumed: bool = False,
    ranks: Ranks,
    tokens: float | None = None,
) -> TextModel:
    from lmlab.training.fit import Fit
    from lmlab.training.machine import torch_borrowed
    from lmlab.training.plan import Plan

    settings, seed = config.train, config.seed
    if settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("TensorBoard", "tensorboard")
    model = _new_model(config, prepared.tokenizer.vocab_size)
    batches = training_batches(prepared.stores["train"], settings, seed)
    validation = validation_batches(prepared.stores.get("valid"), batches, settings)
    results = manifest["results"]
    beside: dict[str, Baseline] = {}
    if ranks.first and settings.baseline and "baselines" not in results:
        beside = baselines(prepared, budget, reporter)
        results["baselines"] = {name: each.figures(each.report) for name, each in beside.items()}
        expect(results, tokens, reporter)
    levels = _levels(results.get("baselines", {}))
    for name, nats in levels.items():
        reporter.level(name, nats)
    if out is not None and not resumed:
        with disk.atomic_folder(out) as folder:
            store.write_description(folder, prepared.tokenizer, config, manifest)
    run = Fit(
        model=model,
        batches=batches,
        settings=settings,
        seed=seed,
        run=out,
        validation=validation,
        resume=checkpoint,
        listeners=[reporter.event, *_recorders(out, checkpoint, settings, _subject(manifest), levels), *listeners],
        sample=_sampler(prepared.tokenizer, settings, seed),
        ranks=ranks,
        budget=budget,
        afterwards=afterwards(prepared),
    )
    try:
        with budget.stage("training"):
            outcome = run.go()
    finally:
        reporter.rest()
    config = config.with_train(**{name: getattr(outcome.progress, name) for name in _DECIDED})
    manifest["status"] = outcome.reason
    results |= {
        "train_seconds": outcome.progress.seconds,
        "steps": outcome.progress.step,
        "tokens_seen": outcome.progress.tokens,
        "parameters": model.parameter_count,
        "best_step": outcome.progress.best_step,
        "processes": ranks.count,
        "signal": outcome.signal or signal.SIGINT if outcome.reason == "interrupted" else None,
    }
    if outcome.reason != "interrupted" and ranks.first:
        named = settings.calibration_temperature
        few = validation_batches(
            prepared.stores.get("valid"), batches, settings, rows=4
        )  # soon read where time is short
        with torch_borrowed(outcome.progress.threads):
            results["calibration_temperature"] = calibrated(model, named, few, out, budget, reporter)
            if "valid" in prepared.stores:
                results["valid"], scored = held_out(model, prepared, "valid", budget, reporter)
                results.get("baselines", {}).update({name: each.on(scored) for name, each in beside.items()})
        if budget.timed:
            account(results, Plan.parse(outcome.progress.plan).changes[0][1], budget, reporter)
    if out is not None:
        store.write_results(out, config, manifest)
    return TextModel(model, prepared.tokenizer, config, manifest, out, prepared.stores)


def _new_model(config: RunConfig, vocab_size: int) -> Any:
    """The architecture with the weights that the seed gives, whatever else draws random numbers."""
    import torch

    model_class, settings = registry.resolve("model", config.model.kind), config.model.settings
    model_class.check_room(settings, vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return model_class(settings, vocab_size)


def _levels(found: Mapping[str, Any]) -> dict[str, float]:
    """The n-gram's nats/token, in the unit of learning curves, by its name; none where it was not made."""
    ngram = found.get("ngram")
    return {f"{ngram['order']}-gram": math.log(ngram["perplexity_unk_as_class"])} if ngram else {}


def _subject(manifest: Mapping[str, Any]) -> str:
    """What a run learns, for the title of its picture."""
    config, data = manifest["config"], manifest["data"]
    return f"{config['model']['kind']} on {data['name']}, by {config['tokenizer']['kind']} tokens"


def _recorders(
    out: Path | None,
    checkpoint: Checkpoint | None,
    settings: TrainSettings,
    title: str,
    levels: Mapping[str, float],
) -> list[Listener]:
    """Who writes down what happens: metrics, the learning curve, TensorBoard."""
    if out is None:
        return []
    from lmlab.seeing.curves import LiveCurve
    from lmlab.training.events import MetricsFile, TensorBoard

    _forget_after(out / store.METRICS, checkpoint.counters["step"] if checkpoint else 0)
    curve = LiveCurve(out / store.METRICS, out / store.CURVE, title, levels)
    recorders: list[Any] = [MetricsFile(out / store.METRICS), curve]
    if settings.tensorboard:
        recorders.append(TensorBoard(out / "tensorboard"))
    return recorders


def _forget_after(metrics: Path, step: int) -> None:
    """Drop from the metrics what a stopped run wrote after its last checkpoint, and its end: they will happen again."""
    from lmlab.training.events import read_metrics

    if not metrics.is_file():
        return
    kept = [line for line, event in read_metrics(metrics) if event["step"] <= step and event["event"] != "ended"]
    disk.write_file(metrics, "".join(f"{line}\n" for line in kept))


def _sampler(tokenizer: Tokenizer, settings: TrainSettings, seed: int) -> Callable[[Any], list[str]]:
    """Writes samples as the settings say, the prompt first."""
    from lmlab.decoding import Sample, decode, finish

    prompt_ids = tokenizer.encode(settings.sample_prompt).ids.tolist()

    def sample(model: Any) -> list[str]:
        strategy = Sample(temperature=settings.sample_temperature, seed=seed)
        branches = finish(decode(model, prompt_ids, strategy, n=settings.sample_count, max_tokens=120))
        return [tokenizer.decode([*prompt_ids, *branch.ids()]) for branch in branches]

    return sample
