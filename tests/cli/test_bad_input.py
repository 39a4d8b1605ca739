"""Everything the issue calls bad input: one line with the value and a remedy, exit code 1 or 2, and nothing lost."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmlab import disk, store
from lmlab.cli import main
from tests.cli.calls import call, tiny
from tests.texts import TEXT


@pytest.fixture
def refused(here, capsys):
    """Calls, and holds the answer to the rules: exit code, one line, these words in it, nothing created or changed."""

    def check(code, words, *named):
        before = everything(here)
        called = call(capsys, *words, "--quiet")
        assert called.code == code, called.err
        assert called.err.startswith("lmlab: ")
        assert called.err.count("\n") == 1
        assert "Traceback" not in called.err
        assert called.out == ""
        for name in named:
            assert name in called.err
        assert called.err.count(": ") > 1 or "must be" in called.err, "it names no remedy"
        assert everything(here) == before

    return check


def everything(folder):
    """Every file below, links followed, and what it holds."""
    found = {}
    for root, folders, files in os.walk(folder, followlinks=True):
        for name in folders + files:
            path = Path(root, name)
            found[str(path)] = path.read_bytes() if path.is_file() and os.access(path, os.R_OK) else None
    return found


TEXTS = {
    "empty.txt": b"",
    "binary.dat": bytes(range(256)) * 40,
    "latin.txt": b"caf\xe9 noir\n" * 50,
    "nul.txt": b"some text\0more\n" * 50,
    "late-nul.txt": b"some text\n" * 2000 + b"\0\n" + b"some text\n" * 1000,
    "utf16.txt": "some text\n".encode("utf-16") * 50,
    "two.txt": b"ab",
    "short.txt": b"to be, or not to be, that is it\n",
    "newlines.txt": b"\n" * 12,
    "cut.txt.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "fake.gz": b"\x1f\x8b\x08this is no gzip",
    "bad.jsonl": b'{"text": "a"}\n{bad\n',
    "number.jsonl": b'{"text": 3}\n',
    "other.jsonl": b'{"title": "a"}\n',
    "list.jsonl": b"[1, 2]\n",
    "ragged.csv": b"text,b\nx,1\ny\n",
    "quote.csv": b'text\n"never closed\n',
}


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("missing.txt", ["'missing.txt'", "tinyshakespeare"]),
        ("empty.txt", ["empty.txt holds no text"]),
        ("binary.dat", ["binary.dat is binary", "NUL byte at offset 0"]),
        ("latin.txt", ["latin.txt is not UTF-8", "0xe9 at offset 3", "--errors replace"]),
        ("nul.txt", ["nul.txt", "NUL byte at offset 9"]),
        ("late-nul.txt", ["NUL byte at offset 20000", "--errors replace"]),
        ("utf16.txt", ["UTF-16", "iconv"]),
        ("two.txt", ["valid and test empty", "--split"]),
        ("newlines.txt", ["empty", "--split"]),
        ("cut.txt.gz", ["cut.txt.gz is cut off"]),
        ("fake.gz", ["fake.gz is damaged"]),
        ("bad.jsonl", ["bad.jsonl:2 is not JSON", "--unit line"]),
        ("number.jsonl", ["number.jsonl:1", "'text'", "--text-field"]),
        ("other.jsonl", ["no field 'text'", "title"]),
        ("list.jsonl", ["list.jsonl:1", "not an object"]),
        ("ragged.csv", ["ragged.csv:3 has 1 columns", "2 are expected"]),
        ("quote.csv", ["quote.csv:2 opens a quote that is never closed"]),
        ("nothing", ["nothing holds no text file"]),
        ("loop", ["'loop'"]),
    ],
)
@pytest.mark.parametrize("model", ["ngram", "lstm"])
def test_text_that_is_none(refused, here, name, named, model):
    if name in TEXTS:
        Path(name).write_bytes(TEXTS[name])
    Path("nothing").mkdir()
    Path("loop").symlink_to("loop")
    code = 2 if name in ("missing.txt", "loop") else 1
    refused(code, ["train", name, "--model", model, "-o", "runs/new"], *named)
    if name not in ("two.txt", "newlines.txt"):
        refused(code, ["score", "runs/lstm", name], *named)


@pytest.mark.parametrize("name", ["latin.txt", "late-nul.txt"])
def test_what_is_no_utf8_may_be_replaced(here, capsys, name):
    Path(name).write_bytes(TEXTS[name])
    assert call(capsys, "train", name, "--order", "2", "--errors", "replace", "-o", "runs/new").code == 0
    assert "\ufffd" in json.loads(Path("runs/new/tokenizer.json").read_text())["model"]["vocab"]
    Path(name).write_bytes(TEXTS[name][-400:] + b"\xff")
    assert call(capsys, "score", "runs/new", name, "--errors", "replace").code == 0


def test_empty_standard_input(refused, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    refused(1, ["train", "-", "-o", "runs/new"], "standard input holds no text")
    refused(1, ["score", "runs/lstm", "-"], "standard input holds no text")


def test_one_long_line(here, capsys):
    Path("long.txt").write_text("to be or not to be " * 55_000)
    assert call(capsys, "train", "long.txt", "--order", "3", "-o", "runs/new").code == 0
    (figures,) = call(capsys, "eval", "runs/new", "--on", "long.txt", "--json", "--quiet").json
    assert (figures["documents"], figures["chars"]) == (1, len("to be or not to be ") * 55_000)
    assert 1 < figures["perplexity"] < 2  # three characters nearly always tell the fourth


def test_text_shorter_than_a_window(refused):
    Path("short.txt").write_bytes(TEXTS["short.txt"])
    words = ["train", "short.txt", "-o", "runs/new", *tiny(), "--set", "train.batching=windows"]
    refused(1, words, "fewer than a window of 64", "train.length")


def test_an_empty_split(refused):
    refused(1, ["train", "poem.txt", "--split", "0,0.5,0.5", "-o", "runs/new"], "training split empty")
    records = [{"text": "the cat", "partition": part} for part in ("train", "test")]
    Path("a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    refused(1, ["train", "a.jsonl", "-o", "runs/new"], "valid empty", "--split none")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--model lsmt", ["no model is called 'lsmt'", "did you mean 'lstm'"]),
        ("--tokenizer chr", ["no tokenizer is called 'chr'", "did you mean 'char'"]),
        ("--recipe arxiv-cn", ["no recipe is called 'arxiv-cn'", "did you mean 'arxiv-cnn'"]),
        ("--recipe poem.txt", ["no recipe is called 'poem.txt'"]),
        ("--set model.hiden=3", ["no setting of model is called 'hiden'", "did you mean 'hidden'"]),
        ("--set modell.hidden=3", ["no group of settings is called 'modell'", "did you mean 'model'"]),
        ("--set hidden=3", ["group.name=value", "'hidden=3'"]),
        ("--set model.hidden", ["'model.hidden'"]),
        ("--set model.hidden=", ["hidden is ''"]),
        ("--set model.hidden=many", ["'many'", "an integer"]),
        ("--set model.layers=0", ["layers is 0", ">= 1"]),
        ("--set train.lr=inf", ["train.lr is inf", "finite"]),
        ("--set train.lr=nan", ["lr is nan"]),
        ("--set train.optimizer=adam", ["'adam'", "adamw"]),
        ("--set seed.x=1", ["seed is"]),
        ("--set source.x=1", ["source is"]),
        ("--minutes abc", ["minutes is 'abc'"]),
        ("--minutes nan", ["minutes is nan"]),
        ("--minutes inf", ["minutes is inf"]),
        ("--minutes 0", ["minutes is 0"]),
        ("--minutes -1", ["minutes is -1"]),
        ("--steps -1", ["steps is -1"]),
        ("--steps 1.5", ["steps is '1.5'"]),
        ("--epochs inf", ["epochs is inf"]),
        ("--steps 3 --minutes 1", ["one budget", "minutes and steps"]),
        ("--seed -1", ["seed is -1"]),
        ("--seed 99999999999999999999", ["seed is 99999999999999999999"]),
        ("--seed x", ["--seed", "'x'"]),
        ("--order 0", ["order is 0"]),
        ("--tokenizer word --set tokenizer.vocab_size=1", ["vocab_size is 1"]),
        ("--tokenizer bpe --set tokenizer.vocab_size=1", ["vocab_size is 1"]),
        ("--split 0.5,0.5,0.5", ["0.5,0.5,0.5", "sum to 1"]),
        ("--split nan,0,0", ["nan,0,0"]),
        ("--split half", ["'half'"]),
        ("--unit page", ["'page'", "document"]),
        ("--errors ignore", ["'ignore'", "replace"]),
        ("--limit 0", ["limit is 0"]),
        ("--max-chars x", ["max_chars is 'x'"]),
        ("--template {", ["template is '{'"]),
        ("--template plain", ["template is 'plain'"]),
        ("--nope", ["--nope", "--help"]),
        ("another.txt", ["another.txt"]),
    ],
)
def test_settings_that_cannot_be(refused, options, named):
    refused(2, ["train", "poem.txt", "-o", "runs/new", *options.split()], *named)


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ("[[", ["mine.toml cannot be read as a recipe"]),
        ('model = "lstm"', ["model is 'lstm'", "table"]),
        ("[nope]\nx = 1", ["'nope'"]),
        ("[model]\nhiden = 3", ["'hiden'", "did you mean 'hidden'"]),
        ("[model]\nkind = 3", ["model.kind is 3", "one of cache, cm, cnn"]),
        ("[model]\nlayers = [1]", ["model.layers is [1]"]),
        ("[train]\nsteps = 3.5", ["steps is 3.5"]),
        ("[train]\nbucket = 'maybe'", ["'maybe'"]),
        ("seed = 'x'", ["seed is 'x'"]),
        ("source = 3", ["source is 3"]),
        ("\0", ["cannot be read as a recipe"]),
    ],
)
def test_recipes_that_cannot_be(refused, recipe, named):
    Path("mine.toml").write_text(recipe)
    refused(2, ["train", "poem.txt", "--recipe", "mine.toml", "-o", "runs/new"], *named)


def test_a_recipe_in_json_must_be_an_object(refused):
    Path("mine.json").write_text("[1, 2]")
    refused(2, ["train", "poem.txt", "--recipe", "mine.json", "-o", "runs/new"], "recipe", "[1, 2]")
    Path("mine.json").write_text("{")
    refused(2, ["train", "poem.txt", "--recipe", "mine.json", "-o", "runs/new"], "mine.json")


def test_no_source_and_no_such_corpus(refused):
    refused(2, ["train"], "one source")
    refused(2, ["train", "tinyshakespear"], "did you mean 'tinyshakespeare'")
    refused(2, ["corpora", "tinyshakespear"], "did you mean 'tinyshakespeare'")
    refused(2, ["eval", "runs/lstm", "--on", "tinyshakespear"], "did you mean 'tinyshakespeare'")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--prompt ☃", ["'☃'", "--allow-unknown"]),
        ("--temperature -1", ["temperature is -1", ">= 0"]),
        ("--temperature nan", ["temperature is nan"]),
        ("--temperature inf", ["temperature is inf"]),
        ("--temperature hot", ["temperature is 'hot'"]),
        ("--top-p 0", ["top_p is 0", "> 0"]),
        ("--top-p 1.5", ["top_p is 1.5", "<= 1"]),
        ("--top-k 0", ["top_k is 0", ">= 1"]),
        ("--top-k 1.5", ["top_k is '1.5'"]),
        ("--min-p 2", ["min_p is 2"]),
        ("-n 0", ["n is 0", ">= 1"]),
        ("-n -1", ["n is -1"]),
        ("--max-tokens 0", ["max_tokens is 0", ">= 1"]),
        ("--stop=", ["stop is"]),
        ("--seed -1", ["seed is -1"]),
        ("--beams 0", ["width is 0"]),
        ("--beams 2 -n 3", ["n is 3", "width 2"]),
        ("--strategy beem", ["no strategy is called 'beem'", "did you mean 'beam'"]),
        ("--strategy greedy -n 2", ["n is 2"]),
        ("--strategy greedy --beams 3", ["--beams means nothing to --strategy greedy"]),
        ("--strategy beam:width=x", ["width is 'x'", ">= 1"]),
        ("--strategy beam:width", ["strategy is 'beam:width'", "NAME:SETTING=VALUE"]),
        ("--strategy constrained", ["must is", "one or more words"]),
        ("--strategy constrained --must ☃", ["'☃'"]),
        ("--strategy constrained --must cat --max-tokens 2", ["max_tokens is 2", "the longest word"]),
        ("--strategy contrastive --adapt counts:weight=0.1", ["contrastive search", "has none"]),
        ("--strategy speculative", ["draft is", "the same vocabulary"]),
        ("--strategy speculative --draft runs/kn3", ["draft is", "the same vocabulary"]),
        ("--strategy diverse_beam:width=5,groups=2", ["width is 5", "a multiple of the 2 groups"]),
        ("--strategy exact:readings=1", ["the 1 likeliest texts", "raise readings"]),
        ("--chain topk=3", ["no processor is called 'topk'", "did you mean 'top_k'"]),
        ("--chain top_k=3:4", ["the chain has 'top_k=3:4'"]),
        ("--chain top_k=0", ["chain.top_k is 0"]),
        ("--alternatives -1", ["alternatives is -1", ">= 0"]),
        ("--max-seconds -1", ["max_seconds is -1"]),
        ("--max-seconds nan", ["max_seconds is nan"]),
        ("--regex (", ["regex is '('", "unclosed group"]),
        ("--regex a --grammar poem.txt", ["regex and grammar was given"]),
        ("--grammar poem.txt", ["grammar is"]),
        ("--json-schema poem.txt", ["json_schema is", "must be JSON"]),
        ("--json-schema nowhere.json", ["--json-schema nowhere.json cannot be read"]),
        ("--prompts nowhere.txt", ["nowhere.txt cannot be read"]),
        ("--prompts poem.txt --prompt the", ["--prompt and --prompts"]),
        ("--prompts poem.txt --stream", ["--stream shows one text"]),
        ("--strategy sample --beams 3", ["--beams means nothing to --strategy sample"]),
        ("--stream -n 2", ["-n is 2"]),
    ],
)
def test_requests_that_cannot_be(refused, options, named):
    code = 1 if "exact" in options else 2
    refused(code, ["generate", "runs/lstm", *options.split()], *named)


@pytest.mark.parametrize(
    "options",
    [
        ["--top-k", "9999", "--top-p", "1", "--min-p", "1"],
        ["--beams", "500", "--max-tokens", "2"],
        ["--chain", "suppressed=" + " ".join(map(str, range(200)))],
        ["--regex", "the " * 262_144],
        ["--prompt", "the " * 300],
    ],
    ids=lambda options: options[0],
)
def test_bounds_that_cut_all_or_nothing_have_a_text(here, capsys, options):
    called = call(capsys, "generate", "runs/lstm", "--max-tokens", "9", *options, "--quiet")
    assert (called.code, called.err) == (0, "")


def test_a_regular_expression_of_a_megabyte_that_is_too_complex(refused, here, capsys):
    asked = ["generate", "runs/lstm", "--regex", "the" + "( the)?" * 140_000]
    refused(2, asked, "too many expressions", "make it simpler")
    assert len(call(capsys, *asked, "--quiet").err) < 400


def test_a_text_that_the_vocabulary_cannot_spell(refused):
    told = "no token goes on at the beginning as the grammar wants"
    refused(2, ["generate", "runs/lstm", "--regex", "☃"], told, "take a tokenizer of bytes")


def test_a_prompt_of_unknown_words(refused):
    refused(2, ["generate", "runs/kn3", "--prompt", "the wombat"], "'wombat'", "vocabulary", "--allow-unknown")


@pytest.mark.parametrize("verb", ["generate", "eval", "info", "score", "resume"])
@pytest.mark.parametrize("folder", ["nowhere", "empty", "poem.txt"])
def test_a_directory_that_is_no_model(refused, verb, folder):
    Path("empty").mkdir()
    words = {"score": ["score", folder, "poem.txt"], "resume": ["train", "--resume", folder]}
    refused(1, words.get(verb, [verb, folder]), folder, "no model directory")


HALF = {
    "model.safetensors": "",
    "config.json": "{",
    "manifest.json": '{"format": 1, "kind": "ls',
    "tokenizer.json": "[]",
}


@pytest.mark.parametrize("file", HALF)
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_half_a_model(refused, here, file, damage):
    shutil.copytree("runs/lstm", "runs/half")
    path = Path("runs/half") / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else HALF[file].encode())
    if damage == "missing":
        path.unlink()
    for words in (["generate", "runs/half"], ["eval", "runs/half"], ["score", "runs/half", "poem.txt"]):
        refused(1, words, "runs/half")


def test_weights_of_another_model(refused):
    shutil.copytree("runs/lstm", "runs/other")
    config = json.loads(Path("runs/other/config.json").read_text())
    config["model"]["hidden"] = 9
    Path("runs/other/config.json").write_text(json.dumps(config))
    refused(1, ["generate", "runs/other"], "runs/other")


@pytest.mark.parametrize("file", ["training.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_half_a_checkpoint(refused, file, damage):
    shutil.copytree("runs/lstm", "runs/half")
    manifest = json.loads(Path("runs/half/manifest.json").read_text())
    Path("runs/half/manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    (checkpoint,) = Path("runs/half/checkpoints").iterdir()
    content = (checkpoint / file).read_bytes()
    (checkpoint / file).unlink()
    if damage == "cut":
        (checkpoint / file).write_bytes(content[: len(content) // 2])
    refused(1, ["train", "--resume", "runs/half"], "runs/half")


def test_a_run_that_exists(refused):
    for options in (["--order", "2"], tiny(), ["--recipe", "runs/lstm"]):
        refused(2, ["train", "poem.txt", "-o", "runs/lstm", *options], "runs/lstm already exists", "--resume")
    refused(2, ["train", "poem.txt", "-o", "poem.txt"], "poem.txt already exists")
    refused(2, ["compare", "poem.txt", "--models", "ngram", "-o", "runs"], "runs already exists")
    refused(2, ["demo", "-o", "runs/lstm"], "runs/lstm already exists")


def test_a_place_that_cannot_be_written(refused):
    refused(1, ["train", "poem.txt", "--order", "2", "-o", "poem.txt/new"], "poem.txt/new cannot be written")
    refused(1, ["train", "poem.txt", *tiny(), "-o", "poem.txt/new"], "poem.txt/new cannot be written")


def test_a_file_that_may_not_be_read(refused, here):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    Path("poem.txt").chmod(0)
    refused(1, ["train", "poem.txt", "-o", "runs/new"], "poem.txt cannot be read", "permissions")
    refused(1, ["score", "runs/lstm", "poem.txt"], "poem.txt cannot be read", "permissions")


def test_a_folder_without_text_where_a_text_is_wanted(refused):
    refused(1, ["score", "runs/lstm", "runs"], "runs holds no text file")


def test_a_run_whose_text_is_gone(refused, here):
    shutil.copytree("runs/kn3", "runs/moved")
    config = json.loads(Path("runs/moved/config.json").read_text())
    for source, code, named in (("-", 2, "standard input"), ("/gone.txt", 2, "/gone.txt"), (str(here / "held-out.txt"), 1, "is not the text of this run")):  # fmt: skip # noqa: E501
        Path("runs/moved/config.json").write_text(json.dumps(config | {"source": source}))
        store.sign(Path("runs/moved"), store.read_manifest(Path("runs/moved")))
        refused(code, ["eval", "runs/moved"], named)


@pytest.mark.parametrize("options", [["--order", "2"], tiny()], ids=["ngram", "lstm"])
def test_no_space_left(refused, capsys, monkeypatch, options):
    """Told by the system where the model directory is about to appear."""

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    words = ["train", "poem.txt", *options]
    assert main([*words, "-o", "runs/before", "--quiet"]) == 0  # its tokens are in the cache then
    capsys.readouterr()
    monkeypatch.setattr(disk, "_sync", full)
    words += ["-o", "runs/new"]
    refused(1, words, "runs/new cannot be written (No space left on device)", "free some space")


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--order", "6"], ["--steps", "3"]], ids=["ngram", "lstm"])
def test_no_space_left_on_a_real_disk(here, capsys, options):
    place = here / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        called = call(capsys, "train", "poem.txt", "-o", "disk/new", "--quiet", *options)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert called.code == 1
    assert called.err.startswith("lmlab: disk/new")
    assert called.err.count("\n") == 1


def test_a_model_too_large_for_any_machine(refused):
    size = ["--set", "model.embedding=60000", "--set", "model.hidden=60000", "--set", "model.layers=200"]
    words = ["train", "poem.txt", "--model", "lstm", "--steps", "2", *size, "-o", "runs/new"]
    refused(2, words, "weights takes", "GiB of memory at least, but this machine has", "make the model smaller")


def test_training_that_diverges_keeps_the_last_good_weights(here, capsys):
    options = ["--set", "train.lr=1e30", "--set", "train.evaluations=3"]
    called = call(capsys, "train", "poem.txt", *tiny(), *options, "-o", "runs/new", "--quiet")
    assert called.code == 1
    assert called.err.count("\n") == 1
    assert "must be finite; the weights of the last checkpoint are kept: lower train.lr" in called.err


def test_names_with_spaces_and_more(here, capsys):
    name = "ein Gedicht\nüber 漢.txt"
    Path(name).write_text(TEXT, encoding="utf-8")
    assert call(capsys, "train", name, "--order", "2", "-o", "runs/der Lauf").code == 0
    (figures,) = call(capsys, "eval", "runs/der Lauf", "--json", "--quiet").json
    assert (figures["run"], figures["protocol"]["data"]) == ("runs/der Lauf", name)
    called = call(capsys, "train", "no such\nfile", "-o", "runs/new")
    assert called.err.count("\n") == 1


def test_a_mark_and_other_line_ends_do_not_matter(here, capsys):
    Path("dos.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    call(capsys, "train", "poem.txt", "--order", "2", "-o", "runs/unix")
    call(capsys, "train", "dos.txt", "--order", "2", "-o", "runs/dos")
    hashes = [json.loads(Path(f"runs/{name}/manifest.json").read_text())["data"]["sha256"] for name in ("unix", "dos")]
    assert hashes[0] == hashes[1]


def test_a_very_high_order_is_no_harm_and_few_words(here, capsys):
    Path("short.txt").write_bytes(TEXTS["short.txt"] * 4)
    called = call(capsys, "train", "short.txt", "--order", "60", "-o", "runs/new")
    assert called.code == 0
    assert called.err.count("\n") < 10
    levels = call(capsys, "ngram", "stats", "runs/new", "--json").json["ngrams"]
    assert len(levels) == 60
    assert all(levels)  # the text is longer than that
