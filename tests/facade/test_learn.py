import gzip
import io
import json
import math
import os
import signal
import sys

import pytest

import lmlab
from lmlab import disk, registry
from lmlab.config import recipe_names
from lmlab.errors import EmptyDataError, HeldError, LmlabError, RunExistsError, UnknownNameError, UsageError
from lmlab.facade import figures
from lmlab.facade.compare import compare
from lmlab.kernels import engine
from lmlab.progress import Silent
from lmlab.training.events import Sampled
from tests.texts import QUICK, TEXT, TINY

SENTENCES = TEXT.splitlines()


class CtrlC(Silent):
    """Interrupts once, at a step."""

    def __init__(self, step):
        self._step = step

    def event(self, event):
        if self._step is not None and getattr(event, "step", 0) >= self._step:
            self._step = None
            os.kill(os.getpid(), signal.SIGINT)


class Compiles(Silent):
    """Has a loop compiled at each stage, and keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def stage(self, *title):
        for begins in (True, False):
            engine.note_compiling(begins=begins)
        return super().stage(*title)


def written(folder):
    """What a run's metrics say, but for the clock."""
    events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(event["event"], event["step"], event.get("train_nats", event.get("valid_nats"))) for event in events
            if event["event"] != "began"]  # fmt: skip


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def poem(tmp_path):
    path = tmp_path / "poem.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def sources(folder):
    """The same sentences in every container."""
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    with gzip.open(folder / "a.txt.gz", "wt", encoding="utf-8") as file:
        file.write(TEXT)
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in SENTENCES))
    (folder / "a.csv").write_text("text\n" + "".join(f'"{line}"\n' for line in SENTENCES), encoding="utf-8")
    (folder / "src").mkdir()
    for number in range(30):
        (folder / "src" / f"{number}.py").write_text("\n".join(SENTENCES[number * 5 : number * 5 + 5]))
    return {name: str(folder / name) for name in ("a.txt", "a.txt.gz", "a.jsonl", "a.csv", "src")}


@pytest.mark.parametrize("container", ["a.txt", "a.txt.gz", "a.jsonl", "a.csv", "src"])
@pytest.mark.parametrize("model", ["ngram", "lstm"])
def test_any_container_trains(tmp_path, container, model):
    settings = {"order": 3} if model == "ngram" else {**TINY, "steps": 12, "lr": 0.05}
    lm = lmlab.train(sources(tmp_path)[container], model=model, tokenizer="char", **settings)
    assert lm.manifest["status"] == "done"
    valid, splits = lm.manifest["results"]["valid"], lm.manifest["data"]["splits"]
    assert valid["nats_per_token"] < math.log(lm.tokenizer.vocab_size - 2)  # better than guessing
    assert valid["chars"] == splits["valid"]["chars"]
    line_ends = {"a.txt": 150, "a.txt.gz": 150, "src": 150 - 30}.get(container, 0)  # a record has none, a file no last
    assert sum(split["chars"] for split in splits.values()) == len(TEXT) - 150 + line_ends
    assert lm.config.source == str(tmp_path / container)


def test_text_in_hand_and_standard_input_train(monkeypatch):
    in_hand = lmlab.train(text=TEXT, model="ngram", order=3)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    piped = lmlab.train("-", model="ngram", order=3)
    assert in_hand.evaluate() == piped.evaluate() | {"protocol": in_hand.evaluate()["protocol"]}


def test_a_source_is_named_once(poem):
    with pytest.raises(UsageError, match="one source"):
        lmlab.train()
    with pytest.raises(UsageError, match="one source"):
        lmlab.train(poem, text=TEXT)


def test_text_in_hand_stands_in_for_a_recipes_source():
    lm = lmlab.train(text=TEXT, recipe="shakespeare-words-lstm", **QUICK)
    assert lm.config.tokenizer.kind == "word"
    assert lm.config.train.lr == 0.01


