"""What each plot says is so: its rows against the same figures found in another way."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

import lmlab
from lmlab.cli import main
from lmlab.models.mixture import Mixture
from lmlab.seeing.compare import _bootstrap
from tests import huggingface
from tests.seeing.test_pictures import LINES, PROMPT, TEXT, ngram, runs  # noqa: F401  fixtures

SAID = "the cat sat on the log.\nan owl saw naïve Zoë.\n"


@pytest.fixture(scope="module", params=["lstm", "ngram", "mixture"])
def lm(runs, request):  # noqa: F811
    return lmlab.load(runs / request.param)


def bits(picture):
    return math.fsum(row["bits"] for row in picture.rows)


def test_the_bits_of_a_heat_map_sum_to_what_eval_gives(lm, tmp_path, capsys):
    (tmp_path / "said.txt").write_text(SAID, encoding="utf-8")
    picture = lm.plot.surprisal(on=str(tmp_path / "said.txt"))
    main(["eval", str(lm.folder), "--on", str(tmp_path / "said.txt"), "--json"])
    nats = json.loads(capsys.readouterr().out)[0]["total_nats"]
    assert bits(picture) == pytest.approx(nats / math.log(2), rel=1e-7)  # a stored network steps in NumPy
    assert f"{nats / math.log(2):,.1f} bits" in picture.title
    assert "".join(row["token"] for row in picture.rows) == SAID + "<eos>"


def test_a_heat_map_is_a_page_that_tells_bits_rank_and_what_else_was_likely(runs, tmp_path):  # noqa: F811
    lm = lmlab.load(runs / "ngram")
    page = lm.plot.surprisal("the cat", k=2).save(tmp_path / "a.html").read_text()
    first = lm.next_tokens("", k=2)
    told = re.findall(r'title="([^"]+)"', page)
    assert len(told) == len("the cat") + 1
    assert all(f"{p:.1%} {token}" in told[0] for token, p in first.items())
    assert re.match(r"\d+\.\d\d bits, probability [\d.e-]+, rank \d+\s[\d.]+% ", told[0])


def test_the_terminal_shows_the_text_as_it_stands_in_colour(runs, tmp_path, capsys):  # noqa: F811
    (tmp_path / "said.txt").write_text(SAID, encoding="utf-8")
    assert main(["score", str(runs / "ngram"), str(tmp_path / "said.txt"), "--colour"]) == 0
    told = capsys.readouterr().out
    assert re.sub(r"\x1b\[[0-9;]*m", "", told).startswith(SAID)
    assert len(set(re.findall(r"48;5;(\d+)m", told))) > 2


def test_a_history_as_long_as_an_ngram_sees_is_all_it_uses(runs):  # noqa: F811
    lm = lmlab.load(runs / "ngram")
    rows = {row["history in tokens"]: row["bits/byte"] for row in lm.plot.context(longest=12, positions=50).rows}
    assert rows[0] > rows[1] > rows[2]
    assert all(rows[size] == pytest.approx(rows[2]) for size in rows if size > 2)


def test_the_whole_history_is_what_scoring_knows(runs):  # noqa: F811
    lm = lmlab.load(runs / "lstm")
    text = "a dog saw an owl"
    rows = lm.plot.context(on=[text], longest=len(text), positions=1).rows  # <eos> after all that stands before it
    last = lm.score(text).columns["bits"][-1]
    assert rows[-1]["bits/byte"] == pytest.approx(last / len(text) * (len(text) + 1), rel=1e-5)


def test_runs_of_different_tokenizers_stand_on_one_ruler(runs, ngram):  # noqa: F811
    lm, word = lmlab.load(runs / "ngram"), ngram
    picture = word.plot.context(lm, on=[TEXT], longest=4, positions=10_000)
    for name, each in (("kn", word), ("ngram", lm)):
        whole = each.evaluate([TEXT])["bits_per_byte"]
        found = [row["bits/byte"] for row in picture.rows if row["run"] == name][-1]
        assert found == pytest.approx(whole, rel=0.1), "but for the first tokens of the text"


def test_a_model_that_is_right_as_often_as_it_says_has_no_calibration_error(runs):  # noqa: F811
    lm = lmlab.load(runs / "ngram")
    picture = lm.plot.calibration(bins=4)
    assert sum(row["tokens"] for row in picture.rows) == lm.evaluate()["tokens"]
    error = sum(row["tokens"] * abs(row["mean p"] - row["right"]) for row in picture.rows) / lm.evaluate()["tokens"]
    assert picture.rows[0]["ECE of the run"] == pytest.approx(error)
    assert all(row["from"] <= row["mean p"] <= row["to"] for row in picture.rows)
    assert all(row["low"] <= row["right"] <= row["high"] for row in picture.rows)
    text, hits = lm.texts()[1], 0
    for at in range(len(text[0])):
        hits += next(iter(lm.next_tokens(text[0][:at], k=1))) == text[0][at]
    right = sum(round(row["tokens"] * row["right"]) for row in picture.rows)
    assert right - hits in (0, 1), "<eos> may be right too"


@pytest.mark.parametrize("unit", ["document", "sentence"])
def test_the_difference_of_two_runs_is_that_of_their_evaluations(runs, unit):  # noqa: F811
    first, second = (lmlab.load(runs / run) for run in ("lstm", "ngram"))
    texts = [line + "\n" for line in LINES.splitlines()[:40]]
    picture = first.plot.compare(second, on=texts, unit=unit, resamples=500)
    wanted = second.evaluate(texts)["bits_per_byte"] - first.evaluate(texts)["bits_per_byte"]
    row = picture.rows[0]
    assert row["bits/byte"] == pytest.approx(wanted, rel=1e-5)
    assert row["low"] < wanted < row["high"] < 0
    assert row[f"{unit}s"] == 40
    assert picture.rows == first.plot.compare(second, on=texts, unit=unit, resamples=500).rows


def test_the_bootstrap_has_the_width_of_theory_and_holds_the_truth():
    rng = np.random.default_rng(1)
    bits_D, bytes_D = rng.normal(2.0, 5.0, 400), np.full(400, 10)
    low, high = np.quantile(_bootstrap(bits_D, bytes_D, 4_000, 0), (0.025, 0.975))
    assert high - low == pytest.approx(2 * 1.96 * bits_D.std() / math.sqrt(400) / 10, rel=0.05)


def test_a_run_does_not_differ_from_itself(runs):  # noqa: F811
    lm = lmlab.load(runs / "ngram")
    row = lm.plot.compare(lm).rows[0]
    assert row["bits/byte"] == row["low"] == row["high"] == 0


def test_curves_are_what_the_run_wrote_in_bits_a_byte(runs):  # noqa: F811
    lm = lmlab.load(runs / "lstm")
    rows = lm.plot.curves(lmlab.load(runs / "ngram"), against="tokens").rows
    valid, results = [row for row in rows if row.get("valid bits/byte") is not None], lm.manifest["results"]
    assert {row["run"] for row in rows} == {"lstm", "6-gram baseline", "ngram"}
    by_run = {row["run"]: row["valid bits/byte"] for row in valid}
    assert by_run["6-gram baseline"] == results["baselines"]["ngram"]["bits_per_byte"]
    steps = [row for row in rows if row["run"] == "lstm"]
    assert steps[-1]["tokens"] == results["tokens_seen"]
    events = [json.loads(line) for line in (lm.folder / "metrics.jsonl").read_text().splitlines()]
    nats = [event["valid_nats"] for event in events if event["event"] == "evaluated"]
    figures = results["valid"]
    wanted = [each / math.log(2) * figures["tokens"] / figures["bytes"] for each in nats]
    assert [row["valid bits/byte"] for row in valid if row["run"] == "lstm"] == pytest.approx(wanted)


def test_counts_and_lines_of_ngrams_are_those_of_the_text(ngram):  # noqa: F811
    said = "the cat sat on the log."
    rows = ngram.plot.ngram(said).rows
    told = {row["token"]: row for row in rows}
    assert [row["order"] for row in rows] == [2, 3, 3, 3, 3, 3, 3, 3]
    assert (told["cat"]["count"], told["cat"]["of"]) == (1, 1), "after <bos> the, once"
    assert told["log"]["after"] == "on the"
    train = ngram.tokenizer.decode(ngram.held_out("train").document(0)[1:-1])
    assert told["log"]["count"] == train.count("on the log")
    assert told["log"]["of"] == train.count("on the")
    assert "on the log" in told["log"]["training line"]
    assert told["cat"]["training line"].startswith("<bos>the cat")
    assert bits(ngram.plot.ngram("the cat sat on the log.")) == pytest.approx(
        ngram.surprisal("the cat sat on the log.")
    )


def test_an_ngram_that_matched_has_the_probability_of_its_length(ngram):  # noqa: F811
    ids = np.array([2, *ngram.ids(PROMPT)])
    grams = {gram: logp for k in (1, 2, 3) for gram, logp, _ in ngram.model.items(k)}
    for at, order in list(enumerate(ngram.model.trie.matched(ids)))[1:]:
        assert tuple(ids[at - order + 1 : at + 1]) in grams
        assert order == 3 or tuple(ids[max(0, at - order) : at + 1]) not in grams or at - order < 0


def test_shares_of_a_mixture_follow_bayes_and_its_bits_are_its_own(runs):  # noqa: F811
    lm, parts = lmlab.load(runs / "mixture"), [lmlab.load(runs / run) for run in ("lstm", "ngram")]
    assert isinstance(lm.model, Mixture)
    picture = lm.plot.mixture(SAID)
    assert bits(picture) == pytest.approx(lm.surprisal(SAID), rel=1e-6)
    one, two = (part.score(SAID).columns["bits"] for part in parts)
    weight = lm.model.weights[0]
    for row, first, second in zip(picture.rows, one, two, strict=True):
        assert row["share of lstm"] + row["share of ngram"] == pytest.approx(1)
        joint = weight * 2**-first, (1 - weight) * 2**-second
        assert row["share of lstm"] == pytest.approx(joint[0] / sum(joint), rel=1e-4, abs=1e-9)
        assert row["weight of lstm"] == pytest.approx(weight)


def test_runs_are_mixed_for_a_picture_as_they_are_for_a_score(runs):  # noqa: F811
    lm, other = lmlab.load(runs / "lstm"), f"{runs / 'ngram'}:0.25"
    picture = lm.plot.mixture(SAID, mix=(other,))
    assert all(row["weight of ngram"] == pytest.approx(0.25) for row in picture.rows)
    assert bits(picture) == pytest.approx(lm.composed(mix=[other]).surprisal(SAID), rel=1e-6)


def test_ranks_and_coverage_are_those_of_the_text(ngram):  # noqa: F811
    rows = ngram.plot.zipf().rows
    train = ngram.held_out("train")
    words = ngram.tokenizer.decode(train.document(0)[1:-1]).replace(".", " . ").split()
    first = rows[0]
    assert first["rank"] == 1
    assert first["count"] == max(words.count(word) for word in set(words))
    assert first["covers of training"] == pytest.approx(first["count"] / len(words), rel=0.01)
    assert rows[-1]["covers of training"] == pytest.approx(1)


def test_texts_are_those_that_scoring_reads(runs, tmp_path):  # noqa: F811
    lm = lmlab.load(runs / "lstm")
    name, texts = lm.texts()
    assert name == "poem.txt, test split"
    assert lm.score(texts).total["total_nats"] == pytest.approx(lm.evaluate()["total_nats"], rel=1e-6)
    assert lm.texts(chars=10)[1] == [texts[0][:10]]
    assert lm.texts(on=["ab", "cd", "ef"], chars=3)[1] == ["ab", "c"]
    fresh = lmlab.train(text=TEXT, tokenizer="char", model="ngram", order=2)
    assert TEXT.endswith(fresh.texts()[1][-1])
    with pytest.raises(lmlab.errors.UsageError, match="from a program"):
        lmlab.train(text=TEXT, tokenizer="word", model="ngram", order=2).texts()


def test_the_slider_redraws_at_its_temperature(ngram):  # noqa: F811
    picture = ngram.plot.temperature(PROMPT, k=3)
    widget = picture.slider()
    slider, image = widget.children
    slider.value = 0.5
    assert image.value == ngram.plot.temperature(PROMPT, temperatures=(0.5,), k=3)._repr_png_()


def test_without_ipywidgets_the_slider_says_how_to_get_it(runs):  # noqa: F811
    code = (
        "import sys; sys.modules['ipywidgets'] = None; import lmlab\n"
        f"lm = lmlab.load({str(runs / 'ngram')!r})\n"
        "try: lm.plot.temperature('a').slider()\n"
        "except lmlab.errors.MissingExtraError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "lmlab[notebook]" in said


def test_a_hugging_face_model_stands_beside_our_own(runs, tmp_path, capsys):  # noqa: F811
    (tmp_path / "said.txt").write_text(SAID * 4, encoding="utf-8")
    hf, own, on = f"hf:{huggingface.save(tmp_path / 'tiny')}", str(runs / "ngram"), str(tmp_path / "said.txt")
    lm = lmlab.load(hf)
    assert bits(lm.plot.surprisal(SAID)) == pytest.approx(lm.surprisal(SAID), rel=1e-12)
    for words in ("context --longest 8 --positions 20", "calibration", "compare --unit sentence"):
        name, *flags = words.split()
        assert main(["plot", name, hf, own, "--on", on, *flags, "-o", str(tmp_path / f"{name}.svg")]) == 0
        assert name == "compare" or {"tiny", "ngram"} <= set(capsys.readouterr().out.split())
    for name, said in (("curves", "no learning curve"), ("zipf", "not kept"), ("context", "held no text out")):
        assert main(["plot", name, hf, "-o", str(tmp_path / "a.png")]) in (1, 2)
        told = capsys.readouterr().err.splitlines()
        assert said in told[-1]
        assert len(told) == 1
