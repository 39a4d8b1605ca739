"""Encoding by shards: the ids of one process, byte for byte, whatever the shards, the workers and the accidents."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import lmlab
from lmlab.cli import main
from lmlab.corpora import DataSettings
from lmlab.disk import cache_dir
from lmlab.errors import (
    ArtifactError,
    DataError,
    EmptyDataError,
    LmlabError,
    RunExistsError,
    SettingError,
    UsageError,
    WorkerError,
)
from lmlab.facade import encode as room
from lmlab.facade.encode import ABOUT, Encoded, encode
from lmlab.integrity import signed
from lmlab.kernels import engine
from lmlab.progress import Silent
from lmlab.tokens.id_store import TokenStore
from tests.texts import some_text
from tests.training.test_parallel import torchrun

TEXT = some_text(150)
LINES = {"data.unit": "line"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def ids_of(*sources, out, **named):
    return encode(*sources, out=out, reporter=Silent(), **{"settings": LINES, **named})


def in_threads(*sources, out, shards, **named):
    with ThreadPoolExecutor(2) as executor:
        return ids_of(*sources, out=out, shards=shards, executor=executor, **named)


def by_hand(*sources, of, **named):
    return [ids_of(*sources, out=f"part-{n}", shard=(n, of), **named) for n in range(1, of + 1)]


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def same(one, other):
    found, expected = content(one), content(other)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


# -- the same ids

TOKENIZERS = [
    {},
    {"tokenizer.kind": "byte"},
    {"tokenizer.kind": "word", "tokenizer.vocab_size": 20},
    {"tokenizer.kind": "bpe", "tokenizer.vocab_size": 300},
]


@pytest.mark.parametrize(
    ("tokenizer", "lines", "of"),
    [*((tokenizer, 150, 3) for tokenizer in TOKENIZERS), ({}, 150, 1), ({}, 20, 25), (TOKENIZERS[3], 20, 25)],
)
def test_the_ids_of_one_process_and_of_train(here, tokenizer, lines, of):
    """Of 25 shards of 20 lines some are empty."""
    Path("text.txt").write_text(some_text(lines), encoding="utf-8")
    settings = LINES | tokenizer
    one = ids_of("text.txt", out="one", settings=settings)
    same(in_threads("text.txt", out="many", shards=of, settings=settings), one)
    assert not Path("many.shards").exists()
    lmlab.train("text.txt", unit="line", model="uniform", reporter=Silent(), settings=tables(tokenizer))
    (kept,) = (cache_dir() / "tokens").glob("*/train")
    for split in ("train", "valid", "test"):
        same(kept.with_name(split), one / split)


def tables(named):
    tokenizer = {path.partition(".")[2]: value for path, value in named.items()}
    return {"tokenizer": tokenizer} if tokenizer else {}


@pytest.mark.parametrize("of", [1, 2, 5])
def test_shards_by_hand_are_joined(here, of):
    one = ids_of("text.txt", out="one")
    parts = by_hand("text.txt", of=of)
    if of > 1:
        same(ids_of(*reversed(parts), out="many"), one)
    else:
        same(parts[0], one)


def sources(kind):
    lines = TEXT.splitlines()
    if kind == "records":
        Path("a.jsonl").write_text("".join(f"{json.dumps({'body': line, 'n': 1})}\r\n" for line in lines))
        return ["a.jsonl"], {"data.text_field": "body", "data.max_chars": 30}
    if kind == "lines with marks":
        Path("a.txt").write_text(
            "\ufeff" + "\n".join(["", *lines[:50], "\ufeffa", "  ", "BZh91AY&SY b", *lines[50:]]), "utf-8"
        )
        return ["a.txt"], LINES
    if kind == "several, one packed":
        Path("a.txt").write_text("\n".join(lines[:70]))
        Path("b.txt.gz").write_bytes(gzip.compress("\n".join(lines[70:110]).encode()))
        Path("c.txt").write_text("\n".join(lines[110:]))
        return ["a.txt", "b.txt.gz", "c.txt"], LINES
    if kind == "a folder":
        for number in range(90):
            Path("folder", str(number % 3)).mkdir(parents=True, exist_ok=True)
            Path("folder", str(number % 3), f"{number}.txt").write_text("\n".join(lines[number : number + 2]))
        Path("folder", "blank.txt").write_text("")
        return ["folder"], {}
    if kind == "one document":
        Path("a.txt").write_text(TEXT)
        return ["a.txt"], {"data.split": "none"}
    Path("a.csv").write_text("text,n\n" + "".join(f'"{line}",1\n' for line in lines))
    return ["a.csv"], {}


KINDS = ["records", "lines with marks", "several, one packed", "a folder", "one document", "a table"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_source(here, kind):
    texts, settings = sources(kind)
    one = ids_of(*texts, out="one", settings=settings)
    same(in_threads(*texts, out="many", shards=4, settings=settings), one)
    same(ids_of(*by_hand(*texts, of=2, settings=settings), out="joined"), one)
    if len(texts) == 1:
        data = {path.partition(".")[2]: value for path, value in settings.items()}
        lmlab.train(texts[0], model="uniform", reporter=Silent(), settings={"data": data})
        (kept,) = (cache_dir() / "tokens").glob("*/train")
        same(kept, one / "train")


def test_long_documents_are_encoded_in_the_same_pieces(here, monkeypatch):
    monkeypatch.setattr("lmlab.corpora.corpus.PIECE_CHARS", 50)
    Path("long.jsonl").write_text(
        "".join(json.dumps({"text": TEXT[i : i + 400]}) + "\n" for i in range(0, len(TEXT), 70))
    )
    one = ids_of("long.jsonl", out="one", settings={"tokenizer.kind": "bpe"})
    same(in_threads("long.jsonl", out="many", shards=7, settings={"tokenizer.kind": "bpe"}), one)


def test_the_vocabulary_of_a_sample_or_of_a_model(here):
    Path("sample.txt").write_text("".join(TEXT.splitlines(keepends=True)[:30]))
    sample = ids_of("sample.txt", out="sample", settings={**LINES, "tokenizer.kind": "word"})
    one = ids_of("text.txt", out="one", like=sample)
    assert content(one / "tokenizer") == content(sample / "tokenizer")
    same(in_threads("text.txt", out="many", shards=3, like=sample), one)
    lmlab.train("sample.txt", unit="line", tokenizer="word", model="ngram", out="run", reporter=Silent())
    assert content(ids_of("text.txt", out="other", like="run") / "train") == content(one / "train")


# -- trained from


def weights(run):
    from safetensors.numpy import load_file

    return load_file(Path(run, "model.safetensors"))


TRAINING = {"model": "rnn", "hidden": 16, "steps": 6, "seed": 1, "calibration_temperature": 1.0}


def test_training_from_the_ids_is_training_from_the_text(here):
    ids = in_threads("text.txt", out="ids", shards=3, settings={**LINES, "tokenizer.kind": "word"})
    with engine.only(kernels=False):  # which need not be compiled for this
        lm = lmlab.train(ids, out="from-ids", reporter=Silent(), **TRAINING)
        other = lmlab.train("text.txt", unit="line", tokenizer="word", out="from-text", reporter=Silent(), **TRAINING)
    for name, array in weights("from-text").items():
        assert np.array_equal(array, weights("from-ids")[name]), name
    told = [each.manifest["results"] for each in (lm, other)]
    for name in ("valid", "baselines"):
        assert {**told[0][name], "ngram": 0} == {**told[1][name], "ngram": 0}
    again = lmlab.load("from-ids").evaluate(split="test")["nats_per_token"]
    assert again == lmlab.load("from-text").evaluate(split="test")["nats_per_token"]


@pytest.mark.slow
def test_two_ranks_train_from_the_ids(here):
    ids = in_threads("text.txt", out="ids", shards=3)
    words = ["-m", "lmlab", "train", ids, "--model", "rnn", "--steps", "6", "--quiet"]
    words += [f"--set=model.{each}" for each in ("hidden=16", "dropout=0")]
    words += [
        f"--set=train.{each}" for each in ("batch_size=8", "length=16", "calibration_temperature=1.0", "precision=fp32")
    ]
    code, _, said = torchrun(*words, "-o", "two")
    assert code == 0, said
    subprocess.run([sys.executable, *map(str, words), "-o", "one"], check=True)
    one, two = weights("one"), weights("two")
    assert max(float(np.abs(one[name] - two[name]).max()) for name in one) < 1e-4


def test_other_settings_than_those_of_the_ids_are_refused(here):
    ids = ids_of("text.txt", out="ids", settings={**LINES, "tokenizer.kind": "word"})
    for named in (
        {"tokenizer": "char"},
        {"unit": "document"},
        {"split": "none"},
        {"settings": {"tokenizer": {"lower": True}}},
    ):
        with pytest.raises(UsageError, match="ids was encoded with"):
            lmlab.train(ids, model="ngram", reporter=Silent(), **named)
    lmlab.train(ids, model="ngram", reporter=Silent(), tokenizer="word", unit="line")
    with pytest.raises(UsageError, match=r"encoded with .* not with"):
        lmlab.compare(str(ids), models=["ngram"], tokenizer="char", minutes=0.1, reporter=Silent())


def test_text_that_changed_is_told_where_it_is_wanted(here):
    ids = ids_of("text.txt", out="ids")
    lm = lmlab.train(ids, model="ngram", out="run", reporter=Silent())
    Path("text.txt").write_text("another")
    with pytest.raises(DataError, match=r"text\.txt has changed since it was encoded into .*ids: encode it again"):
        list(Encoded.open(ids).corpus().documents("test"))
    Path("text.txt").unlink()
    with pytest.raises(DataError, match=r"text\.txt cannot be read"):
        lmlab.load("run").evaluate()
    assert lm.evaluate(split="test")["tokens"]  # who has just trained has the ids


# -- again, and accidents


def test_what_is_whole_is_not_encoded_again(here):
    parts = by_hand("text.txt", of=3)
    before = [(part / ABOUT).stat().st_mtime_ns for part in parts]
    by_hand("text.txt", of=3)
    assert [(part / ABOUT).stat().st_mtime_ns for part in parts] == before
    flip(parts[1] / "train" / "ids.bin")
    by_hand("text.txt", of=3)
    after = [(part / ABOUT).stat().st_mtime_ns for part in parts]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, True]
    Path("text.txt").write_text(TEXT.upper())
    by_hand("text.txt", of=3)
    assert (parts[0] / ABOUT).stat().st_mtime_ns != before[0]


def test_nothing_of_others_is_replaced(here):
    Path("mine").mkdir()
    for named in ({}, {"overwrite": True}, {"shards": 2}, {"shard": (1, 2)}):
        with pytest.raises(RunExistsError):
            ids_of("text.txt", out="mine", **named)
    ids = ids_of("text.txt", out="ids")
    with pytest.raises(RunExistsError):
        ids_of("text.txt", out="ids")
    before = content(ids)
    ids_of("text.txt", out="ids", overwrite=True, settings={**LINES, "tokenizer.kind": "byte"})
    assert content(ids) != before


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) * 2 // 3] ^= 4
    path.write_bytes(damaged)


def test_any_damage_is_told_in_a_line(here):
    """Of a part, where it is joined, and of the whole, where it is trained from."""
    parts = by_hand("text.txt", of=2)
    whole = ids_of(*parts, out="whole")
    for folder, use in (
        (parts[1], lambda: ids_of(*parts, out="run")),
        (whole, lambda: lmlab.train(whole, model="uniform", reporter=Silent())),
    ):
        for name, kept in content(folder).items():
            if folder == parts[1] and name.startswith("tokenizer"):
                continue  # that of the first is taken, and their sums are equal
            if folder == whole and name == ABOUT:
                continue  # without it, it is a folder as any other
            for damaged in (None, kept[:-3], b"", bytes([kept[0] ^ 4]) + kept[1:]):
                (folder / name).unlink() if damaged is None else (folder / name).write_bytes(damaged)
                with pytest.raises(LmlabError, match=str(folder)) as caught:
                    use()
                assert "\n" not in str(caught.value)
                assert not Path("run").exists()
                (folder / name).write_bytes(kept)
        use()
        shutil.rmtree("run", ignore_errors=True)


FORGED = [
    {"sizes": 7}, {"sizes": {"train": [1, 2, 3]}}, {"texts": [["a"]]}, {"texts": [[7, 7]]}, {"changed": []},
    {"shard": [3, 2]}, {"shard": "all"}, {"settings": {}}, {"ids": {"x": "y"}}, {"ids": {"train": 7}}, {"rule": None},
    {"format": 9},
    {"settings": {"data": {"no": 1}, "tokenizer": {"kind": "char"}, "vocabulary": {}}},
    {"settings": {"data": {}, "tokenizer": {"kind": "none"}, "vocabulary": {}}},
    {"settings": {"data": {}, "tokenizer": {"kind": "char"}, "vocabulary": {"../text.txt": "0"}}},
]  # fmt: skip


@pytest.mark.parametrize("changed", FORGED)
def test_forged_descriptions_lead_nowhere(here, changed, capsys):
    ids = ids_of("text.txt", out="ids")
    about = json.loads((ids / ABOUT).read_text())
    del about["sha256"]
    (ids / ABOUT).write_text(json.dumps(signed(about | changed, "sha256")))
    for command in (["train", "ids", "--model", "uniform", "-o", "run"], ["encode", "ids", "-o", "run"]):
        code = main([*command, "--quiet"])
        said = capsys.readouterr().err.strip().splitlines()
        assert "did not foresee" not in "".join(said)
        assert len(said) == (code != 0)


def test_shards_that_do_not_belong_together(here):
    parts = by_hand("text.txt", of=4)
    with pytest.raises(UsageError, match="1 of 4 are missing: 3: make them, as by `lmlab encode --shard 3/4`"):
        ids_of(*parts[:2], parts[3], out="ids")
    shutil.copytree(parts[1], "again")
    with pytest.raises(UsageError, match="part-2 and again are both shard 2 of 4"):
        ids_of(*parts, "again", out="ids")
    other = ids_of("text.txt", out="other", shard=(3, 4), settings={**LINES, "tokenizer.kind": "byte"})
    with pytest.raises(UsageError, match="made with tokenizer"):
        ids_of(*parts[:2], other, parts[3], out="ids")
    with pytest.raises(ArtifactError, match=r"text\.txt holds no encoded text"):
        ids_of(*parts, "text.txt", out="ids")
    with pytest.raises(UsageError, match=r"part-2 is shard 2 of 4 of text\.txt, not all of it"):
        lmlab.train(parts[1], model="uniform", reporter=Silent())
    assert not Path("ids").exists()


BAD = [
    (["none.txt"], {}, DataError, "none.txt cannot be read"),
    (["-"], {}, UsageError, "standard input"),
    ([], {}, UsageError, "standard input"),
    (["text.txt"], {"shards": 0}, SettingError, "shards"),
    (["text.txt"], {"shards": 10**6}, SettingError, "shards"),
    (["text.txt"], {"settings": {"data.limit": 3}}, SettingError, "limit"),
    (["text.txt"], {"settings": {}}, EmptyDataError, "text.txt leaves"),
    (
        ["text.txt"],
        {"settings": {"data.unit": "line", "data.split": "0.5,0.5,0"}, "like": "text.txt"},
        ArtifactError,
        "no model",
    ),
    (["nul.txt"], {}, DataError, "NUL|binary"),
    (["odd.txt"], {"shards": 2}, DataError, "odd.txt is not UTF-8: byte 0xff at offset 3,?005"),
    (["odd.jsonl"], {"shards": 2, "settings": {}}, DataError, r"odd.jsonl:61 is not JSON"),
    (["blank.txt"], {}, EmptyDataError, "no token occurs"),
]


@pytest.mark.parametrize(("texts", "named", "error", "said"), BAD)
def test_bad_input_is_one_line(here, texts, named, error, said):
    Path("nul.txt").write_bytes(b"a\n\0b\n")
    Path("blank.txt").write_bytes(b" \n\n")
    Path("odd.txt").write_bytes(b"a b c\n" * 500 + b"odd, \xff\n" + b"a b c\n" * 5)
    Path("odd.jsonl").write_text('{"text": "a"}\n' * 60 + "{\n")
    with pytest.raises(error, match=said) as caught:
        ids_of(*texts, out="ids", **named)
    assert "\n" not in str(caught.value)
    assert not Path("ids").exists()


def test_a_line_is_counted_from_where_the_shard_begins(here):
    Path("odd.jsonl").write_text('{"text": "a"}\n' * 60 + "{\n")
    part = room.Part(("odd.jsonl",), str(here), 2, 2, DataSettings())
    with pytest.raises(DataError, match=r"odd\.jsonl from byte 434 on:30 is not JSON"):
        part.corpus()


def killed(part, *rest):
    """Encodes, but the process of one part is killed on the way, once."""
    if part.number == 2 and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return room.encode_part(part, *rest)


def test_a_killed_worker_is_told_and_the_rest_is_kept(here):
    with ProcessPoolExecutor(1, get_context("fork")) as executor:
        real, room.encode_part = room.encode_part, killed
        killed.__globals__["room"] = type("Real", (), {"encode_part": staticmethod(real)})
        try:
            with pytest.raises(WorkerError, match="a worker or its scheduler was lost while encoding"):
                ids_of("text.txt", out="many", shards=4, executor=executor)
        finally:
            room_now = sys.modules["lmlab.facade.encode"]
            room_now.encode_part = real
            killed.__globals__["room"] = room_now
    assert Path("many.shards/ids-1").is_dir()
    assert not Path("many").exists()
    kept = (Path("many.shards/ids-1") / ABOUT).stat().st_ino
    said = Said()
    with ThreadPoolExecutor(2) as executor:
        encode("text.txt", out="many", settings=LINES, shards=4, executor=executor, reporter=said)
    assert any("of 4 shards were encoded before" in line for line in said.lines)
    assert kept
    same("many", ids_of("text.txt", out="one"))


class Said(Silent):
    """Keeps what was said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.mark.parametrize("moment", [0.6, 1.2])