def test_one_run_has_one_process(tmp_path, poem):
    with disk.held(tmp_path / "run"):
        for begin in (lambda out: lmlab.train(poem, out=out, **TINY), lambda out: compare(poem, ["ngram"], out=out)):
            with pytest.raises(HeldError, match=f"run is in use by process {os.getpid()}"):
                begin(tmp_path / "run")
    lmlab.train(poem, out=tmp_path / "run", reporter=CtrlC(1), **TINY)
    with disk.held(tmp_path / "run"), pytest.raises(HeldError):
        lmlab.resume(tmp_path / "run")
    assert lmlab.resume(tmp_path / "run").manifest["status"] == "done"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poem.txt", "run"]


def test_what_is_there_is_never_overwritten(tmp_path, poem):
    out = tmp_path / "run"
    lmlab.train(poem, model="ngram", order=2, out=out)
    before = sorted((file.name, file.read_bytes()) for file in out.iterdir())
    for model in ("ngram", "lstm"):
        with pytest.raises(RunExistsError, match="--resume"):
            lmlab.train(poem, model=model, out=out)
    assert sorted((file.name, file.read_bytes()) for file in out.iterdir()) == before


def test_a_run_repeats_bit_for_bit_from_its_own_directory(tmp_path, poem):
    first, again, other = tmp_path / "first", tmp_path / "again", tmp_path / "other"
    lm = lmlab.train(poem, model="gru", seed=5, out=first, **TINY)
    lmlab.train(recipe=str(first), out=again)
    lmlab.train(recipe=str(first), out=other, seed=6)
    assert weights(first) == weights(again)
    assert weights(first) != weights(other)
    repeated = lmlab.load(again).config.dump()
    assert set(repeated.pop("named")) >= {
        "train.lr",
        "model.hidden",
        "data.split",
        "source",
    }  # nothing is left to choose
    assert repeated == {name: value for name, value in lm.config.dump().items() if name != "named"}


@pytest.mark.slow
def test_a_timed_run_repeats_bit_for_bit_by_its_plan(tmp_path, poem):
    first, again = tmp_path / "first", tmp_path / "again"
    lmlab.train(poem, out=first, **{**TINY, "steps": None, "minutes": 0.03})
    lmlab.train(recipe=str(first), out=again)
    assert weights(first) == weights(again)


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, poem):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {**TINY, "steps": 8, "evaluations": 2, "dropout": 0.1}

    lmlab.train(poem, out=whole, **settings)
    stopped = lmlab.train(poem, out=broken, reporter=CtrlC(5), **settings)
    assert stopped.manifest["status"] == "interrupted"
    assert stopped.manifest["results"]["steps"] < 8
    assert lmlab.resume(broken).manifest["status"] == "done"
    assert weights(whole) == weights(broken)
    assert lmlab.resume(broken).manifest["results"]["steps"] == 8  # nothing is left to do
    assert written(broken) == written(whole)
    assert [what for what, _, _ in written(broken)].count("ended") == 1


DAMAGED = [b"\xff\xfe\n", b"[" * 10_000, b"[1]\n", b"{}\n", b'{"event": "stepped", "step": 1}\n', b'"step"\n',
           b'{"event": [], "step": "x"}\n', b"9" * 5000 + b"\n",
           b'{"event": "evaluated", "step": 1, "seconds": null}\n']  # fmt: skip


def test_damaged_metrics_do_not_block_a_resume(tmp_path, poem):
    lmlab.train(poem, out=tmp_path / "run", reporter=CtrlC(5), **{**TINY, "steps": 8, "evaluations": 2})
    metrics = tmp_path / "run" / "metrics.jsonl"
    for at, damage in enumerate(DAMAGED):
        lines = metrics.read_bytes().splitlines(keepends=True)
        metrics.write_bytes(b"".join([*lines[:at], damage, *lines[at:]]))
    assert lmlab.resume(tmp_path / "run").manifest["status"] == "done"
    assert [step for what, step, _ in written(tmp_path / "run") if what == "stepped"][-3:] == [6, 7, 8]


