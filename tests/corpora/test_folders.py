import gzip
import json

import pytest

from lmlab.corpora import DataSettings, open_corpus
from lmlab.errors import EmptyDataError

WHOLE = DataSettings(split="none")


@pytest.fixture
def folder(tmp_path):
    files = {
        "b.py": b"print(1)\n",
        "a/z.py": b"z = 1\n",
        "a-b.txt": b"text\n",
        "packed.txt.gz": gzip.compress(b"packed\n"),
        "image.png": b"\x89PNG\0\0",
        "empty.py": b"",
        ".hidden": b"no",
        ".git/config": b"no",
        "a/__pycache__/z.pyc": b"no",
        "rows.jsonl": b'{"text": "row"}\n',
    }
    for name, data in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "project" / "broken").symlink_to(tmp_path / "nowhere")
    return tmp_path / "project"


def test_every_text_file_is_a_document_in_sorted_order(folder):
    corpus = open_corpus(str(folder), WHOLE)
    found = [(document.id, document.text) for document in corpus.documents("train")]
    assert found == [
        ("project/a-b.txt", "text\n"),
        ("project/a/z.py", "z = 1\n"),
        ("project/b.py", "print(1)\n"),
        ("project/packed.txt.gz", "packed\n"),
        ("project/rows.jsonl", '{"text": "row"}\n'),
    ]
    assert (corpus.name, corpus.skipped) == ("project", 2)


def test_units_of_a_folder(folder):
    (folder / "more.jsonl").write_text(json.dumps({"text": "two\nlines"}))
    rows = open_corpus(str(folder), DataSettings(split="none", unit="record"))
    assert [document.text for document in rows.documents("train")] == ["two\nlines", "row"]
    lines = open_corpus(str(folder), DataSettings(split="none", unit="line"))
    assert "print(1)" in [document.text for document in lines.documents("train")]


def test_a_folder_without_text(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(EmptyDataError, match=r"holds no text file \(1 skipped\)"):
        open_corpus(str(tmp_path))
