import gc
import gzip
import io
import json
import os
import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmlab.corpora import PIECE_CHARS, DataSettings, open_corpus, open_text
from lmlab.corpora import corpus as corpus_module
from lmlab.errors import DataError, EmptyDataError, UnknownNameError

LINES = [f"line {i} é" for i in range(200)]


def joined(corpus, split):
    return "".join(document.text for document in corpus.documents(split))


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_one_document_is_cut_by_position(tmp_path):
    text = "".join(f"line {i}\n" for i in range(1000))
    corpus = open_corpus(write(tmp_path / "my.txt", text))
    parts = [joined(corpus, split) for split in ("train", "valid", "test")]
    assert "".join(parts) == text == joined(corpus, "all")
    assert all(part.endswith("\n") for part in parts)
    assert [len(part) / len(text) for part in parts] == pytest.approx([0.9, 0.05, 0.05], abs=0.001)
    assert corpus.rule == "by position, in this order: 0.9 train, 0.05 valid, 0.05 test"
    assert (corpus.name, corpus.pretokenised, corpus.skipped) == ("my.txt", False, 0)


def test_pieces_stand_in_the_order_they_are_named_in():
    text = "".join(f"line {i}\n" for i in range(1000))
    corpus = open_text(text, DataSettings(split="valid 0.2, train 0.7, test 0.1"))
    parts = [joined(corpus, split) for split in ("valid", "train", "test")]
    assert "".join(parts) == text
    assert [len(part) / len(text) for part in parts] == pytest.approx([0.2, 0.7, 0.1], abs=0.001)
    assert corpus.rule == "by position, in this order: 0.2 valid, 0.7 train, 0.1 test"


def test_reading_again_gives_the_same_and_iterators_do_not_disturb_each_other():
    corpus = open_text("\n".join(LINES), DataSettings(unit="line"))
    pairs = zip(corpus.documents("all"), corpus.documents("all"), strict=True)
    assert all(one == other for one, other in pairs)
    assert [document.text for document in corpus.documents("all")] == LINES


def test_sizes_are_of_the_text_as_it_stood():
    corpus = open_text("\n".join(LINES), DataSettings(unit="line"))
    for split, size in corpus.sizes.items():
        texts = [document.text for document in corpus.documents(split)]
        assert (size.documents, size.chars) == (len(texts), len("".join(texts)))
        assert size.bytes == len("".join(texts).encode())
    assert corpus.sizes["all"].documents == 200


@given(st.permutations(LINES[:60]))
def test_the_hash_split_depends_on_nothing_but_the_document(lines):
    settings = DataSettings(unit="line", split="0.5,0.25,0.25")
    expected = {d.text: d.partition for d in open_text("\n".join(LINES[:60]), settings).documents("all")}
    corpus = open_text("\n".join(lines + lines[:10]), settings)
    assert {d.text: d.partition for d in corpus.documents("all")} == expected
    assert corpus.rule == "by hash of each document's content: 0.5 train, 0.25 valid, 0.25 test"


def test_a_few_documents_are_cut_by_position_when_the_hash_leaves_a_split_empty():
    lines = [f"{i} " + "word " * 50 for i in range(5)]
    corpus = open_text("\n".join(lines), DataSettings(unit="line"))
    assert joined(corpus, "all") == "".join(lines)
    assert joined(corpus, "train") + joined(corpus, "valid") + joined(corpus, "test") == "".join(lines)
    assert [document.id for document in corpus.documents("test")] == ["text:5"]
    assert "by position" in corpus.rule


def test_the_partition_of_the_source_wins_unless_the_user_says_otherwise(tmp_path):
    rows = [{"text": f"t{i}", "partition": ["train", "validation", "test"][i % 3]} for i in range(60)]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    corpus = open_corpus(path)
    assert [d.text for d in corpus.documents("valid")] == [f"t{i}" for i in range(1, 60, 3)]
    assert corpus.rule == "as the source names it"
    assert open_corpus(path, DataSettings(split="none")).sizes["train"].documents == 60
    assert open_corpus(path, DataSettings(split="0.8,0.1,0.1")).sizes["train"].documents != 20


def test_split_none_trains_on_everything():
    corpus = open_text("ab", DataSettings(split="none"))
    assert (joined(corpus, "train"), corpus.sizes["valid"].documents, corpus.rule) == ("ab", 0, "everything trains")


def test_a_share_of_zero_may_stay_empty():
    assert open_text("some words here", DataSettings(split="0.6,0,0.4")).sizes["valid"].chars == 0


@pytest.mark.parametrize("text", ["ab", "x"])
def test_an_empty_split_is_refused(text):
    with pytest.raises(EmptyDataError, match=r"leaves .*valid.* empty \(by position.*--split none"):
        open_text(text)


@pytest.mark.parametrize("text", ["", "\ufeff"])
def test_no_text_at_all_is_refused(tmp_path, text):
    for opened in (lambda: open_text(text), lambda: open_corpus(write(tmp_path / "a.txt", text))):
        with pytest.raises(EmptyDataError, match="holds no text"):
            opened()


