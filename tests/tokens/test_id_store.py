import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.corpora.document import Document
from lmlab.errors import ArtifactError, RunExistsError, StorageError
from lmlab.integrity import json_sum, sha256_of
from lmlab.tokens import build_tokenizer
from lmlab.tokens.id_store import TokenStore
from lmlab.vocabulary import BOS, EOS, UNK

BYTE = build_tokenizer("byte", {}, [])
DOCUMENTS = [Document("ab"), Document(""), Document("é", last=False), Document("c")]


def test_documents_lie_end_to_end_and_pieces_go_on(tmp_path):
    store = TokenStore.build(tmp_path / "train", BYTE, DOCUMENTS)
    a, b, c, *_ = range(4 + ord("a"), 4 + ord("d"))
    e = [4 + byte for byte in "é".encode()]
    assert store.ids.tolist() == [BOS, a, b, EOS, BOS, EOS, BOS, *e, c, EOS]
    assert store.offsets.tolist() == [0, 4, 6, 11]
    assert [store.document(i).tolist() for i in (1, -1)] == [[BOS, EOS], [BOS, *e, c, EOS]]
    assert store.lengths.tolist() == [4, 2, 5]
    assert (len(store), store.documents, store.tokens) == (3, 3, 2 + 0 + 3 + 3)
    assert (store.text_bytes, store.text_chars) == (5, 4)
    assert store.sha256 == hashlib.sha256((tmp_path / "train" / "ids.bin").read_bytes()).hexdigest()
    assert isinstance(store.ids, np.memmap)
    assert not store.ids.flags.writeable
    assert not store.offsets.flags.writeable
    with pytest.raises(IndexError):
        store.document(3)


@settings(max_examples=40)
@given(texts=st.lists(st.text(max_size=20), max_size=6), last=st.lists(st.booleans(), min_size=6, max_size=6))
def test_disk_and_memory_hold_the_same_and_decode_to_the_texts(tmp_path_factory, texts, last):
    documents = [Document(text, last=end) for text, end in zip(texts, last, strict=False)]
    disk = TokenStore.build(tmp_path_factory.mktemp("store") / "x", BYTE, iter(documents))
    memory = TokenStore.from_documents(BYTE, iter(documents))
    for store in (disk, memory):
        assert "\0".join(BYTE.decode(store.document(i)) for i in range(len(store))) == "\0".join(joined(documents))
    assert disk.ids.tolist() == memory.ids.tolist()
    assert disk.offsets.tolist() == memory.offsets.tolist()
    assert (disk.sha256, disk.tokens, disk.ids.dtype) == (memory.sha256, memory.tokens, memory.ids.dtype)


def joined(documents):
    texts, inside = [], False
    for document in documents:
        if inside:
            texts[-1] += document.text
        else:
            texts.append(document.text)
        inside = not document.last
    return texts


def test_unknown_tokens_are_kept_for_charging():
    tokenizer = build_tokenizer("word", {}, [Document("a b")])
    store = TokenStore.from_documents(tokenizer, [Document("a été b été"), Document("x", tokens=("a", "zz"))])
    assert (store.unknown_tokens, store.unknown_bytes) == (3, 5 + 5 + 2)
    assert np.count_nonzero(store.ids == UNK) == 3
    assert store.text_chars == len("a été b été") + 1


@pytest.mark.parametrize(("types", "dtype"), [(65_532, "uint16"), (65_533, "uint32")])
def test_ids_take_two_bytes_while_they_fit(types, dtype, tmp_path):
    text = " ".join(f"w{i}" for i in range(types))
    tokenizer = build_tokenizer("word", {"vocab_size": None}, [Document(text)])
    store = TokenStore.build(tmp_path / "x", tokenizer, [Document(text)])
    assert (store.vocab_size, store.ids.dtype.name) == (types + 4, dtype)
    assert sorted(store.ids.tolist()) == [BOS, EOS, *range(4, types + 4)]


def test_progress_is_told_about_once_a_mebibyte_and_at_the_end(tmp_path):
    told = []
    documents = [Document("x" * 300_000)] * 10
    TokenStore.build(tmp_path / "x", BYTE, documents, told.append)
    assert told == [1_200_000, 2_400_000, 3_000_000]


@pytest.mark.parametrize("name", ["ids.bin", "offsets.npy", "meta.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "empty"])
def test_a_damaged_store_is_told(name, damage, tmp_path):
    TokenStore.build(tmp_path / "x", BYTE, DOCUMENTS)
    path = tmp_path / "x" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-2] if damage == "short" else b"")
    with pytest.raises(ArtifactError, match=r"encode the text again|make it again"):
        TokenStore.open(tmp_path / "x")


