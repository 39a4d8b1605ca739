"""KenLM's binary files: bit for bit what kenlm scores, byte for byte what build_binary writes; bad ones are refused."""

import gzip
import hashlib
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from lmlab.cli import main
from lmlab.compat import kenlm
from lmlab.errors import ArtifactError, SettingError, UsageError
from lmlab.kernels.ngram import kenlm_files, plain_kenlm_files
from lmlab.kernels.ngram.kenlm_layout import MAGIC
from lmlab.models.ngram import arpa, listing
from lmlab.models.ngram.kenlm_file import KenlmFile
from lmlab.models.ngram.kenlm_write import write_probing

GOLDEN = Path(__file__).parents[2] / "golden"
BINARIES = sorted(path.name.removesuffix(".bin.gz") for path in (GOLDEN / "binary").glob("*.bin.gz"))
QUESTIONS = (GOLDEN / "questions.txt").read_bytes().decode().split("\n")
ENDS = list(itertools.product((True, False), repeat=2))  # bos, eos
BUILT = {
    "words_o2": "40f6d78cae45e0b17fc76ac364eb837d9c90cf27ff0349f0e761437f5567be97",
    "words_o3": "6c31861b7d686a563c95e5890b5597efa8460c8fa49a6e53a264544d063c7fb7",
    "words_o5": "0f8d97947b778ad10fee549db71e79759dfcc6178fc66e3d088f462796ff1617",
    "few_o3": "09fa541568bd91f414b7ae90e1007e16a300d9b79aebbc4e5757960a1ea2a240",
    "chars_o6": "ac78efb0859e74b61473d69734ad27f1da128685e0d2a31ac9a5008dca79d498",
    "words_o4_prune001": "3e1396d5d5d8211c2cdfe7db458b03670be19b27aa85aca046cda55c1d0ae577",
    "words_o3_prune012": "8ba5d1120c91e260e6420f49567fa79686979605c0f63b0024697066183d5c11",
}
"""SHA-256 of what KenLM's `build_binary probing` makes of the ARPA file that `arpa.write` writes of each model."""


@pytest.fixture(scope="module")
def binaries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("binary")
    paths = {name: folder / f"{name}.bin" for name in BINARIES}
    for name, path in paths.items():
        path.write_bytes(gzip.decompress((GOLDEN / "binary" / f"{name}.bin.gz").read_bytes()))
    return paths


@pytest.fixture(scope="module")
def said():
    return json.loads(gzip.decompress((GOLDEN / "binary" / "scores.json.gz").read_bytes()))


@pytest.mark.parametrize("name", BINARIES)
def test_scores_are_kenlms_to_the_last_bit(binaries, said, name):
    model = kenlm.Model(binaries[name])
    for sentence, four in zip(QUESTIONS, said[name], strict=True):
        for ends, full in zip(ENDS, four, strict=True):
            assert [list(told) for told in model.full_scores(sentence, *ends)] == full
            assert model.score(sentence, *ends) == sum((np.float32(told[0]) for told in full), np.float32(0))


@pytest.mark.parametrize("name", BINARIES)
def test_the_twin_answers_the_same(binaries, name):
    file, model = KenlmFile(binaries[name]), kenlm.Model(binaries[name])
    tables = plain_kenlm_files.Tables(file._bytes, file._head, file._levels)
    assert [len(level) for level in tables.levels] == list(file.counts)
    begin, end = file.id_of(b"<s>"), file.id_of(b"</s>")
    for sentence, (bos, eos) in itertools.product(QUESTIONS, ENDS):
        asked = sentence.encode(), begin if bos else -1, end if eos else -1
        told, total = plain_kenlm_files.score_sentence(tables, *asked)
        assert (told, total) == (list(model.full_scores(sentence, bos, eos)), model.score(sentence, bos, eos))


@pytest.mark.parametrize("name", BINARIES)
def test_word_by_word_is_what_a_whole_sentence_is(binaries, name):
    model = kenlm.Model(binaries[name])
    for sentence in QUESTIONS:
        state, after = kenlm.State(), kenlm.State()
        model.BeginSentenceWrite(state)
        for full in model.full_scores(sentence, eos=False):
            word = sentence.split()[0]
            sentence = sentence.partition(word)[2]
            assert model.BaseFullScore(state, word, after) == full
            state, after = after, kenlm.State()
    model.NullContextWrite(state)
    assert state == kenlm.State()


@pytest.mark.parametrize("text", [b"", b"a", b"<unk>", b"seven77", b"eight888", b"nine99999", b"\xff\x80" * 20])
def test_the_hash_of_words(text):
    assert int(kenlm_files.hash_of(np.frombuffer(text, np.uint8), 0, len(text))) == plain_kenlm_files.hash_of(text)