def test_a_changed_text_is_not_gone_on_with(tmp_path, poem):
    out = tmp_path / "run"
    lmlab.train(poem, out=out, reporter=CtrlC(1), **TINY)
    with open(poem, "a") as file:
        file.write("more")
    with pytest.raises(lmlab.LmlabError, match="is not the text of this run"):
        lmlab.resume(out)


def test_nothing_is_written_where_a_setting_is_wrong(tmp_path, poem):
    for wrong in ({"hidden": 0}, {"seed": -1}, {"hidden": 8, "nope": 1}, {"split": "1,2,3"}, {"minutes": 1}):
        with pytest.raises(UsageError):
            lmlab.train(poem, out=tmp_path / "run", **{**TINY, **wrong})
        assert not (tmp_path / "run").exists()


def test_each_run_shows_an_ngram_beside(poem):
    results = lmlab.train(poem, **{**TINY, "baseline": True}).manifest["results"]
    assert results["baselines"]["ngram"]["nats_per_token"] < results["valid"]["nats_per_token"]
    assert results["baselines"]["ngram"]["tokens"] == results["valid"]["tokens"]
    assert list(results["baselines"]) == ["ngram"]  # no clock says that there are seconds for context mixing


def test_a_run_without_time_says_on_what_its_figures_are_taken_and_that_its_steps_are_few(tmp_path, monkeypatch):
    """The n-gram beside it is measured on the same tokens."""
    monkeypatch.setattr(figures, "LEAST_SCORED", 100)
    monkeypatch.setattr(figures, "_WORTH", -1e9)  # baselines although no time is left
    reporter = Compiles()
    results = lmlab.train(text=TEXT, reporter=reporter, **{**TINY, "steps": None, "minutes": 1e-6, "baseline": True})
    results = results.manifest["results"]
    assert 0 < results["valid"]["tokens"] < results["valid"]["of_tokens"]
    assert results["baselines"]["ngram"]["tokens"] == results["valid"]["tokens"]
    assert results["baselines"]["ngram"]["chars"] == results["valid"]["chars"]
    assert results["steps"] == 1
    assert results["notes"][0].startswith("too few steps to learn from (1, at ")
    assert "more minutes" in results["notes"][0]
    assert results["budget"]["steps_planned"] == 1
    assert results["budget"]["spent"] >= sum(results["budget"]["took"].values()) - 0.1
    assert sum("1 steps planned and 1 made" in said for said in reporter.said) == 1


def test_the_weights_kept_are_those_of_the_best_validation(tmp_path, poem):
    """A rate that is far too high makes every later evaluation worse than the first."""
    out = tmp_path / "run"
    lm = lmlab.train(poem, out=out, **{**TINY, "steps": 6, "evaluations": 6, "lr": 5.0, "warmup": 0.9})
    events = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evaluated = {event["step"]: event["valid_nats"] for event in events if event["event"] == "evaluated"}
    best = min(evaluated, key=evaluated.get)
    assert lm.manifest["results"]["best_step"] == best < 6
    assert lm.manifest["results"]["valid"]["nats_per_token"] < max(evaluated.values())


RECORDS = {
    "agnews-onehot-lstm": {"title": "The cat", "description": "sat on the mat"},
    "arxiv-cnn": {"title": "A proof", "abstract": "we show it"},
    "arxiv-lstm": {"title": "A proof", "abstract": "we show it"},
    "codesearchnet-cnn": {"code_tokens": ["def", "f", "(", "x", ")", ":", "return", "x"]},
    "codesearchnet-lstm": {"code_tokens": ["def", "f", "(", "x", ")", ":", "return", "x"]},
    "codesearchnet-ngram": {"code_tokens": ["def", "f", "(", "x", ")", ":", "return", "x"]},
}


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_runs(tmp_path, recipe):
    if recipe in RECORDS:
        path = tmp_path / "records.jsonl"
        records = [RECORDS[recipe] | {"partition": part} for part in ("train", "train", "valid", "test")]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    else:
        path = tmp_path / "poem.txt"
        path.write_text(TEXT)
    lm = lmlab.train(str(path), recipe=recipe, out=tmp_path / "run", **({} if "ngram" in recipe else QUICK))
    assert lm.manifest["status"] == "done"
    loaded = lmlab.load(tmp_path / "run")
    figures = loaded.evaluate()
    assert (
        figures["perplexity_unk_as_class"] < loaded.tokenizer.vocab_size - 2
    )  # better than guessing after three steps
    assert figures["total_nats"] == pytest.approx(lm.evaluate()["total_nats"], rel=1e-6)
    (written,) = loaded.generate("", lmlab.Sample(seed=1), max_tokens=3)
    assert (written.end, written.tokens) == ("length", 3) or (written.end == "eos" and written.tokens < 3)
    assert written == lm.generate("", lmlab.Sample(seed=1), max_tokens=3)[0]


