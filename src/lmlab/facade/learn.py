"""Learning: from a source and a few names to a `TextModel`; several models side by side."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab import disk, registry, scoring, store
from lmlab.config import load_recipe, merge
from lmlab.corpora import Corpus, DataSettings, open_text
from lmlab.corpora.named import CORPORA
from lmlab.errors import EmptyDataError, MissingExtraError, RunExistsError, UsageError
from lmlab.facade.budget import Clock, expect, planned
from lmlab.facade.configure import DEFAULT_MODEL, check_shape, complete, laid_over, settings_of, tree_of
from lmlab.facade.prepare import (
    IN_HAND,
    Prepared,
    open_again,
    open_source,
    prepare,
    training_batches,
    validation_batches,
)
from lmlab.facade.text_model import TextModel
from lmlab.models.base import is_unnormalised
from lmlab.progress import Reporter, Silent, default_reporter
from lmlab.tokens.base import Tokenizer
from lmlab.training.ranks import Ranks, joined

if TYPE_CHECKING:
    from lmlab.tokens.batches import Epoch
    from lmlab.training.checkpoint import Checkpoint
    from lmlab.training.events import Listener

_MOST_NOTES = 5  # said of an estimation; the manifest keeps them all


def train(
    source: str | None = None,
    *,
    text: str | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    listeners: Sequence[Listener] = (),
    **named: Any,
) -> TextModel:
    """Train a model on a text; in all processes together where `torchrun` or the like started several.

    Args:
        source: a file, folder, named corpus, or "-" for standard input.
        text: the text itself, instead of a source.
        recipe: a named recipe, a TOML file, or a run to repeat.
        out: the model directory to write; None keeps the model in memory.
        seed: of everything random; None is the recipe's, else 0.
        settings: groups of settings, `{"model": {"layers": 2}}`.
        reporter: is told what goes on; None draws a bar in a terminal.
        listeners: receive the events of training.
        **named: `tokenizer`, `model`, `minutes`, `order`...: see `configure.tree_of`.

    Raises:
        LmlabError: see `lmlab.errors`.
    """
    began = time.perf_counter()
    reporter = reporter or default_reporter()
    base = load_recipe(recipe) if recipe else {}
    check_shape(base)
    tree = laid_over(base, merge(tree_of(base, **named), settings or {}))
    check_shape(tree)
    source = source or (tree.get("source") if text is None else None)
    if (source is None) == (text is None):
        raise UsageError("train needs one source of text", "name a file, a folder, a corpus or a recipe that does")
    if out is not None and Path(out).exists():
        raise RunExistsError(out)
    data = settings_of({"data": tree.get("data", {})}, "data")
    with joined() as ranks:
        if ranks.count > 1 and source == "-":
            raise UsageError("several processes cannot share standard input", "write the text to a file")
        if not ranks.first:
            out, reporter, listeners = None, Silent(), ()
        with ranks.in_turn():
            corpus = open_text(text, data) if text is not None else open_source(source or "", data, reporter)
            tree = with_kinds(tree, corpus)
            seed = tree.get("seed", 0) if seed is None else seed
            whole = complete(tree, source=_lasting(source) if source else IN_HAND, seed=seed)
            prepared = prepare(corpus, whole["tokenizer"], reporter)
        clock = Clock(began)
        if ranks.count == 1:
            whole, clock = planned(whole, tree, prepared, reporter, clock)
        return learn(prepared, whole, Path(out) if out is not None else None, reporter, listeners, ranks, clock)


def _lasting(source: str) -> str:
    """A source that can be found again from another folder: a path made absolute, a corpus's name as it is."""
    return source if source in CORPORA or not Path(source).exists() else str(Path(source).resolve())