@pytest.mark.parametrize("name", BUILT)
def test_what_is_written_is_what_build_binary_writes(tmp_path, name):
    path, (trie, words) = tmp_path / "model.bin", arpa.read(GOLDEN / f"{name}.arpa.gz")
    write_probing(path, listing.of(trie, words))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == BUILT[name]
    file, model, ours = KenlmFile(path), kenlm.Model(path), kenlm.Model(GOLDEN / f"{name}.arpa.gz")
    assert file.words == [b"<unk>", b"<s>", b"</s>", *words]
    assert file.counts[1:] == trie.ngrams[1:]
    for sentence in QUESTIONS:
        assert model.score(sentence) == pytest.approx(ours.score(sentence), abs=1e-4)


def test_keys_are_placed_as_the_twin_places_them():
    key_G = np.random.default_rng(0).integers(0, 40, 30).astype(np.uint64) * np.uint64(2**60 + 1)
    slot_G, plain_G = np.empty(30, np.int64), np.empty(30, np.int64)
    kenlm_files.place_keys(key_G, 31, slot_G)
    plain_kenlm_files.place_keys(key_G, 31, plain_G)
    assert slot_G.tolist() == plain_G.tolist()
    assert len(set(slot_G.tolist())) == 30


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A file as it never was: bits turned, numbers made huge, parts left out, cut short or doubled."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 10))):
        at = rng.randrange(len(changed)) if rng.random() < 0.5 else rng.randrange(min(300, len(changed)))
        match rng.randrange(5):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + 8] = rng.choice((b"\xff", b"\0", b"\x7f")) * len(changed[at : at + 8])
            case 2:
                changed[at : at + 4] = rng.randbytes(len(changed[at : at + 4]))
            case 3:
                del changed[at : at + rng.randrange(1, 100)]
            case 4:
                del changed[at:]
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("name", BINARIES)
def test_a_damaged_file_is_refused_or_scored_within_its_bounds(binaries, tmp_path, name):
    content, rng, refused = binaries[name].read_bytes(), random.Random(name), 0
    for number in range(150):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(damaged(content, rng))
        try:
            model = kenlm.Model(path)
        except kenlm.CannotReadError:
            refused += 1
            continue
        for sentence in QUESTIONS[:12]:
            assert isinstance(model.score(sentence), float)
    assert 10 < refused < 150


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Cannot read model"),
        (b"mmap lm http://kheafield.com/code incomplete\n", "not finished"),
        (MAGIC + b"4\n" + bytes(200), "version '4'"),
        (MAGIC + b"5\n", "cut short"),
    ],
)
def test_what_is_no_whole_binary_is_named(tmp_path, content, said):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(kenlm.CannotReadError, match=said):
        kenlm.Model(tmp_path / "model.bin")


def test_a_file_without_its_words_scores_but_names_none(binaries):
    model = kenlm.Model(binaries["words_o3_prune012.probing-v"])
    assert "the" in model
    with pytest.raises(ArtifactError, match="without its words"):
        _ = model.ids


def test_the_verbs_read_and_write_binaries(binaries, tmp_path, capsys, monkeypatch):
    arpa_file, out = GOLDEN / "words_o3_prune012.arpa.gz", tmp_path / "out.bin"
    assert main(["ngram", "binary", str(arpa_file), str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == out.stat().st_size
    (tmp_path / "text").write_text("\n".join(QUESTIONS[:20]))
    shown = {}
    for model in (arpa_file, out, binaries["words_o3_prune012.trie"]):
        assert main(["ngram", "query", str(model), str(tmp_path / "text"), "--json"]) == 0
        shown[model] = json.loads(capsys.readouterr().out)
        assert main(["ngram", "query", str(model), str(tmp_path / "text"), "--json", "-v", "summary"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["perplexity_with_oovs"] == pytest.approx(shown[model]["perplexity_with_oovs"], rel=1e-5)
    expected = shown[arpa_file]
    for told in shown.values():
        assert told["perplexity_with_oovs"] == pytest.approx(expected["perplexity_with_oovs"], rel=1e-5)
        assert (told["oovs"], told["tokens"]) == (expected["oovs"], expected["tokens"])


@pytest.mark.parametrize("multiplier", ["1", "0", "-2", "nan", "inf", "a"])
def test_a_multiplier_out_of_bounds_is_refused(tmp_path, capsys, multiplier):
    words = ["ngram", "binary", str(GOLDEN / "few_o3.arpa.gz"), str(tmp_path / "a.bin"), "--multiplier", multiplier]
    assert main(words) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "a.bin").exists()


def test_models_that_kenlm_cannot_hold_are_refused(tmp_path):
    trie, words = arpa.read(GOLDEN / "words_o1.arpa.gz")
    with pytest.raises(UsageError, match="one length alone"):
        listing.of(trie, words)
    trie, words = arpa.read(GOLDEN / "words_o2.arpa.gz")
    with pytest.raises(SettingError, match="multiplier"):
        write_probing(tmp_path / "a.bin", listing.of(trie, words), math.nan)