def test_compare_measures_all_on_one_ruler(tmp_path, poem):
    out = tmp_path / "runs"
    models = compare(
        poem, ["ngram", "lstm"], out=out, settings={"ngram": {"model": {"order": 2}}, "lstm": {"model": {"hidden": 8}}},
        tokenizer="char", train={name: value for name, value in QUICK.items() if name != "baseline"},
    )  # fmt: skip
    figures = [lm.manifest["results"]["test"] for lm in models]
    assert [each["bytes"] for each in figures] == [figures[0]["bytes"]] * 3  # their mixture is the third
    assert figures[0]["split"] == "test"
    for lm, each in zip(models, figures, strict=True):
        kind = lm.config.model.kind
        assert lmlab.load(out / kind).evaluate()["total_nats"] == pytest.approx(each["total_nats"])
    assert models[0].config.model.settings.order == 2


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_what_is_trained_by_the_clock_is_planned_by_train_and_compare_alike(poem, kind):
    architecture = registry.resolve("model", kind)
    asked = {"tokenizer": "char", "minutes": 0.01, "train": {"samples": False, "baseline": False}}
    one, (other,) = lmlab.train(poem, model=kind, **asked), compare(poem, [kind], **asked)
    smallest = architecture.ladder[0]
    assert smallest.items() <= one.config.model.dump().items()
    assert smallest.items() <= other.config.model.dump().items()
    assert all(getattr(architecture.Settings(), name) > width for name, width in smallest.items())


def test_a_named_width_stands_where_others_are_planned(poem):
    asked = {"tokenizer": "char", "minutes": 0.01, "train": {"samples": False, "baseline": False}}
    planned = lmlab.train(poem, settings={"model": {"kind": "transformer", "width": 48, "dropout": 0.7}}, **asked)
    chosen = planned.config.model.dump()
    assert (chosen["width"], chosen["heads"], chosen["dropout"]) == (48, 6, 0.7)
    assert planned.config.train.lr != registry.resolve("model", "transformer").training_defaults["lr"]


@pytest.mark.parametrize("split", ["0.8,0.1,0.1", "0.9,0,0.1"])
def test_the_calibration_temperature_is_fitted_or_named_and_kept(tmp_path, poem, split):
    asked = {**TINY, "model": "lstm", "split": split}
    fitted = lmlab.train(poem, **asked, out=tmp_path / "fitted")
    named = lmlab.train(poem, **asked, calibration_temperature=2.0, out=tmp_path / "named")
    assert (fitted.model.temperature != 1) == ("valid" in fitted.manifest["data"]["splits"])
    for lm, name in ((fitted, "fitted"), (named, "named")):
        again = lmlab.load(tmp_path / name)
        assert again.model.temperature == lm.model.temperature == lm.manifest["results"]["calibration_temperature"]
    assert named.model.temperature == 2.0


def test_a_first_run_says_that_it_compiles_whatever_began_it(poem):
    for begin in (
        lambda reporter: lmlab.train(poem, model="ngram", order=2, reporter=reporter),
        lambda reporter: compare(poem, ["ngram"], reporter=reporter),
    ):
        reporter = Compiles()
        begin(reporter)
        assert sum("compiling loops" in said for said in reporter.said) == 1
        assert sum("compiling took" in said for said in reporter.said) == 1