def test_a_process_killed_at_any_moment_leaves_nothing_half(here, moment):
    """Whatever stands when it dies, the next call ends in the same ids."""
    code = "import lmlab; lmlab.encode('text.txt', out='many', shards=5, settings={'data.unit': 'line'})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not Path("many").exists():
        in_threads("text.txt", out="many", shards=5)
    same("many", ids_of("text.txt", out="one"))


def test_processes_and_the_command(here, capsys):
    words = ["encode", "text.txt", "--unit", "line", "--tokenizer", "word", "--json", "--quiet"]
    assert main([*words, "--shards", "3", "-o", "many"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main([*words, "-o", "one"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == told["splits"]
    same("many", "one")
    for number in (1, 2):
        assert main([*words, "--shard", f"{number}/2", "-o", f"part-{number}"]) == 0
    assert main(["encode", "part-1", "part-2", "-o", "joined", "--quiet"]) == 0
    same("joined", "one")
    for shard in ("0/2", "3/2", "x", "1/0"):
        assert main([*words, "--shard", shard, "-o", "no"]) == 2


def test_stores_of_the_same_vocabulary_lie_end_to_end(here):
    whole = TokenStore.open(ids_of("text.txt", out="one") / "train")
    parts = [Encoded.open(part).stores()["train"] for part in by_hand("text.txt", of=3)]
    joined = TokenStore.join(Path("joined"), parts)
    assert np.array_equal(joined.ids, whole.ids)
    assert np.array_equal(joined.offsets, whole.offsets)
    assert {**vars(joined), "ids": 0, "offsets": 0} == {**vars(whole), "ids": 0, "offsets": 0}
