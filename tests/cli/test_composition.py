"""--adapt and --mix, in the three verbs that have them."""

import shutil

import pytest

from lmlab.cli import main
from tests.cli.calls import call


@pytest.fixture(scope="module")
def kn(trained, tmp_path_factory):
    """A run of the same characters as runs/lstm, outside of its folder."""
    folder = tmp_path_factory.mktemp("kn") / "kn"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        assert (
            main(["train", "poem.txt", "--tokenizer", "char", "--order", "2", "--quiet", "--json", "-o", str(folder)])
            == 0
        )
    return folder


@pytest.fixture
def lmlab(here, kn, capsys):
    shutil.copytree(kn, here / "runs" / "kn")
    return lambda *words: call(capsys, *words, "--quiet")


def test_eval_says_what_it_did(lmlab):
    words = ["eval", "runs/lstm", "--adapt", "dynamic:segment=16", "--mix", "runs/kn", "--split", "test"]
    called = lmlab(*words, "--json")
    (figures,) = called.json
    protocol = figures["protocol"]
    assert set(protocol["adaptation"]["dynamic"]) == {"rule", "lr", "decay", "segment", "clip"}
    assert sum(part["weight"] for part in protocol["mixture"]) == pytest.approx(1)
    (plain,) = lmlab("eval", "runs/lstm", "--split", "test", "--json").json
    assert figures["nats_per_token"] < plain["nats_per_token"]
    assert "adaptation" not in plain["protocol"]
    shown = " ".join(lmlab(*words).out.split())
    assert "runs/lstm: adapted by dynamic (lr " in shown
    assert "each token predicted before it is learned from" in shown
    assert f"{protocol['mixture'][1]['weight']:.3f} runs/kn" in shown


def test_eval_composes_each_run(lmlab):
    figures = lmlab("eval", "runs/lstm", "runs/kn", "--mix", "runs/kn:0.25", "--json").json
    mixtures = [[part["weight"] for part in each["protocol"]["mixture"]] for each in figures]
    assert mixtures == [[0.75, 0.25], [0.75, 0.25]]
    (alone,) = lmlab("eval", "runs/kn", "--json").json
    assert figures[1]["total_nats"] == pytest.approx(alone["total_nats"])


def test_score_with_counts(lmlab):
    named = {"shortest": 1, "longest": 5, "discount": 0.7, "strength": 0.5, "weight": 0.3}
    counts = "counts:" + ",".join(f"{name}={value}" for name, value in named.items())
    scored = lmlab("score", "runs/lstm", "held-out.txt", "--adapt", counts, "--json").json
    plain = lmlab("score", "runs/lstm", "held-out.txt", "--json").json
    assert scored["protocol"]["adaptation"] == {"counts": named}
    assert scored["total_nats"] < plain["total_nats"]
    assert scored["scores"][-1]["cumulative_bits"] < plain["scores"][-1]["cumulative_bits"]


def test_generate_from_a_composition(lmlab):
    words = ["generate", "--prompt", "the ", "--seed", "1", "--max-tokens", "20", "--json"]
    mixed = lmlab(*words, "runs/lstm", "--mix", "runs/kn:1").json
    assert mixed[0]["text"] == lmlab(*words, "runs/kn").json[0]["text"]
    adapted = lmlab(*words, "runs/lstm", "--adapt", "dynamic:lr=0.1,decay=0,segment=2").json
    assert adapted[0]["text"] != lmlab(*words, "runs/lstm").json[0]["text"]


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--adapt", "dynamyc"], 2, "no adaptation is called 'dynamyc': did you mean 'dynamic'?"),
        (["--adapt", "dynamic:lr=x"], 2, "dynamic.lr is 'x', but must be a number >= 0"),
        (["--adapt", "dynamic:rate=1"], 2, "no setting of dynamic is called 'rate'"),
        (["--mix", "runs/kn:1.5"], 2, "the weight of runs/kn is '1.5', but must be a number >= 0 and <= 1"),
        (["--mix", "runs/kn:0.6", "--mix", "runs/kn:0.6"], 2, "the weights of --mix sum to 1.2"),
        (["--mix", "runs/kn3"], 2, "runs/kn3 has another vocabulary (word"),
        (["--mix", "runs/none"], 1, "runs/none is no model directory"),
    ],
)
@pytest.mark.parametrize("verb", [["eval", "runs/lstm"], ["score", "runs/lstm", "poem.txt"], ["generate", "runs/lstm"]])
def test_wrong_options_are_one_clear_line(lmlab, verb, options, code, named):
    called = lmlab(*verb, *options)
    assert (called.code, called.out) == (code, "")
    assert called.err.startswith(f"lmlab: {named}")
    assert called.err.count("\n") == 1


def test_a_counted_model_does_not_adapt(lmlab):
    called = lmlab("eval", "runs/kn", "--adapt", "dynamic")
    assert called.code == 2
    assert "--adapt dynamic needs a neural model, but this run's is ngram" in called.err
