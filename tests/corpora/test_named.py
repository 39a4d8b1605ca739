import dataclasses
import gzip
import hashlib
import json
import os
import zipfile

import pytest

from lmlab.corpora import DataSettings, corpus_table, open_corpus
from lmlab.corpora import download as download_module
from lmlab.corpora.named import CORPORA, CorpusFile
from lmlab.errors import DataError, DownloadError


@pytest.fixture
def places(tmp_path, monkeypatch):
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    cache.mkdir()
    monkeypatch.setenv("LMLAB_DATA", str(data))
    monkeypatch.setenv("LMLAB_CACHE", str(cache))
    return data, cache


def pin(monkeypatch, name, *paths):
    """Let the table expect these very files."""
    corpus = CORPORA[name]
    files = tuple(
        dataclasses.replace(file, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for file, path in zip(corpus.files, paths, strict=True)
    )
    monkeypatch.setitem(CORPORA, name, dataclasses.replace(corpus, files=files))


def texts(corpus, split):
    return [document.text for document in corpus.documents(split)]


def test_the_table_is_whole():
    rows = {row.name: row for row in corpus_table()}
    assert set(rows) == set(CORPORA)
    assert all(row.title and row.licence and row.where and row.rule for row in rows.values())
    for corpus in CORPORA.values():
        assert corpus.made_here or all(file.urls for file in corpus.files) or corpus.by_hand
        corpus.settings(DataSettings())


def test_the_table_says_where_a_corpus_is_now(places):
    data, _ = places
    (data / "tinyshakespeare.txt").write_text("x")
    where = {row.name: row.where for row in corpus_table()}
    assert where["tinyshakespeare"] == str(data / "tinyshakespeare.txt")
    assert (where["text8"], where["arxiv"], where["python-stdlib"]) == ("download", "by hand", "made on this machine")


def test_tinyshakespeare_has_the_standard_test_text():
    if not os.path.isfile(os.path.join(os.environ.get("LMLAB_DATA", ""), "tinyshakespeare.txt")):
        pytest.skip("LMLAB_DATA does not hold tinyshakespeare.txt")
    corpus = open_corpus("tinyshakespeare")
    assert {split: size.chars for split, size in corpus.sizes.items()} == {
        "train": 948_084,
        "valid": 55_770,
        "test": 111_540,
        "all": 1_115_394,
    }
    assert "".join(texts(corpus, "test")).startswith("?\n\nGREMIO:\nGood morrow, neighbour Baptista.")
    lines = open_corpus("tinyshakespeare", DataSettings(unit="line"))
    assert texts(lines, "test")[:3] == ["?", "GREMIO:", "Good morrow, neighbour Baptista."]
    assert open_corpus("tinyshakespeare", DataSettings(split="none")).sizes["train"].documents == 1


def test_a_wrong_file_under_a_known_name_is_refused(places):
    (places[0] / "tinyshakespeare.txt").write_text("not Shakespeare")
    with pytest.raises(DataError, match=r"tinyshakespeare\.txt is not the file of tinyshakespeare"):
        open_corpus("tinyshakespeare")


def test_ag_news_keeps_its_test_file(places, monkeypatch):
    paths = [places[0] / "ag_news_train.csv", places[0] / "ag_news_test.csv"]
    paths[0].write_text("".join(f'"1","title {i}","text {i}"\n' for i in range(300)))
    paths[1].write_text('"2","held","out"\n')
    pin(monkeypatch, "ag_news", *paths)
    corpus = open_corpus("ag_news")
    assert texts(corpus, "test") == ["held ; out"]
    assert corpus.sizes["train"].documents + corpus.sizes["valid"].documents == 300
    assert 5 <= corpus.sizes["valid"].documents <= 30
    own = open_corpus("ag_news", DataSettings(text_field="title"))
    assert texts(own, "test") == ["held"]


def test_wikitext_and_its_own_files_in_a_zip(places, monkeypatch):
    path = places[1] / "wikitext-2-raw-v1.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for split in ("test", "train", "valid"):
            archive.writestr(f"wikitext-2-raw/wiki.{split}.raw", f" \n = {split} = \n")
    pin(monkeypatch, "wikitext-2", path)
    corpus = open_corpus("wikitext-2")
    assert [texts(corpus, split) for split in ("train", "valid", "test")] == [
        [" \n = train = \n"],
        [" \n = valid = \n"],
        [" \n = test = \n"],
    ]


def test_text8_is_cut_at_its_bytes(places, monkeypatch):
    path = places[1] / "text8.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text8", "abcdefghij")
    pin(monkeypatch, "text8", path)
    monkeypatch.setitem(CORPORA, "text8", dataclasses.replace(CORPORA["text8"], cuts=(6, 8)))
    corpus = open_corpus("text8")
    assert [texts(corpus, split) for split in ("train", "valid", "test")] == [["abcdef"], ["gh"], ["ij"]]


def test_codesearchnet_reads_packed_parts_by_partition(places):
    path = places[0] / "codesearchnet-python.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "valid", "test"):
            row = {"repo": "a/b", "code": "x", "code_tokens": ["def", split], "partition": split}
            packed = gzip.compress(json.dumps(row).encode())
            archive.writestr(f"python/final/jsonl/{split}/python_{split}_0.jsonl.gz", packed)
        archive.writestr("python_dedupe_definitions_v2.pkl", b"\0")
    corpus = open_corpus("codesearchnet-python")
    assert [texts(corpus, split) for split in ("train", "valid", "test")] == [
        ["def train"],
        ["def valid"],
        ["def test"],
    ]


def test_a_damaged_zip_is_told(places):
    (places[0] / "codesearchnet-python.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="is damaged"):
        open_corpus("codesearchnet-python")


def test_arxiv_says_how_to_place_its_file(places):
    with pytest.raises(DataError, match=r"asks for an account\): place arxiv-metadata-oai-snapshot\.json in"):
        open_corpus("arxiv")
    rows = [{"title": f"T{i}", "abstract": f"A{i}"} for i in range(100)]
    (places[0] / "arxiv-metadata-oai-snapshot.json").write_text("\n".join(map(json.dumps, rows)))
    assert texts(open_corpus("arxiv"), "all")[3] == "T3 ; A3"


def test_a_download_lands_in_the_cache_and_its_hash_is_noted(places, monkeypatch):
    def fetch(urls, target, sha256, progress):
        assert (urls, sha256) == (("http://x/a.txt",), None)
        target.write_text("some words of text\n" * 100)
        return hashlib.sha256(target.read_bytes()).hexdigest()

    _, cache = places
    monkeypatch.setattr(download_module, "download", fetch)
    files = (CorpusFile("a.txt", urls=("http://x/a.txt",)),)
    monkeypatch.setitem(CORPORA, "text8", dataclasses.replace(CORPORA["text8"], files=files, cuts=()))
    first = open_corpus("text8").sha256
    monkeypatch.setattr(download_module, "download", None)  # not again
    assert open_corpus("text8").sha256 == first
    (cache / "a.txt").write_text("changed")
    with pytest.raises(DataError, match="is not the file of text8"):
        open_corpus("text8")


def test_the_noted_hash_holds_for_the_next_download(places, monkeypatch):
    def fetch(urls, target, sha256, progress):
        raise DownloadError(f"expected {sha256}")

    monkeypatch.setattr(download_module, "download", fetch)
    (places[1] / "codesearchnet-python.zip.sha256").write_text("abc\n")
    with pytest.raises(DownloadError, match="expected abc"):
        open_corpus("codesearchnet-python")
