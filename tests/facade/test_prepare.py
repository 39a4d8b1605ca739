import os
import string
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lmlab.config import load_recipe
from lmlab.corpora import DataSettings, open_text
from lmlab.corpora.cache import find
from lmlab.corpora.settings import IN_HAND
from lmlab.disk import held
from lmlab.errors import DataError, EmptyDataError, UnknownNameError, UsageError
from lmlab.facade import prepare as prepare_module
from lmlab.facade.prepare import encode_held_out, open_again, open_source, prepare
from lmlab.progress import Silent
from lmlab.run_config import RunConfig, from_tables
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS
from tests.texts import TEXT, some_text

CHAR = RunConfig.build({}).tokenizer
LOWER = RunConfig.build({"tokenizer.lower": True}).tokenizer
BPE = RunConfig.build({"tokenizer.kind": "bpe", "tokenizer.vocab_size": 300}).tokenizer
BYTE = RunConfig.build({"tokenizer.kind": "byte"}).tokenizer


class Told(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "own-cache"))
    return tmp_path / "own-cache"


def ids(prepared):
    return {split: store.ids.tolist() for split, store in prepared.stores.items()}


def test_the_vocabulary_comes_from_the_training_split_alone(tmp_path):
    (tmp_path / "a.txt").write_text("abc\n" * 50 + "xyz\n" * 5)
    corpus = open_source(str(tmp_path / "a.txt"), DataSettings(split="0.8,0.1,0.1"), Silent())
    prepared = prepare(corpus, CHAR, Silent())
    assert set(prepared.tokenizer.tokens[4:]) == set("abc\n")
    assert prepared.stores["test"].unknown_tokens == 15


def test_the_second_time_everything_is_found(monkeypatch):
    first = prepare(open_text(TEXT), CHAR, Silent())

    def fail(*_, **__):
        raise AssertionError("built again")

    monkeypatch.setattr("lmlab.tokens.build_tokenizer", fail)
    monkeypatch.setattr(TokenStore, "build", fail)
    again = prepare(open_text(TEXT), CHAR, Silent())
    assert again.tokenizer.tokens == first.tokenizer.tokens
    assert ids(again) == ids(first)


@pytest.mark.parametrize(
    ("text", "data", "tokenizer"),
    [
        (some_text(seed=1), {}, CHAR),
        (TEXT, {"split": "0.5,0.25,0.25"}, CHAR),
        (TEXT, {"split": "none"}, CHAR),
        (TEXT, {}, LOWER),
        (TEXT, {}, BYTE),
    ],
)
def test_another_text_split_or_tokenizer_is_another_entry(cache, text, data, tokenizer):
    prepare(open_text(TEXT), CHAR, Silent())
    prepare(open_text(text, DataSettings(**data)), tokenizer, Silent())
    assert len(list((cache / "tokens").iterdir())) == 2


@pytest.mark.parametrize(
    "damage", ["train/ids.bin", "train/meta.json", "valid", "tokenizer/tokenizer.json", "tokenizer/sums.json"]
)
def test_a_damaged_entry_is_made_anew(cache, damage):
    first = prepare(open_text(TEXT), CHAR, Silent())
    before, tokens = ids(first), first.tokenizer.tokens  # read now: what is mapped must not be cut short below
    del first
    (entry,) = (cache / "tokens").iterdir()
    for file in [entry / damage] if (entry / damage).is_file() else (entry / damage).iterdir():
        file.write_bytes(b"x")
    for _ in range(2):  # the second time it is whole again
        told = Told()
        again = prepare(open_text(TEXT), CHAR, told)
        assert ids(again) == before
        assert again.tokenizer.tokens == tokens
        del again
    assert not any("damaged" in said for said in told.said)


_PREPARE = """
import sys
from lmlab.corpora import open_corpus
from lmlab.corpora.settings import DataSettings
from lmlab.facade.prepare import prepare
from lmlab.progress import Silent
from tests.facade.test_prepare import BPE
corpus = open_corpus(sys.argv[1], DataSettings())
print("begins", flush=True)
sys.stdin.readline()
store = prepare(corpus, BPE, Silent()).stores["train"]
print(store.sha256)
"""