def test_the_content_hash_does_not_depend_on_the_container(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    jsonl = "".join(json.dumps({"text": line}) + "\n" for line in LINES).encode()
    parquet.write_table(pyarrow.table({"text": LINES}), tmp_path / "a.parquet")
    paths = [
        write(tmp_path / "a.jsonl.gz", gzip.compress(jsonl)),
        write(tmp_path / "a.jsonl.zst", zstandard.compress(jsonl)),
        write(tmp_path / "a.json", json.dumps([{"text": line} for line in LINES])),
        write(tmp_path / "a.csv", "text\n" + "\n".join(LINES)),
        str(tmp_path / "a.parquet"),
    ]
    plain = open_corpus(write(tmp_path / "a.txt", "\r\n".join(LINES)), DataSettings(unit="line"))
    assert {open_corpus(path).sha256 for path in paths} == {plain.sha256}
    assert {open_text("\n".join(lines), DataSettings(unit="line")).sha256 for lines in (LINES, LINES[:-1])} != {
        plain.sha256
    }
    assert open_text("\n".join(LINES)).sha256 != plain.sha256  # other boundaries, other content


def test_tokens_come_back_as_they_were(tmp_path):
    rows = [{"code_tokens": ["def", f"f{i}", "'a b'", "\n"]} for i in range(100)]
    corpus = open_corpus(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert corpus.pretokenised
    found = list(corpus.documents("all"))
    assert [list(document.tokens) for document in found] == [row["code_tokens"] for row in rows]
    assert [document.text for document in found] == [" ".join(row["code_tokens"]) for row in rows]
    assert corpus.sizes["all"].bytes == sum(len(document.text) for document in found)


def test_large_token_records_come_in_pieces_that_join(tmp_path):
    tokens = ["tok" + "x" * 1000] * 3000
    row = json.dumps({"code_tokens": tokens})
    corpus = open_corpus(write(tmp_path / "a.jsonl", row), DataSettings(split="none"))
    pieces = list(corpus.documents("train"))
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == " ".join(tokens)
    assert [token for piece in pieces for token in piece.tokens] == tokens


def test_text_and_tokens_do_not_mix(tmp_path):
    rows = [{"text": "a"}, {"text": ["b"]}]
    with pytest.raises(DataError, match=r"a\.jsonl:2 holds tokens, but the documents before it text"):
        open_corpus(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))


def test_one_enormous_line_passes_in_pieces(tmp_path):
    text = "é" * (3 * PIECE_CHARS)
    corpus = open_corpus(write(tmp_path / "a.txt", text), DataSettings(split="none", unit="line"))
    pieces = list(corpus.documents("train"))
    assert "".join(piece.text for piece in pieces) == text
    assert max(len(piece.text) for piece in pieces) <= PIECE_CHARS
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert corpus.sizes["train"] == corpus_module.SplitSize(1, 2 * len(text), len(text))


def test_text_is_the_end_of_a_split_with_newlines_between_documents():
    corpus = open_text("one\ntwo\nthree", DataSettings(unit="line", split="none"))
    assert corpus.text("train") == b"one\ntwo\nthree"
    assert [corpus.text("train", size) for size in (0, 5, 6, 7, 99)] == [
        b"",
        b"three",
        b"\nthree",
        b"o\nthree",
        b"one\ntwo\nthree",
    ]


def test_spooling_beyond_memory_changes_nothing(monkeypatch):
    settings = DataSettings(unit="line")
    expected = list(open_text("\n".join(LINES), settings).documents("all"))
    monkeypatch.setattr(corpus_module, "SPOOL_BYTES", 16)
    corpus = open_text("\n".join(LINES), settings)
    assert list(corpus.documents("all")) == expected
    del corpus
    gc.collect()  # a file left open would warn, and a warning is an error


def test_no_room_for_the_spool_is_told(monkeypatch):
    def full(self, data):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", full)
    with pytest.raises(
        DataError, match=r"temporary folder .* cannot hold the text \(No space left on device\).*TMPDIR"
    ):
        open_text("some text")


def test_standard_input_is_read_once(monkeypatch):
    class Stdin:
        buffer = io.BytesIO(b"one\r\ntwo\r\n" * 100)

    monkeypatch.setattr("sys.stdin", Stdin)
    corpus = open_corpus("-")
    assert joined(corpus, "all") == joined(corpus, "all") == "one\ntwo\n" * 100
    assert corpus.name == "standard input"


def test_progress_tells_bytes_and_total(tmp_path):
    path = write(tmp_path / "a.txt", random.Random(0).randbytes(2_000_000).hex())
    told = []
    open_corpus(path, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4_000_000, 4_000_000)
    assert len(told) == 4


def test_max_chars_and_limit(tmp_path):
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps({"text": "abcdef"[i % 3 :]}) for i in range(9)))
    corpus = open_corpus(path, DataSettings(max_chars=5, limit=4, split="none"))
    assert [document.text for document in corpus.documents("train")] == ["abcde", "bcdef", "cdef", "abcde"]


def test_a_name_that_is_nothing():
    with pytest.raises(
        UnknownNameError, match="no file and no corpus is called 'wikitex-2': did you mean 'wikitext-2'"
    ):
        open_corpus("wikitex-2")


def test_an_unknown_split():
    with pytest.raises(UnknownNameError, match="no split is called 'dev'"):
        list(open_text("some text", DataSettings(split="none")).documents("dev"))


def test_bad_bytes_deep_in_a_file_are_named(tmp_path):
    path = write(tmp_path / "a.txt", b"x" * 3_000_000 + b"\xff" + b"y" * 10)
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8: byte 0xff at offset 3000000: .*--errors replace"):
        open_corpus(path)
    assert "x\ufffdy" in joined(open_corpus(path, DataSettings(errors="replace")), "all")


def test_ag_news_through_a_template():
    folder = os.environ.get("LMLAB_DATA")
    path = Path(folder or ".") / "ag_news_test.csv"
    if not folder or not path.is_file():
        pytest.skip("LMLAB_DATA does not hold ag_news_test.csv")
    settings = DataSettings(
        columns=("class", "title", "description"), template="{title} ; {description}", max_chars=512
    )
    corpus = open_corpus(str(path), settings)
    assert corpus.sizes["all"].documents == 7600
    document = next(corpus.documents("all"))
    assert document.text.startswith("Fears for T N pension after talks ; Unions representing workers at Turner")
    assert max(len(document.text) for document in corpus.documents("all")) == 512