@pytest.mark.parametrize("name", ["ids.bin", "offsets.npy", "meta.json"])
def test_another_bit_is_told(name, tmp_path):
    TokenStore.build(tmp_path / "x", BYTE, DOCUMENTS)
    path = tmp_path / "x" / name
    content = path.read_bytes()
    for at in range(0, len(content), max(1, len(content) // 20)):
        path.write_bytes(bytes([*content[:at], content[at] ^ 1, *content[at + 1 :]]))
        with pytest.raises(ArtifactError, match="encode the text again"):
            TokenStore.open(tmp_path / "x")


@pytest.mark.parametrize("change", [{"documents": 2}, {"vocab_size": "260"}, {"extra": 1}])
def test_totals_that_do_not_fit_are_told(change, tmp_path):
    TokenStore.build(tmp_path / "x", BYTE, DOCUMENTS)
    path = tmp_path / "x" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError):
        TokenStore.open(tmp_path / "x")


def forged(folder, **arrays):
    """Other arrays in a store, all sums right."""
    totals = json.loads((folder / "meta.json").read_text())
    totals.pop("meta_sha256")
    for name, array in arrays.items():
        path = folder / {"ids": "ids.bin", "offsets": "offsets.npy"}.get(name, "meta.json")
        array.tofile(path) if name == "ids" else np.save(path, array) if name == "offsets" else totals.update(array)
    if not arrays.keys() & {"totals"}:
        totals["files"] = {name: [sha256_of(folder / name)] for name in ("ids.bin", "offsets.npy")}
    (folder / "meta.json").write_text(json.dumps(totals | {"meta_sha256": json_sum(totals)}))


@pytest.mark.parametrize(
    "arrays",
    [
        *({"offsets": np.array(offsets)} for offsets in ([0, 4, 6], [1, 4, 6, 11], [0, 4, 6, 12], [0, 6, 4, 11])),
        {"offsets": np.array([0, 4, 5, 11])},
        {"offsets": np.array([0, 4, 6, 11], dtype=">i8")},
        {"offsets": np.array([[0, 4, 6, 11]])},
        {"ids": np.array([2, 260, 3, *[0] * 8], dtype="<u2")},
        *(
            {"totals": {name: odd}}
            for name in ("documents", "tokens", "vocab_size")
            for odd in (None, "3", -1, 2.0, 10**30)
        ),
        *({"totals": {"files": odd}} for odd in (None, 3, [], {"ids.bin": 3, "offsets.npy": 3})),
    ],
)  # fmt: skip
def test_a_forged_store_is_told(arrays, tmp_path):
    TokenStore.build(tmp_path / "x", BYTE, DOCUMENTS)
    forged(tmp_path / "x", **arrays)
    with pytest.raises(ArtifactError) as told:
        TokenStore.open(tmp_path / "x")
    assert "\n" not in str(told.value)


def test_a_header_that_is_none_is_told(tmp_path):
    """NumPy lets a `TokenError` through where a header is cut amid a bracket."""
    TokenStore.build(tmp_path / "x", BYTE, DOCUMENTS)
    sound = (tmp_path / "x" / "offsets.npy").read_bytes()
    for at in range(6, 80):
        for byte in b"\0('\xff9":
            (tmp_path / "x" / "offsets.npy").write_bytes(bytes([*sound[:at], byte, *sound[at + 1 :]]))
            forged(tmp_path / "x")
            with contextlib.suppress(ArtifactError):
                TokenStore.open(tmp_path / "x")


def test_nothing_is_overwritten(tmp_path):
    TokenStore.build(tmp_path / "x", BYTE, DOCUMENTS)
    with pytest.raises(RunExistsError):
        TokenStore.build(tmp_path / "x", BYTE, [])
    assert len(TokenStore.open(tmp_path / "x")) == 3


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def documents():
        yield Document("a" * 5_000_000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TokenStore.build(tmp_path / "x", BYTE, documents())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*free some space"):
        TokenStore.build(tmp_path / "x", BYTE, DOCUMENTS)
    assert list(tmp_path.iterdir()) == []


ENCODE = """
import sys, time
from itertools import islice
from pathlib import Path
from lmlab.tokens import build_tokenizer
from lmlab.corpora.document import PIECE_CHARS, Document
from lmlab.tokens.id_store import TokenStore

kind, text, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])

def documents():
    with text.open(encoding="utf-8") as file:
        yield from (Document(piece, last=False) for piece in iter(lambda: file.read(PIECE_CHARS), ""))

started = time.perf_counter()
tokenizer = build_tokenizer(kind, {}, documents())
trained = time.perf_counter()
store = TokenStore.build(folder, tokenizer, documents())
encoded = time.perf_counter()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(store.text_bytes, store.tokens, trained - started, encoded - trained, int(peak.split()[1]) * 1024)
"""


def write_words(path, megabytes):
    """Zipf-distributed made-up words, 300,000 of them known from the start and one in fifty new."""
    rng = np.random.default_rng(0)
    words = np.array([f"{i:x}é" if i % 9 == 0 else f"w{i:x}" for i in rng.permutation(300_000)])
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 10**6:
            drawn = words[np.minimum(rng.zipf(1.2, 200_000), len(words)) - 1]
            new = rng.integers(0, 1 << 60, 4000)
            drawn[rng.integers(0, len(drawn), 4000)] = [f"n{i:x}"[:10] for i in new]
            file.write(" ".join(drawn).replace(" w", ", w") + ".\n")


@pytest.fixture
def emptied(tmp_path):
    """A folder that leaves nothing behind, for pytest keeps its own for three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_a_large_text_is_encoded_in_bounded_memory(kind, emptied, capsys):
    """LMLAB_SLOW_MB megabytes of text (default 1000), vocabulary and ids, in less than 1 GB of resident memory."""
    text = emptied / "large.txt"
    write_words(text, int(os.environ.get("LMLAB_SLOW_MB", "1000")))
    run = [sys.executable, "-c", ENCODE, kind, str(text), str(emptied / "store")]
    output = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    size, count, train, encode, peak = map(float, output.split())
    with capsys.disabled():
        speeds = f"train {size / train / 1e6:.1f} MB/s, encode {size / encode / 1e6:.1f} MB/s"
        print(f"\n{kind}: {size / 1e6:.0f} MB, {count / 1e6:.0f} M tokens, {speeds}, peak {peak / 1e6:.0f} MB")
    assert peak < 1e9