def with_kinds(tree: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    """A tree in which model and tokenizer have their kinds: code tokens for records of tokens, else characters."""
    tokenizer = "code" if corpus.pretokenised else "char"
    return merge({"model": {"kind": DEFAULT_MODEL}, "tokenizer": {"kind": tokenizer}}, tree)


def learn(
    prepared: Prepared,
    whole: dict[str, Any],
    out: Path | None,
    reporter: Reporter,
    listeners: Sequence[Listener] = (),
    ranks: Ranks = Ranks(),  # noqa: B008  # frozen
    clock: Clock | None = None,
) -> TextModel:
    """Train one model on prepared data, with a whole configuration; minutes count from now or the clock."""
    whole = whole | {"vocab_size": prepared.tokenizer.vocab_size}
    manifest = store.new_manifest(whole, prepared.describe())
    family = registry.resolve("model", whole["model"]["kind"]).family
    if family == "counted":
        if ranks.count > 1:
            raise UsageError(f"a {whole['model']['kind']} is counted in one process", "start it without torchrun")
        return _count(prepared, whole, manifest, out, reporter)
    if family != "neural":
        raise UsageError(f"a {whole['model']['kind']} is not trained from text", "see `lmlab train --help` for models")
    return _fit(prepared, whole, manifest, out, reporter, listeners, ranks=ranks, clock=clock)


def resume(path: str | Path, reporter: Reporter | None = None, listeners: Sequence[Listener] = ()) -> TextModel:
    """Go on with a run that was stopped, to the same weights that it would have had.

    Raises:
        ArtifactError: there is no run to go on with.
        DataError: its text has changed.
    """
    from lmlab.training import checkpoint

    reporter, folder = reporter or default_reporter(), Path(path)
    manifest, whole = store.read_manifest(folder), store.read_json(folder / store.CONFIG)
    if manifest["status"] in ("done", "early"):
        reporter.say(f"{folder} is finished; nothing is left to do")
        return TextModel.load(folder)
    with joined() as ranks:
        with ranks.in_turn():
            corpus = open_again(whole["source"], settings_of(whole, "data"), manifest, reporter)
            prepared = prepare(corpus, whole["tokenizer"], reporter)
        if not ranks.first:
            reporter, listeners = Silent(), ()
        return _fit(
            prepared,
            whole,
            manifest,
            folder if ranks.first else None,
            reporter,
            listeners,
            checkpoint.newest(folder),
            resumed=True,
            ranks=ranks,
        )


# -- counted models ---------------------------------------------------------------------------------------------------


def _count(
    prepared: Prepared, whole: dict[str, Any], manifest: dict[str, Any], out: Path | None, reporter: Reporter
) -> TextModel:
    model_class = registry.resolve("model", whole["model"]["kind"])
    began = time.perf_counter()
    ids_N = prepared.stores["train"].ids
    with reporter.stage("counting") as advance:
        model = model_class.estimate(settings_of(whole, "model"), prepared.tokenizer.vocab_size, ids_N)
        advance(len(ids_N))
    seconds = time.perf_counter() - began
    notes = list(getattr(model, "notes", ()))
    for note in notes[:_MOST_NOTES]:
        reporter.say(note)
    if len(notes) > _MOST_NOTES:
        reporter.say(f"and {len(notes) - _MOST_NOTES} notes more, all in the manifest")
    manifest["results"] = {"train_seconds": seconds, "notes": notes, **_held_out(model, prepared, reporter)}
    manifest["status"] = "done"
    lm = TextModel(model, prepared.tokenizer, whole, manifest, held_out=prepared.stores)
    if out is not None:
        lm.save(out)
    return lm


def _held_out(model: Any, prepared: Prepared, reporter: Reporter) -> dict[str, Any]:
    """The figures on the validation split, where there is one and the model has probabilities."""
    if "valid" not in prepared.stores or is_unnormalised(model):
        return {}
    tokens = prepared.validation()
    with reporter.stage("scoring the validation split", tokens.tokens, " tokens") as advance:
        return {"valid": vars(scoring.evaluate(model, tokens, advance))}


# -- trained models ---------------------------------------------------------------------------------------------------


def _fit(
    prepared: Prepared,
    whole: dict[str, Any],
    manifest: dict[str, Any],
    out: Path | None,
    reporter: Reporter,
    listeners: Sequence[Listener] = (),
    checkpoint: Checkpoint | None = None,
    *,
    resumed: bool = False,
    ranks: Ranks,
    clock: Clock | None = None,
) -> TextModel:
    import torch

    from lmlab.training.fit import Fit

    settings, seed = settings_of(whole, "train"), whole["seed"]
    if settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise MissingExtraError("TensorBoard", "tensorboard")
    model_class = registry.resolve("model", whole["model"]["kind"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(settings_of(whole, "model"), prepared.tokenizer.vocab_size)
    batches = training_batches(prepared.stores["train"], settings, seed)
    validation = validation_batches(prepared.stores.get("valid"), batches, settings)
    if ranks.first and settings.baseline and "baselines" not in manifest["results"]:
        manifest["results"]["baselines"] = _baselines(prepared, whole, reporter)
        expect(manifest["results"], clock, reporter)
    if out is not None and not resumed:
        with disk.atomic_folder(out) as folder:
            store.write_description(folder, prepared.tokenizer, whole, manifest)
    run = Fit(
        model=model,
        batches=batches,
        settings=settings,
        seed=seed,
        run=out,
        validation=validation,
        resume=checkpoint,
        listeners=[reporter.event, *_recorders(out, checkpoint, settings), *listeners],
        sample=_sampler(prepared.tokenizer, seed),
        ranks=ranks,
        spent=time.perf_counter() - clock.began if clock is not None else 0.0,
        afterwards=prepared.validation_tokens + _calibration_tokens(prepared, settings),
    )
    try:
        outcome = run.go()
    finally:
        reporter.rest()
    decided = ("plan", "precision", "threads", "parts", "validation_tokens")  # with these the run repeats bit for bit
    whole["train"] = {**whole["train"], **{name: getattr(outcome.progress, name) for name in decided}}
    manifest["config"] = whole
    manifest["status"] = outcome.reason
    manifest["results"] |= {
        "train_seconds": outcome.progress.seconds,
        "steps": outcome.progress.step,
        "tokens_seen": outcome.progress.tokens,
        "parameters": model.parameter_count,
        "best_step": outcome.progress.best_step,
        "processes": ranks.count,
    }
    if outcome.reason != "interrupted" and ranks.first:
        manifest["results"]["sharpness"] = _sharpened(model, settings.sharpness, validation, out, reporter)
        manifest["results"] |= _held_out(model, prepared, reporter)
    if out is not None:
        disk.write_json(out / store.CONFIG, whole)
        disk.write_json(out / store.MANIFEST, manifest)
    return TextModel(model, prepared.tokenizer, whole, manifest, out, prepared.stores)


def _calibration_tokens(prepared: Prepared, settings: Any) -> int:
    """How many tokens are read again to fit the sharpness."""
    from lmlab.training.calibrate import ENOUGH, READINGS

    return READINGS * min(ENOUGH, prepared.validation_tokens) if settings.sharpness is None else 0


def _sharpened(
    model: Any, sharpness: float | None, validation: Epoch | None, out: Path | None, reporter: Reporter
) -> float:
    """The sharpness that is named, or suits the validation split, in the model and in its weights' file."""
    from lmlab.training.calibrate import calibrate
    from lmlab.training.checkpoint import keep_weights

    if sharpness is not None:
        model.temperature = 1 / sharpness
    elif validation is not None:
        before, after = calibrate(model, validation)
        if model.temperature != 1:
            reporter.say(f"logits times {1 / model.temperature:.3f}: {before:.4f} -> {after:.4f} nats/token held out")
    if model.temperature != 1 and out is not None:
        keep_weights(model, out)
    return float(1 / model.temperature)


def _baselines(prepared: Prepared, whole: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """What an n-gram and xz make of the validation split."""
    from lmlab.training.baseline import ngram_baseline, xz_bits_per_byte

    if "valid" not in prepared.stores:
        return {}
    with reporter.stage("fitting the n-gram baseline"):
        baseline = ngram_baseline(
            prepared.stores["train"], prepared.validation(), whole["tokenizer"]["kind"], prepared.tokenizer.vocab_size
        )
        xz = xz_bits_per_byte(
            prepared.corpus.text("train", max_bytes=8 << 20), prepared.corpus.text("valid", max_bytes=4 << 20)
        )
    reporter.say(
        f"baseline on the validation split: {baseline.order}-gram {baseline.report.nats_per_token:.4f} nats/token, "
        f"{baseline.report.bits_per_byte:.3f} bits/byte in {baseline.seconds:.1f} s; xz {xz:.3f} bits/byte"
    )
    ngram = {"order": baseline.order, "seconds": baseline.seconds, **vars(baseline.report)}
    return {"ngram": ngram, "xz": {"bits_per_byte": xz}}


def _recorders(out: Path | None, checkpoint: Checkpoint | None, settings: Any) -> list[Listener]:
    """Who writes down what happens: metrics, the learning curve, TensorBoard."""
    if out is None:
        return []
    from lmlab.plots import LiveCurve
    from lmlab.training.events import MetricsFile, TensorBoard

    _forget_after(out / store.METRICS, checkpoint.counters["step"] if checkpoint else 0)
    recorders: list[Any] = [MetricsFile(out / store.METRICS), LiveCurve(out / store.METRICS, out / store.CURVE)]
    if settings.tensorboard:
        recorders.append(TensorBoard(out / "tensorboard"))
    return recorders


def _forget_after(metrics: Path, step: int) -> None:
    """Drop from the metrics what a stopped run wrote after its last checkpoint, and its end: they will happen again."""
    if not metrics.is_file():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
            if event["step"] <= step and event["event"] != "ended":
                kept.append(line + "\n")
        except ValueError:
            continue  # the line that the kill cut short
    disk.write_file(metrics, "".join(kept))


def _sampler(tokenizer: Tokenizer, seed: int) -> Callable[[Any], str]:
    from lmlab.decoding import Sample, decode, finish

    def sample(model: Any) -> str:
        strategy = Sample(temperature=0.8, seed=seed)
        (branch,) = finish(decode(model, [], strategy, n=1, max_tokens=120))
        return tokenizer.decode(branch.ids())

    return sample


# -- several models ---------------------------------------------------------------------------------------------------


def compare(
    source: str,
    models: Sequence[str] = ("ngram", "cnn", "lstm"),
    *,
    seed: int = 0,
    out: str | Path | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    reporter: Reporter | None = None,
    **named: Any,
) -> list[TextModel]:
    """Train several kinds of model on the same tokens, each for the same budget.

    Args:
        source: a file, folder, named corpus, or "-".
        models: their kinds.
        seed: of each run.
        out: a new folder for the runs, one subfolder a model; None keeps none.
        settings: groups of settings for one kind: `{"ngram": {"model": {"order": 4}}}`.
        reporter: is told what goes on.
        **named: settings for all, as in `train`.

    Returns:
        A text model a model, whose `manifest["results"]["test"]` holds the figures of the test split.

    Raises:
        RunExistsError: `out` is already there.
        EmptyDataError: there is no held-out text to compare on.
        KeyboardInterrupt: one of them was interrupted; what it has is saved.
    """
    reporter = reporter or default_reporter()
    shared = tree_of(**named)
    _check_kinds(models)
    if out is not None and Path(out).exists():
        raise RunExistsError(out)
    data: DataSettings = settings_of({"data": shared.get("data", {})}, "data")
    corpus = open_source(source, data, reporter)
    if not (corpus.sizes["test"].documents or corpus.sizes["valid"].documents):
        raise EmptyDataError("there is no held-out text to compare on", "leave a share for it with --split")
    trees = []
    for kind in models:
        own = (settings or {}).get(kind, {})
        trees.append(with_kinds(merge(shared, {"model": {"kind": kind}, "train": {"baseline": False}}, own), corpus))
    wholes = [complete(tree, source=_lasting(source), seed=seed) for tree in trees]
    prepared = prepare(corpus, wholes[0]["tokenizer"], reporter)
    trained = []
    for kind, tree, whole in zip(models, trees, wholes, strict=True):
        reporter.say(f"{kind}:")
        whole, clock = planned(whole, tree, prepared, reporter, Clock(time.perf_counter()))
        lm = learn(prepared, whole, Path(out) / kind if out else None, reporter, clock=clock)
        if lm.manifest["status"] == "interrupted":
            raise KeyboardInterrupt
        lm.manifest["results"]["test"] = _test_figures(lm, prepared, reporter)
        trained.append(lm)
    return trained


def _check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        registry.resolve("model", kind)
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice or not kinds:
        raise UsageError(f"{twice} is named twice" if twice else "no model is named", "name each model once")


def _test_figures(lm: TextModel, prepared: Prepared, reporter: Reporter) -> dict[str, Any]:
    split = "test" if "test" in prepared.stores else "valid"
    tokens = prepared.stores[split]
    with reporter.stage("scoring the held-out split", tokens.tokens, " tokens") as advance:
        return {"split": split, **vars(scoring.evaluate(lm.model, tokens, advance))}