def test_compare_scores_all_on_as_many_tokens_as_the_slowest_has_time_for(poem, monkeypatch):
    monkeypatch.setattr(figures, "LEAST_SCORED", 100)
    monkeypatch.setattr("lmlab.facade.compare._LEAST_SECONDS", 0.0)
    train = {name: value for name, value in QUICK.items() if name != "steps"} | {"minutes": 1e-6}
    models = compare(poem, ["ngram", "lstm"], settings={"lstm": {"model": {"hidden": 8}}}, train=train)
    tests = [lm.manifest["results"]["test"] for lm in models]
    assert tests[0]["tokens"] == tests[1]["tokens"] < tests[0]["of_tokens"]


def test_compare_refuses_before_it_trains(tmp_path, poem):
    for models, named, error in (
        (["ngram", "ngram"], {}, UsageError),
        ([], {}, UsageError),
        (["ngram", "nope"], {}, UnknownNameError),
        (["ngram", "lstm"], {"split": "none"}, EmptyDataError),
        (["ngram", "lstm"], {"train": {"minutes": -1}}, UsageError),
    ):
        with pytest.raises(error):
            compare(poem, models, out=tmp_path / "runs", **named)
        assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    with pytest.raises(RunExistsError):
        compare(poem, ["ngram"], out=tmp_path / "runs")


def test_compare_stops_where_it_is_interrupted(tmp_path, poem):
    train = {name: value for name, value in QUICK.items() if name != "baseline"}
    with pytest.raises(KeyboardInterrupt):
        compare(poem, ["lstm", "gru"], out=tmp_path / "runs", train=train, reporter=CtrlC(1))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lstm"]


def test_samples_go_on_from_the_prompt_as_many_as_asked(tmp_path):
    told = []
    lm = lmlab.train(
        text=TEXT,
        model="cnn",
        steps=2,
        evaluate_every=1,
        baseline=False,
        sample_prompt="the ",
        sample_temperature=0,
        sample_count=2,
        listeners=[told.append],
    )
    samples = [event for event in told if isinstance(event, Sampled)]
    assert [event.step for event in samples] == [0, 0, 1, 1, 2, 2]
    assert all(event.text.startswith("the ") for event in samples)
    fresh = lmlab.train(text=TEXT, model="cnn", steps=0, baseline=False, out=tmp_path / "fresh")
    assert fresh.manifest["results"]["steps"] == 0
    assert fresh.manifest["results"]["valid"]["nats_per_token"] > lm.manifest["results"]["valid"]["nats_per_token"]
    assert lmlab.train(text=TEXT, recipe=str(tmp_path / "fresh"), baseline=False).manifest["results"]["steps"] == 0


def test_what_a_program_holds_is_trained_on_and_evaluated():
    lm = lmlab.train(SENTENCES, model="ngram", order=3, split="none")
    file = lmlab.train(text="\n".join(SENTENCES), unit="line", model="ngram", order=3, split="none")
    assert lm.manifest["data"]["sha256"] == file.manifest["data"]["sha256"]
    assert lm.evaluate(on=["the cat"])["total_nats"] == lm.score("the cat").total["total_nats"]
    records = [{"title": "the", "body_": "cat"}]
    assert lm.score(on=records, data={"template": "{title} {body_}"}).total["nats_per_token"] == pytest.approx(
        lm.score("the cat").total["nats_per_token"]
    )
    words = lmlab.train([line.split() for line in SENTENCES], tokenizer="word", model="ngram", order=2, split="none")
    assert words.manifest["data"]["splits"]["train"]["documents"] == len(SENTENCES)
    for wrong in ([], [None], 3):
        with pytest.raises(LmlabError):
            lmlab.train(wrong, model="ngram", order=2)
    with pytest.raises(UsageError, match="a text and a source"):
        lmlab.train(SENTENCES, text=TEXT)
