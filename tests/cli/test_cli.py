"""The verbs as the issue writes them, each in this process, with small budgets."""

import io
import json
import math
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from lmlab.cli import VERBS, main, split_verb, verb_parser
from lmlab.cli.generate import strategy_of
from lmlab.seeing import WORDS
from tests.cli.calls import call, tiny
from tests.texts import PPMD, TEXT

EVAL_KEYS = {
    "run", "model", "tokens", "nats_per_token", "perplexity", "bits_per_char", "bits_per_byte", "unk_tokens",
    "total_nats", "protocol",
}  # fmt: skip


@pytest.fixture
def lmlab(here, capsys):
    return lambda *words: call(capsys, *words)


# -- help -------------------------------------------------------------------------------------------------------------


def test_the_overview_names_every_verb(lmlab):
    called = lmlab("--help")
    assert called.code == 0
    for verb, what in VERBS.items():
        word, _, name = verb.partition(" ")
        line = rf"{word} NAME +pictures: .*\b{name}\b.*" if word in WORDS else rf"{verb} +{re.escape(what)}"
        assert re.search(rf"^  {line}$", called.out, re.MULTILINE)
    assert "exit codes: 0" in called.out


def test_no_verb_is_wrong_usage(lmlab):
    called = lmlab()
    assert called.code == 2
    assert called.out.startswith("usage: lmlab VERB")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples_that_parse(verb, capsys):
    with pytest.raises(SystemExit) as left:
        main([*verb.split(), "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    examples = [shlex.split(line, comments=True) for line in out.split("examples:\n")[1].splitlines()]
    assert examples
    for words in examples:
        named, rest = split_verb(words[words.index("lmlab") + 1 :])
        assert named == verb
        verb_parser(verb).parse_args(rest)
    if not verb.startswith("kenlm "):  # they have KenLM's options
        assert all(option in out for option in ("--json", "--quiet", "--debug"))


def test_the_version(lmlab):
    assert re.fullmatch(r"lmlab \d+\.\d+\.\d+\n", lmlab("--version").out)


# -- train ------------------------------------------------------------------------------------------------------------


def test_train_a_neural_model(lmlab, here):
    called = lmlab("train", "poem.txt", "--tokenizer", "char", "--model", "lstm", *tiny(), "-o", "runs/new")
    assert called.code == 0
    assert "validation split of poem.txt" in called.out
    assert "saved in runs/new; its learning curve is curve.png there" in called.out
    assert "100 %" in called.err
    files = {path.name for path in (here / "runs/new").iterdir()}
    assert files >= {
        "manifest.json",
        "config.json",
        "token_counts.npy",
        "tokenizer.json",
        "model.safetensors",
        "metrics.jsonl",
        "curve.png",
    }


def test_train_shows_the_baselines_and_says_when_it_is_not_worth_it(lmlab):
    called = lmlab("train", "poem.txt", *tiny(), "--set", "train.baseline=true", "-o", "runs/new", "--quiet")
    assert "6-gram (baseline)" in called.out
    assert "The lstm is not yet worth its time: the n-gram is" in called.out


@pytest.mark.slow
def test_the_first_lines_of_the_issue(lmlab, here):
    """As written there, but for the minutes."""
    if not os.path.isfile(os.path.join(os.environ.get("LMLAB_DATA", ""), "tinyshakespeare.txt")):
        pytest.skip("LMLAB_DATA names no folder with tinyshakespeare.txt")
    line = "train tinyshakespeare --tokenizer char --model lstm --minutes 0.3 -o runs/shakespeare"
    assert lmlab(*line.split()).code == 0
    assert lmlab("eval", "runs/shakespeare", "--json").json[0]["bits_per_char"] < 4.5
    assert lmlab("generate", "runs/shakespeare", "--prompt", "ROMEO:", "--max-tokens", "20").out.startswith("ROMEO:")


def test_train_an_ngram(lmlab):
    called = lmlab(
        "train", "poem.txt", "--tokenizer", "word", "--model", "ngram", "--order", "5", "-o", "runs/kn5", "--json"
    )
    assert called.code == 0
    assert called.json["run"] == "runs/kn5"
    (again,) = lmlab("eval", "runs/kn5", "--split", "valid", "--json").json
    valid = {key: value for key, value in called.json["valid"].items() if key != "of_tokens"}
    assert {key: again[key] for key in valid} == valid
    assert 1 < again["perplexity"] < 4  # of the five names and five deeds of the text
    assert lmlab("info", "runs/kn5", "--json").json["config"]["model"]["order"] == 5


def test_train_from_standard_input(lmlab, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert lmlab("train", "-", "--model", "ngram", "-o", "runs/mine").code == 0
    data = lmlab("info", "runs/mine", "--json").json["data"]
    assert data["name"] == "standard input"
    assert sum(split["chars"] for split in data["splits"].values()) == len(TEXT)


def test_train_a_recipe_with_settings_on_top(lmlab, here):
    records = [{"code_tokens": ["def", "f", "(", ")", ":", "pass"], "partition": p} for p in ("train", "valid", "test")]
    (here / "code.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = ["--set", "model.layers=3", "--steps", "2", "--set", "train.baseline=false"]
    called = lmlab("train", "code.jsonl", "--recipe", "codesearchnet-cnn", *options, "-o", "runs/cnn")
    assert called.code == 0
    config = lmlab("info", "runs/cnn", "--json").json["config"]
    assert (config["model"]["kind"], config["model"]["layers"], config["model"]["channels"]) == ("cnn", 3, 100)
    assert (config["train"]["steps"], config["train"]["minutes"]) == (2, None)


def test_train_finds_a_free_name(lmlab):
    for name in ("runs/poem-ngram", "runs/poem-ngram-2"):
        assert f"saved in {name}\n" in lmlab("train", "poem.txt", "--order", "2").out


def test_resume_of_a_finished_run_says_so(lmlab):
    called = lmlab("train", "--resume", "runs/lstm")
    assert (called.code, "nothing is left to do" in called.err) == (0, True)


def test_resume_goes_on_as_it_was_or_not_at_all(lmlab):
    assert lmlab("train", "--resume", "runs/lstm", "--steps", "3", "--model", "lstm").code == 0
    called = lmlab("train", "--resume", "runs/lstm", "--steps", "4")
    assert called.code == 2
    assert "train.steps is 3 in runs/lstm, not 4" in called.err
    assert lmlab("train", "--resume", "runs/lstm", "-o", "runs/elsewhere").code == 2


# -- eval, score, compare, info, corpora ------------------------------------------------------------------------------


def test_eval_gives_an_object_a_run(lmlab):
    figures = lmlab("eval", "runs/lstm", "runs/kn3", "--on", "held-out.txt", "--json").json
    assert [each["run"] for each in figures] == ["runs/lstm", "runs/kn3"]
    assert [each["model"] for each in figures] == ["lstm", "ngram"]
    assert len({(each["chars"], each["bytes"], each["protocol"]["data_sha256"]) for each in figures}) == 1
    for each in figures:
        assert each.keys() >= EVAL_KEYS
        assert each["protocol"].keys() >= {"boundaries", "context", "unknown", "data_sha256"}
        assert each["nats_per_token"] == pytest.approx(each["total_nats"] / each["tokens"])


def test_eval_shows_one_table(lmlab):
    called = lmlab("eval", "runs/lstm", "runs/kn3", "--on", "held-out.txt")
    assert "held-out.txt, split all" in called.out
    assert re.search(r"^ +runs/lstm +\d", called.out, re.MULTILINE)
    assert "unknown tokens" in called.out


def test_the_table_of_eval_shows_what_its_json_says(lmlab):
    (figures,) = lmlab("eval", "runs/lstm", "--on", "poem.txt", "--json").json
    (row,) = (
        line.split() for line in lmlab("eval", "runs/lstm", "--on", "poem.txt").out.splitlines() if "runs/lstm" in line
    )
    names = ("nats_per_token", "perplexity", "bits_per_char", "bits_per_byte", "unk_tokens", "perplexity_unk_as_class",
             "tokens", "chars", "bytes")  # fmt: skip
    assert [float(cell.replace(",", "")) for cell in row[1:]] == [pytest.approx(figures[n], abs=5e-5) for n in names]
    assert len({figures[name] for name in ("bits_per_char", "bits_per_byte", "nats_per_token")}) == 3


def test_eval_reads_another_text_as_it_is_told(lmlab, here):
    (here / "papers.jsonl").write_text('{"title": "the cat", "summary": "saw a dog"}\n')
    called = lmlab("eval", "runs/kn3", "--on", "papers.jsonl", "--template", "{title} {summary}", "--json")
    assert called.json[0]["chars"] == len("the cat saw a dog")
    (here / "bad.txt").write_bytes(b"the cat \xff")
    assert lmlab("eval", "runs/kn3", "--on", "bad.txt").code == 1
    assert lmlab("eval", "runs/kn3", "--on", "bad.txt", "--errors", "replace").code == 0
    assert lmlab("eval", "runs/kn3", "--limit", "3").code == 2


def test_eval_of_runs_on_their_own_texts_says_that_they_differ(lmlab):
    lmlab("train", "held-out.txt", "--order", "2", "-o", "runs/other")
    called = lmlab("eval", "runs/kn3", "runs/other")
    assert "each on its own text" in called.out
    assert "poem.txt, split test" in called.out


def test_score_reads_standard_input(lmlab, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the cat\r\n")))
    scored = lmlab("score", "runs/lstm", "-", "--json").json
    assert "".join(row["text"] for row in scored["scores"]) == "the cat\n<eos>"
    assert scored["scores"][-1]["cumulative_bits"] == pytest.approx(scored["bits_per_char"] * scored["chars"])
    assert list(scored["scores"][0]) == [
        "document", "id", "sentence", "word", "start", "end", "text", "bits", "bits_without_spelling", "rank",
        "cumulative_bits", "unknown",
    ]  # fmt: skip


def test_score_shows_a_table(lmlab, here):
    (here / "poem").write_text("the cat\nsaw")
    out = lmlab("score", "runs/lstm", "poem").out
    assert len([line for line in out.splitlines() if re.search(r" (yes|no) +$", line)]) == 12
    assert r"\n" in out


def test_score_shows_as_much_as_can_be_read(lmlab, here):
    (here / "long.txt").write_text("the cat " * 200)
    out = lmlab("score", "runs/lstm", "long.txt").out
    assert len([line for line in out.splitlines() if re.search(r" (yes|no) +$", line)]) == 1000
    assert "601 rows more: write them all with -o FILE.csv" in out


UNITS = {
    "sentences.txt": "the cat saw.\nan owl\n\n the dog \n",
    "records.jsonl": '{"text": "the cat"}\n{"text": "an owl\\nsaw"}\n',
    "records.csv": "text,n\nthe cat,1\n",
    "folder/a.txt": "the cat",
}


@pytest.mark.parametrize("unit", ["document", "line", "record", "auto"])
@pytest.mark.parametrize("given", [[], ["--unit", "line"], ["--unit", "document"], ["--max-chars", "5"]], ids=str)
def test_score_reads_what_eval_reads(lmlab, here, unit, given):
    """Every unit that a run may have, and every source: the same documents, tokens and nats."""
    lmlab("train", "poem.txt", "--order", "2", "-o", f"runs/{unit}", "--unit", unit if unit != "record" else "auto")
    (here / "folder").mkdir()
    for name, text in UNITS.items():
        (here / name).write_text(text)
    for name in (*UNITS, "folder"):
        (figures,) = lmlab("eval", f"runs/{unit}", "--on", name, *given, "--json").json
        scored = lmlab("score", f"runs/{unit}", name, *given, "--json").json
        assert {**scored, "scores": 0} == {**{k: pytest.approx(v) for k, v in figures.items() if k != "protocol"},
                                           "protocol": figures["protocol"], "scores": 0}  # fmt: skip
        assert len(scored["scores"]) == figures["tokens"]


@pytest.mark.parametrize("unit", ["document", "line", "auto"])
def test_records_are_read_as_such_by_a_run_on_text(lmlab, here, unit):
    lmlab("train", "poem.txt", "--order", "2", "-o", "runs/text", "--unit", unit)
    (here / "records.jsonl").write_text(UNITS["records.jsonl"])
    assert lmlab("score", "runs/text", "records.jsonl", "--json").json["chars"] == len("the catan owl\nsaw")
    raw = lmlab("score", "runs/text", "records.jsonl", "--unit", "line", "--json").json
    assert raw["chars"] == len(UNITS["records.jsonl"]) - 2


def test_score_sums_up_by_word_into_a_file(lmlab, here):
    (here / "a.txt").write_text("the cat. an owl")
    for by, rows in (("token", 16), ("word", 5), ("sentence", 2), ("document", 1)):
        called = lmlab("score", "runs/lstm", "a.txt", "--by", by, "-o", f"{by}.csv")
        assert called.code == 0
        assert f"{rows} rows written to {by}.csv" in called.out
        assert len((here / f"{by}.csv").read_text().splitlines()) == rows + 1
    assert lmlab("score", "runs/lstm", "a.txt", "--by", "line").code == 2
    called = lmlab("score", "runs/lstm", "a.txt", "-o", "a.tsv")
    assert (called.code, "is none of .csv, .jsonl, .parquet" in called.err) == (2, True)
    assert "scores" not in lmlab("score", "runs/lstm", "a.txt", "-o", "a.jsonl", "--json").json
    assert not (here / "a.tsv").exists()


@pytest.mark.parametrize("verb", [["eval", "runs/words", "--on"], ["score", "runs/words"]])
def test_what_unknown_words_cost_is_told_beside_what_they_would_as_a_class(lmlab, here, verb):
    lmlab("train", "poem.txt", "--tokenizer", "word", "--order", "2", "-o", "runs/words")
    (here / "rare.txt").write_text("the wombat saw an aardvark")
    out = " ".join(lmlab(*verb, "rare.txt").out.split())
    assert re.search(
        r"\d+ % of the bits spell 2 unknown of 6 tokens, so that figures compare between vocabularies", out
    )
    plain = lmlab(*verb, "rare.txt", "--no-spelling")
    assert "of the bits spell" not in plain.out
    figures = lmlab(*verb, "rare.txt", "--no-spelling", "--json").json
    figures = figures[0] if isinstance(figures, list) else figures
    assert figures["perplexity"] == figures["perplexity_unk_as_class"]
    assert "not comparable between vocabularies" in figures["protocol"]["unknown"]


def test_compare_shows_one_table_and_keeps_the_runs(lmlab, here):
    options = ["--steps", "2", "--set", "train.evaluations=1", "--set", "train.threads=1"]
    called = lmlab("compare", "poem.txt", "--models", "ngram,cnn,lstm", *options, "--order", "2", "-o", "runs/all")
    assert called.code == 0
    for kind in ("ngram", "cnn", "lstm"):
        assert re.search(rf"^ +{kind} +\d", called.out, re.MULTILINE)
    assert {path.name for path in (here / "runs/all").iterdir()} == {"ngram", "cnn", "lstm", "mixture", "curves.png"}
    assert lmlab("info", "runs/all/ngram", "--json").json["config"]["model"]["order"] == 2


def test_the_picture_of_compare_holds_the_unit_of_its_axis(lmlab, here, monkeypatch):
    """A counted model is a level beside curves that do not charge the spelling of unknown words."""
    drawn = []
    monkeypatch.setattr("lmlab.seeing.curves.draw_curves", lambda *given: drawn.append(given))
    (here / "rare.txt").write_text(TEXT + "".join(f"the cat saw word{n}.\n" for n in range(40)), encoding="utf-8")
    options = ["--tokenizer", "word", "--steps", "2", "--set", "train.evaluations=1", "--set", "train.threads=1"]
    called = lmlab("compare", "rare.txt", "--models", "ngram,rnn", *options, "--order", "2", "-o", "runs/all")
    assert called.code == 0
    *_, (curves, path, levels, title, rungs) = drawn  # before it, the live curves of the run
    valid = lmlab("eval", "runs/all/ngram", "--split", "valid", "--json").json[0]
    assert valid["unk_tokens"] > 0
    assert levels == {"ngram": pytest.approx(math.log(valid["perplexity_unk_as_class"]))}
    assert list(curves) == ["rnn"]
    assert len(curves["rnn"]["valid"]) == 1
    assert path == Path("runs/all/curves.png")
    assert title == "rare.txt, by word tokens"
    assert [rung.name for rung in rungs] == ["uniform", *PPMD, "ngram", "rnn", "mixture"]


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ("lstm", ("LSTM on poem.txt", "hidden 8", "parameters", "char, vocabulary", "3 steps", "passes over the text")),
        ("kn3", ("ngram on poem.txt", "3-gram, kneser-ney", "word, vocabulary")),
    ],
)
def test_info_tells_what_how_good_and_how_to_use_it(lmlab, run, told):
    out = lmlab("info", f"runs/{run}").out
    for part in (*told, "bits/byte, perplexity", "of the validation split", "MB on disk"):
        assert part in out, part
    assert len(out.splitlines()) < 16
    commands = [line.strip() for line in out.splitlines() if line.startswith("  lmlab ")]
    assert [command.split()[1] for command in commands] == ["generate", "eval"]
    for command in commands:
        assert lmlab(*shlex.split(command)[1:]).code == 0
    assert f'echo "any text" | lmlab score runs/{run} -' in out


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_info_of_a_run_that_is_not_finished_says_how_to_go_on(lmlab, here, status):
    from lmlab import store

    (here / "half").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (here / "half" / name).write_bytes((here / "runs/lstm" / name).read_bytes())
    manifest = store.read_manifest(here / "runs/lstm")
    store.sign(here / "half", manifest | {"status": status, "results": {}})
    out = lmlab("info", "half").out
    assert out.rstrip().endswith("use it:\n  lmlab train --resume half")
    assert status in out


def test_info_of_a_run_and_of_the_machine(lmlab):
    assert lmlab("info", "runs/lstm", "--json").json["status"] == "done"
    assert "config.model.hidden" in lmlab("info", "runs/lstm", "--settings").out
    assert "codesearchnet-cnn" in lmlab("info").out


def test_corpora_are_listed_and_described(lmlab, monkeypatch, here):
    monkeypatch.delenv("LMLAB_DATA", raising=False)
    rows = {row["name"]: row for row in lmlab("corpora", "--json").json}
    assert rows.keys() >= {"tinyshakespeare", "python-stdlib", "arxiv", "enwik8"}
    assert all(row["licence"] and row["rule"] for row in rows.values())
    assert rows["tinyshakespeare"]["where"] == "download"
    splits = lmlab("corpora", "poem.txt", "--json").json["splits"]
    assert sum(split["chars"] for split in splits if split["split"] != "all") == len(TEXT)


# -- generate ---------------------------------------------------------------------------------------------------------


def test_generate_as_the_issue_writes_it(lmlab):
    words = shlex.split(
        'generate runs/lstm --prompt "the" --strategy sample --temperature 0.8 --top-k 40 --top-p 0.95 -n 3 '
        "--max-tokens 20 --seed 1 --json"
    )
    texts = lmlab(*words).json
    assert len(texts) == 3
    assert all(text["tokens"] <= 20 and text["seed"] == 1 and text["prompt"] == "the" for text in texts)
    assert lmlab(*words).json == texts
    assert len({text["text"] for text in texts}) == 3  # drawn, each from a stream of its own
    assert lmlab(*words[:-2], "2", "--json").json != texts


def test_beams_come_best_first(lmlab):
    options = ["--prompt", "the cat", "--strategy", "beam", "--beams", "5", "-n", "5", "--max-tokens", "4"]
    texts = lmlab("generate", "runs/kn3", *options, "--json").json
    assert len({text["text"] for text in texts}) == 5
    means = [text["logp"] / (text["tokens"] + (text["end"] == "eos")) for text in texts]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize(
    ("options", "width"), [("", 5), ("-n 2", 5), ("-n 7", 7), ("--beams 3", 3), ("--beams 9 -n 7", 9)]
)
def test_a_beam_is_as_wide_as_asked_and_as_it_must_be(lmlab, options, width):
    asked = verb_parser("generate").parse_args(["runs/kn3", "--strategy", "beam", *options.split()])
    assert strategy_of(asked).width == width
    texts = lmlab("generate", "runs/kn3", "--strategy", "beam", *options.split(), "--max-tokens", "4", "--json").json
    assert len({text["text"] for text in texts}) == asked.n


def test_a_drawn_seed_is_told_and_repeats(lmlab):
    (first,) = lmlab("generate", "runs/lstm", "--max-tokens", "20", "--json").json
    (again,) = lmlab("generate", "runs/lstm", "--max-tokens", "20", "--json", "--seed", first["seed"]).json
    assert again == first


def test_several_texts_are_told_apart(lmlab):
    out = lmlab("generate", "runs/kn3", "--prompt", "the cat", "-n", "2", "--max-tokens", "3").out
    assert re.findall(r"^--- (\d) · \d tokens · log p -[\d.]+ nats · perplexity [\d.]+ · \w+$", out, re.MULTILINE) == [
        "1",
        "2",
    ]


def test_many_prompts_are_continued_each_as_alone(lmlab, here):
    (here / "openings.txt").write_text("the cat\n\nthe\n", encoding="utf-8")
    asked = ["generate", "runs/lstm", "--seed", "1", "--max-tokens", "12", "-n", "2", "--json"]
    together = lmlab(*asked, "--prompts", "openings.txt").json
    alone = [text for prompt in ("the cat", "", "the") for text in lmlab(*asked, "--prompt", prompt).json]
    assert [text["text"] for text in together] == [text["text"] for text in alone]


def test_only_what_was_asked_for_is_written(lmlab, here):
    (here / "schema.json").write_text('{"enum": [false]}', encoding="utf-8")
    (here / "cats.lark").write_text('start: "the " ("cat" | "owl")', encoding="utf-8")
    for flag, told, texts in (
        ("--regex", "the (cat|owl)", {"the cat", "the owl"}),
        ("--grammar", "cats.lark", {"the cat", "the owl"}),
        ("--json-schema", "schema.json", {"false"}),
    ):
        made = lmlab("generate", "runs/lstm", flag, told, "--strategy", "beam", "-n", "2", "--json").json
        assert {text["text"] for text in made} == texts


def test_the_trace_tells_what_each_processor_left(lmlab):
    words = "runs/kn3 --chain top_k=3,min_p=0.1 --trace --alternatives 2 --max-tokens 4 --seed 1"
    asked = ["generate", *words.split()]
    (text,) = lmlab(*asked, "--json").json
    for token in text["written"]:
        assert token["logp"] <= token["chain_logp"] <= 0
        assert [name for name, _, _ in token["trace"]] == ["top_k(top_k=3)", "min_p(min_p=0.1)"]
        assert token["trace"][0][1] == 3
        assert len(token["alternatives"]) == 2
    assert lmlab(*asked).out.count("top_k(top_k=3) left 3 tokens") == len(text["written"])


@pytest.mark.parametrize(
    "options",
    [
        "--strategy beam --top-k 3",
        "--strategy beam_sample --seed 1",
        "--strategy diverse_beam:groups=2,width=4 -n 2",
        "--strategy stochastic_beam -n 3",
        "--strategy constrained --must cat",
        "--strategy mbr:samples=4",
        "--strategy contrastive:alpha=0.5",
        "--strategy exact --chain top_k=1",
        "--strategy speculative --draft runs/lstm",
        "--strategy lookup --temperature 0.5",
    ],
)
def test_every_strategy_writes(lmlab, options):
    asked = ["generate", "runs/lstm", "--prompt", "the", "--max-tokens", "6", "--json", *options.split()]
    texts = lmlab(*asked).json
    assert texts
    assert "constrained" not in options or "cat" in texts[0]["text"]


def test_processors_keep_the_order_of_the_command_line(monkeypatch, lmlab):
    from lmlab.decoding import Sample

    seen = []
    monkeypatch.setattr(Sample, "search", lambda self, *_: seen.append(self.processors) or 1 / 0)
    orders = (["--top-p", "0.9", "--temperature", "2", "--top-k", "3"], ["--temperature", "2", "--top-p", "0.9"])
    for order in orders:
        with pytest.raises(ZeroDivisionError):
            lmlab("generate", "runs/kn3", *order, "--debug")
    assert [[type(each).__name__ for each in processors] for processors in seen] == [
        ["top_p", "temperature", "top_k"],
        ["temperature", "top_p"],
    ]


@pytest.mark.parametrize("run", ["runs/lstm", "runs/kn3"])
@pytest.mark.parametrize(
    "options",
    ["--strategy greedy", "--seed 3", r"--seed 3 --stop .\n", "--seed 4 --top-k 2 --temperature 3"],
)
def test_the_stream_prints_the_same(lmlab, run, options):
    asked = ["generate", run, "--prompt", "the cat", "--max-tokens", "40", *options.split()]
    assert lmlab(*asked, "--stream").out == lmlab(*asked).out


def test_a_beams_stream_ends_in_its_text(lmlab):
    asked = ["generate", "runs/kn3", "--prompt", "the cat", "--strategy", "beam", "--max-tokens", "5"]
    assert lmlab(*asked, "--stream").out.splitlines()[-1] == lmlab(*asked).out.replace("\n", "\\n")[:-2]


@pytest.mark.parametrize(
    ("mark", "meant"), [(r"\n", "\n"), (r"é\n", "é\n"), ("\\", "\\"), (r"\\n", r"\n"), (r"\x", r"\x")]
)
def test_a_stop_may_be_written_with_an_escape(mark, meant):
    from lmlab.cli.generate import unescaped

    assert unescaped(mark) == meant


# -- whatever is printed ----------------------------------------------------------------------------------------------


def test_json_alone_is_on_standard_output(lmlab):
    for words in (
        ["train", "poem.txt", "--order", "2", "-o", "runs/n", "--json"],
        ["train", "poem.txt", *tiny(), "-o", "runs/t", "--json"],
        ["compare", "poem.txt", "--models", "ngram", "--json"],
        ["corpora", "poem.txt", "--json"],
        ["info", "--json"],
    ):
        called = lmlab(*words)
        assert called.code == 0
        assert called.json


def test_quiet_is_quiet(lmlab):
    assert lmlab("train", "poem.txt", *tiny(), "-o", "runs/t", "--quiet").err == ""


def test_debug_shows_where_it_failed(here):
    from lmlab.errors import ArtifactError

    with pytest.raises(ArtifactError):
        main(["info", "nowhere", "--debug"])
