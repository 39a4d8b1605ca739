"""Filtering gives each record the figures that `evaluate` gives its text alone."""

import json
import math

import numpy as np
import pytest

import lmlab
from lmlab.errors import DataError, LmlabError, SettingError, UnknownNameError, UsageError
from lmlab.facade.filter import BUCKETS, FIGURES
from tests.texts import TEXT

LINES = [*TEXT.splitlines()[:40], "zyx qqq", "é ☃", "x" * 400]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMLAB_CACHE", str(folder / "cache"))
        made = {"ngram": lmlab.train(text=TEXT, tokenizer="word", model="ngram", order=3)}
        made["cnn"] = lmlab.train(text=TEXT, model="cnn", steps=3, baseline=False)
        made["ngram"].save(folder / "run")
        yield made


@pytest.mark.parametrize("spelling", [True, False])
@pytest.mark.parametrize("model", ["ngram", "cnn"])
def test_figures_are_those_of_evaluate(models, model, spelling):
    lm = models[model]
    found = list(lm.filter(LINES, spelling=spelling))
    assert [record["text"] for record in found] == LINES
    for record in found:
        total = lm.score(record["text"], spelling=spelling).total
        assert record["perplexity"] == pytest.approx(total["perplexity"], rel=1e-4)
        assert record["bits_per_byte"] == pytest.approx(total["bits_per_byte"], rel=1e-4)
        assert record["length"] == total["tokens"] - 1


def test_bounds_are_kept(models):
    everything = list(models["ngram"].filter(LINES))
    for by in FIGURES:
        middle = sorted(record[by] for record in everything)[20]
        for bounds, holds in (({"at_most": middle}, lambda v, m: v <= m), ({"at_least": middle}, lambda v, m: v >= m)):
            kept = list(models["ngram"].filter(LINES, by=by, **bounds))
            assert kept == [record for record in everything if holds(record[by], middle)]
            assert 0 < len(kept) < len(everything)


def test_buckets_are_quantiles_of_the_source_or_of_a_reference(models):
    lm = models["ngram"]
    everything = list(lm.filter(LINES))
    for reference in (None, LINES[:9]):
        values = [record["perplexity"] for record in lm.filter(reference or LINES)]
        edges = np.quantile(values, (0.3, 0.6))
        told = list(lm.filter(iter(LINES) if reference else LINES, reference=reference, keep=BUCKETS))
        assert [{k: v for k, v in record.items() if k != "bucket"} for record in told] == everything
        for record in told:
            assert record["bucket"] == BUCKETS[sum(record["perplexity"] >= edge for edge in edges)]
    head = list(lm.filter(LINES, cuts=(0.5, 0.5), keep="head"))
    assert len(head) == pytest.approx(len(LINES) / 2, abs=3)  # lines stand several times


def test_processes_give_the_same(models, monkeypatch):
    monkeypatch.setattr("lmlab.facade.filter._BATCH_RECORDS", 7)
    lm = lmlab.load(models["ngram"].folder)
    assert list(lm.filter(LINES, processes=2)) == list(lm.filter(LINES))
    broken = lm.filter([*LINES, None], processes=2)
    with pytest.raises(DataError, match=r"item 43 is None"):
        list(broken)
    next(started := lm.filter(LINES, processes=2))
    started.close()  # nothing is left running


def test_records_keep_their_fields(models):
    records = [{"id": n, "body": line, "perplexity": "old"} for n, line in enumerate(LINES[:3])]
    found = list(lmlab.filter(models["ngram"], records, data={"text_field": "body"}))
    assert [(record["id"], record["body"]) for record in found] == [(n, line) for n, line in enumerate(LINES[:3])]
    assert all(isinstance(record["perplexity"], float) for record in found)
    template = list(models["ngram"].filter(records, data={"template": "{id} {body}"}))
    assert template[2]["length"] == found[2]["length"] + 1


def test_frames_and_limits(models):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame({"body": LINES[:9], "n": range(9)})
    head = list(models["ngram"].filter(frame, keep="head", data={"text_field": "body"}))
    assert [record["n"] for record in head] == [
        n for n, line in enumerate(LINES[:9]) if line in {r["body"] for r in head}
    ]
    assert len(list(models["ngram"].filter(LINES, data={"limit": 3}))) == 3


