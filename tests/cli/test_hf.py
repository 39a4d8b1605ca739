"""`hf:PATH` wherever a run is taken; without the extra, the line that installs it."""

import re
import sys

import pytest

import lmlab
from lmlab.errors import UsageError
from lmlab.models.hf import open_model
from lmlab.scoring import evaluate
from tests import huggingface
from tests.cli.calls import call


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    huggingface.transformers()
    folder = tmp_path_factory.mktemp("hf")
    huggingface.save(folder / "gpt2")
    huggingface.save(folder / "other", context=32, n_inner=8)
    return folder


@pytest.fixture
def name(saved, here):
    (here / "models").symlink_to(saved)
    return "hf:models/gpt2"


def test_without_the_extra_the_install_line_is_told(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    called = call(capsys, "eval", "hf:models/gpt2", "--on", "held-out.txt")
    assert (called.code, called.out) == (2, "")
    expected = "lmlab: a Hugging Face model needs a library that is not installed: pip install 'lmlab[hf]'\n"
    assert called.err == expected


def test_eval_and_score_agree_beside_a_run(name, here, capsys):
    (figures, run) = call(capsys, "eval", name, "runs/kn3", "--on", "held-out.txt", "--quiet", "--json").json
    assert figures["run"] == name
    assert figures["bytes"] == run["bytes"]
    assert "64 tokens" in figures["protocol"]["window"]
    whole = call(capsys, "eval", name, "--on", "held-out.txt", "--unit", "document", "--quiet", "--json").json[0]
    scored = call(capsys, "score", name, "held-out.txt", "--json").json
    assert scored["total_nats"] == pytest.approx(whole["total_nats"], rel=1e-4)
    assert "".join(row["text"] for row in scored["scores"][:5]) in (here / "held-out.txt").read_text()


def test_generate_streams_what_it_generates(name, capsys):
    words = ["generate", name, "--prompt", "the cat", "--seed", "1", "--max-tokens", "80"]  # beyond the window
    whole = call(capsys, *words)
    assert whole.code == 0
    assert call(capsys, *words, "--stream").out == whole.out
    assert call(capsys, *words[:-4], "--max-tokens", "20", "--beams", "3", "-n", "2").out.count("the cat") == 2


@pytest.mark.parametrize("strategy", ["sample:seed=1", "beam:width=3"])
def test_only_what_was_asked_for_is_written(name, here, capsys, strategy):
    pytest.importorskip("llguidance", reason="the extra grammar is not installed")
    (here / "schema.json").write_text('{"enum": ["Zoë", 1999]}', encoding="utf-8")
    asked = ["generate", name, "--prompt", "the cat", "--strategy", strategy, "--json"]
    (json, text) = (call(capsys, *asked, *words).json[0] for words in (
        ["--json-schema", "schema.json"],
        ["--regex", "( [0-9]{2}){3} and"],
    ))  # fmt: skip
    assert json["text"] in ('"Zoë"', "1999")
    assert re.fullmatch("( [0-9]{2}){3} and", text["text"])


def test_compare_scores_it_beside_what_is_trained(name, capsys):
    found = call(capsys, "compare", "poem.txt", "--models", f"ngram,{name}", "--quiet", "--json").json
    assert [each["model"] for each in found] == ["ngram", name]
    assert found[0]["bytes"] == found[1]["bytes"]
    assert call(capsys, "compare", "poem.txt", "--models", name, "--quiet").code == 2


def test_models_of_one_vocabulary_are_mixed(name, here, capsys):
    other = "hf:models/other"
    mixed, alone = (
        call(capsys, "eval", name, "--on", "held-out.txt", "--quiet", "--json", "--mix", mix).json[0]
        for mix in (f"{other}:0.5", f"{other}:0")
    )
    assert [part["weight"] for part in mixed["protocol"]["mixture"]] == [0.5, 0.5]
    plain = call(capsys, "eval", name, "--on", "held-out.txt", "--quiet", "--json").json[0]
    assert alone["total_nats"] == pytest.approx(plain["total_nats"], rel=1e-6)
    assert mixed["total_nats"] != plain["total_nats"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["eval", "NAME", "--on", "held-out.txt", "--mix", "hf:models/other"], "no validation split"),
        (["eval", "NAME", "--on", "held-out.txt", "--mix", "runs/kn3:0.5"], "has another vocabulary (word, "),
        (["eval", "runs/kn3", "--on", "held-out.txt", "--mix", "NAME:0.5"], "has another vocabulary (hf, "),
        (["eval", "NAME", "--on", "held-out.txt", "--adapt", "dynamic"], "needs a neural model"),
        (["eval", "NAME"], "held no text out"),
        (["eval", "hf:", "--on", "held-out.txt"], "lmlab: hf:"),
        (["ngram", "stats", "NAME"], "n-gram"),
        (["generate", "NAME", "--max-tokens", "0"], "max_tokens is 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told_in_a_line(name, capsys, words, told):
    called = call(capsys, *[word.replace("NAME", name) for word in words])
    assert called.code in (1, 2)
    assert called.err.startswith("lmlab: ")
    assert told in called.err
    assert called.err.count("\n") == 1


@pytest.mark.parametrize("damage", ["no tokenizer", "cut GGUF"])
def test_what_is_broken_is_told_in_a_line(here, capsys, damage):
    if damage == "no tokenizer":
        broken = huggingface.save(here / "broken")
        for path in broken.glob("tokenizer*"):
            path.unlink()
    else:
        broken = huggingface.save_gguf(here / "broken.gguf")
        broken.write_bytes(broken.read_bytes()[:4000])
    called = call(capsys, "generate", f"hf:{broken}")
    assert (called.code, called.out) == (1, "")
    assert called.err.startswith(f"lmlab: hf:{broken}")
    assert called.err.count("\n") == 1


def test_a_prompt_may_be_longer_than_the_window(name, capsys):
    called = call(capsys, "generate", name, "--prompt", "to and fro " * 30, "--max-tokens", "5", "--strategy", "greedy")
    assert called.code == 0, called.err


def test_info_tells_what_it_is(name, capsys):
    assert call(capsys, "info", name, "--json").json["architecture"] == "gpt2"


def test_it_is_not_saved_again(name, tmp_path):
    with pytest.raises(UsageError, match="is not kept again"):
        lmlab.load(name).save(tmp_path / "again")


def test_counts_of_the_text_adapt_it(name, capsys):
    adapted = call(capsys, "eval", name, "--on", "held-out.txt", "--adapt", "counts", "--quiet", "--json").json[0]
    plain = call(capsys, "eval", name, "--on", "held-out.txt", "--quiet", "--json").json[0]
    assert adapted["total_nats"] < plain["total_nats"]


def test_figures_are_those_of_the_model_alone(name):
    from lmlab.corpora.document import Document
    from lmlab.tokens.id_store import TokenStore

    model, tokenizer = open_model(name.removeprefix("hf:"))
    store = TokenStore.from_documents(tokenizer, [Document("the cat sat")])
    whole = evaluate(model, store).total_nats
    assert lmlab.load(name).score("the cat sat").total["total_nats"] == pytest.approx(whole)