def test_three_that_begin_at_once_end_alike(cache, tmp_path):
    (tmp_path / "text.txt").write_text("".join(some_text(seed=seed) for seed in range(40)))
    command = [sys.executable, "-c", _PREPARE, tmp_path / "text.txt"]
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **piped) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "begins\n"
    answers = [process.communicate("go\n")[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({tuple(answer) for answer in answers}) == 1
    assert [path.name for path in (cache / "tokens").iterdir() if path.name.endswith(".lock")] == []


def test_one_waits_for_another_that_encodes_the_same(cache, monkeypatch):
    """The other holds the entry until this one says that it waits, and has made it by then."""
    corpus, told = open_text(TEXT), Told()
    entry = cache / "tokens" / prepare_module._key(corpus, CHAR)
    with ThreadPoolExecutor() as pool, held(entry):
        waits = pool.submit(prepare, corpus, CHAR, told)
        while not told.said:
            time.sleep(0.01)
        prepare_module._prepared(entry, corpus, CHAR, ["train"], Silent())
        built = (entry / "train" / "meta.json").stat().st_ino
    assert waits.result().stores["train"].documents == 1
    assert told.said[0] == f"waiting for process {os.getpid()} on {os.uname().nodename}, which encodes the same text"
    assert (entry / "train" / "meta.json").stat().st_ino == built


def test_an_empty_training_split_is_told():
    with pytest.raises(EmptyDataError, match="training split empty"):
        prepare(open_text(TEXT, DataSettings(split="0,0.5,0.5")), CHAR, Silent())


def test_the_manifest_tells_sizes():
    prepared = prepare(open_text(TEXT), CHAR, Silent())
    splits = prepared.describe()["splits"]
    assert sum(size["chars"] for size in splits.values()) == len(TEXT)
    assert splits["train"]["tokens"] == splits["train"]["chars"] + 1  # one document, and its <eos>


def test_an_unknown_split_is_named():
    corpus = open_text(TEXT)
    tokenizer = prepare(corpus, CHAR, Silent()).tokenizer
    with pytest.raises(UnknownNameError, match="no split is called 'tset': did you mean 'test'"):
        encode_held_out(corpus, tokenizer, "tset", Silent())


def test_only_the_same_text_is_opened_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)
    corpus = open_source(str(path), DataSettings(), Silent())
    manifest, config = {"data": {"sha256": corpus.sha256}}, RunConfig.build({"source": str(path)})
    assert open_again(config, manifest, Silent()).sha256 == corpus.sha256
    path.write_text(TEXT + "more")
    with pytest.raises(DataError, match="is not the text of this run"):
        open_again(config, manifest, Silent())
    with pytest.raises(UsageError, match="came from a program"):
        open_again(RunConfig.build({"source": IN_HAND}), manifest, Silent())


@pytest.mark.parametrize("kind", ["char", "word"])
@pytest.mark.parametrize("unit", ["document", "line"])
def test_the_head_of_a_split_is_its_beginning(kind, unit):
    corpus = open_text(TEXT, DataSettings(unit=unit))
    prepared = prepare(corpus, RunConfig.build({"tokenizer.kind": kind}).tokenizer, Silent())
    whole = prepared.stores["train"]
    assert prepared.head("train") is prepared.head("train", whole.tokens) is whole
    for tokens in (1, 10, 100, whole.tokens // 2):
        head = prepared.head("train", tokens)
        assert np.array_equal(head.ids, whole.ids[: len(head.ids)])
        assert head.tokens == np.count_nonzero(head.ids != BOS)
        assert 0.5 * tokens - 60 <= head.tokens <= tokens + 12
        assert head.offsets[-1] == len(head.ids)
        assert 0 < head.text_chars < whole.text_chars


@pytest.mark.skipif(find("tinyshakespeare.txt") is None, reason="LMLAB_DATA does not hold tinyshakespeare.txt")
def test_the_notebooks_vocabulary_of_shakespeares_words():
    config = RunConfig.build({**from_tables(load_recipe("shakespeare-words-notebook")), "data.split": "none"})
    corpus = open_source(config.source, config.data, Silent())
    text = "".join(document.text for document in corpus.documents("train"))
    pieces = text.translate(str.maketrans("", "", string.punctuation)).replace("\n", " ").split(" ")
    assert len(set(pieces)) == 14_746  # the empty string between two spaces is one of them
    tokenizer = prepare(corpus, config.tokenizer, Silent()).tokenizer
    assert set(tokenizer.tokens[4:]) == set(pieces) - {""}
    assert len(tokenizer) == 14_745 + 4