def test_what_has_no_text_costs_its_end(models):
    (record,) = models["ngram"].filter([""])
    assert record["length"] == 0
    assert math.log2(record["perplexity"]) == pytest.approx(record["bits_per_byte"])


@pytest.mark.parametrize(
    ("source", "named", "error", "message"),
    [
        (LINES, {"by": "perplexed"}, UnknownNameError, "figure"),
        (LINES, {"keep": "heads"}, UnknownNameError, "bucket"),
        (LINES, {"cuts": (0.6, 0.3)}, SettingError, "cuts"),
        (LINES, {"cuts": 0.3}, SettingError, "cuts"),
        (LINES, {"cuts": (0.3,)}, SettingError, "cuts"),
        (LINES, {"at_most": "much"}, SettingError, "at_most"),
        (LINES, {"at_most": math.nan}, SettingError, "at_most"),
        (LINES, {"processes": 0}, SettingError, "processes"),
        (LINES, {"processes": 10**40}, SettingError, "at most 1,000"),
        (LINES, {"data": {"unit": "document"}}, UsageError, "records or lines"),
        (iter(LINES), {"keep": "head"}, UsageError, "read only once"),
        ("-", {"cuts": (0.1, 0.2)}, UsageError, "read only once"),
        ("none.txt", {}, DataError, "none.txt"),
        (["a", None], {}, DataError, "item 1 is None"),
        ([1], {}, DataError, "item 0 is 1"),
        (5, {}, SettingError, "iterable"),
        ([{"body_": "a"}], {}, DataError, "no field"),
    ],
)
def test_bad_input_is_told_in_a_line(models, source, named, error, message):
    with pytest.raises(error, match=message) as caught:
        list(models["ngram"].filter(source, **named))
    assert isinstance(caught.value, LmlabError)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_are_refused(models):
    with pytest.raises(UsageError, match="in a folder"):
        models["cnn"].filter(LINES, processes=2)
    with pytest.raises(UsageError, match="sum to one"):
        lmlab.train(text=TEXT, model="ngram", smoothing="stupid-backoff").filter(LINES)
    with pytest.raises(UsageError, match="learns"):
        models["cnn"].composed("counts:weight=0.1").filter(LINES)


def test_files_of_every_kind_come_out_as_they_went_in(models, tmp_path, capsys):
    from lmlab.cli import main

    run = str(models["ngram"].folder)
    records = [{"id": n, "text": line} for n, line in enumerate(LINES[:12])]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    expected = [record["text"] for record in models["ngram"].filter(records, at_most=6)]
    assert 0 < len(expected) < 12
    before = "in.jsonl"
    for name in ("a.csv", "a.tsv", "a.parquet", "a.jsonl", "a.txt"):
        assert main(["filter", run, str(tmp_path / before), "--at-most", "6", "-o", str(tmp_path / name)]) == 0
        assert f"{len(expected)} records" in capsys.readouterr().out
        before = name
    assert (tmp_path / "a.txt").read_text().splitlines() == expected
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "id,text,perplexity,bits_per_byte,length"
    assert main(["filter", run, str(tmp_path / "a.txt"), "--json", "-o", str(tmp_path / "b.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == len(expected)
    assert main(["filter", run, str(tmp_path / "in.jsonl"), "--keep", "head"]) == 0
    assert {json.loads(line)["bucket"] for line in capsys.readouterr().out.splitlines()} == {"head"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json"], "no -o is named"),
        (["-o", "out.jsonl.gz"], "packed"),
        (["-o", "."], "folder"),
        (["--cuts", "a"], "two shares"),
        (["--cuts", "0.9,0.1"], "cuts"),
        (["--keep", "first"], "bucket"),
    ],
)
def test_bad_flags_are_told_in_a_line(models, arguments, message, tmp_path, capsys, monkeypatch):
    from lmlab.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("a line\n")
    assert main(["filter", str(models["ngram"].folder), "in.txt", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_bad_record_leaves_the_old_file(models, tmp_path, capsys):
    from lmlab.cli import main

    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    (tmp_path / "out.jsonl").write_text("old")
    wrong = ["filter", str(models["ngram"].folder), str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl")]
    assert main(wrong) == 1
    assert "in.jsonl:2" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
