"""KenLM's interface: against our own scoring by arrays, and against what kenlm itself said."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import math
import pickle
import random
import struct
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lmlab
from lmlab.compat import kenlm as ours
from lmlab.errors import ArtifactError
from lmlab.kernels import engine
from lmlab.kernels.ngram import c_calls, calls, plain_calls
from lmlab.models.ngram import arpa
from lmlab.models.ngram.trie import Trie
from lmlab.vocabulary import BOS, EOS, UNK

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = [f"{a}{b}" for a in "bcdfgklmnprst" for b in ("a", "e", "io", "ü")]


def text(sentences: int, seed: int) -> str:
    """Lines whose words depend on the two before them."""
    rng = random.Random(seed)
    lines = []
    for _ in range(sentences):
        line = [0, 0]
        for _ in range(rng.randrange(1, 14)):
            line.append((3 * line[-1] + line[-2] + int(rng.expovariate(0.7))) % len(WORDS))
        lines.append(" ".join(WORDS[i] for i in line[2:]))
    return "\n".join(lines) + "\n"


def questions(many: int, seed: int) -> list[str]:
    """Sentences of known and unknown words, some empty, some with white space of every kind, some with markers."""
    rng = random.Random(seed)
    odd = ["zz", "[PAD]", "<bos>", "<unk>", "</s>", "é\xa0", "\x01"]
    known = text(many, seed).splitlines()
    mixed = ["".join(rng.choice(WORDS + odd) + rng.choice(" \t\v\f\r\n") * rng.randrange(1, 3) for _ in range(9))
             for _ in range(many)]  # fmt: skip
    return ["", "  ", *known, *mixed, " ".join(known)]  # the last is longer than what is looked at together


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kenlm") / "model"
    tokenizer = {"kind": "word", "split": "space", "vocab_size": None}
    lmlab.train(text=text(1500, 1), tokenizer=tokenizer, model="ngram", order=4, unit="line", out=path)
    return path


@pytest.fixture(scope="session")
def model(folder: Path) -> ours.Model:
    return ours.Model(str(folder))


@pytest.fixture(scope="session")
def parts(folder: Path) -> tuple[Trie, list[bytes]]:
    return ours.read(folder)


@pytest.fixture(scope="session")
def arpa_file(parts: tuple[Trie, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arpa") / "model.arpa"
    arpa.write(path, *parts)
    return path


def ids_of(words: list[bytes], sentence: str) -> list[int]:
    known = {word: id for id, word in enumerate(words, 4)} | {b"</s>": EOS}
    return [known.get(word, UNK) for word in sentence.encode().split()]


def test_scores_are_those_of_the_arrays(model: ours.Model, parts: tuple[Trie, list[bytes]]) -> None:
    trie, words = parts
    for sentence in questions(100, 2):
        with engine.only(False):
            logp_N = trie.logp_array(np.array([BOS, *ids_of(words, sentence), EOS], dtype=np.uint32))[1:]
        log10_N = logp_N.astype(float) / math.log(10)
        assert model.score(sentence) == pytest.approx(log10_N.sum(), abs=1e-5)
        assert model.score(sentence.encode(), eos=False) == pytest.approx(log10_N[:-1].sum(), abs=1e-5)
        full = list(model.full_scores(sentence))
        assert [prob for prob, _, _ in full] == pytest.approx(log10_N.tolist(), abs=1e-5)
        assert [oov for _, _, oov in full] == [id == UNK for id in [*ids_of(words, sentence), EOS]]
        assert model.perplexity(sentence) == pytest.approx(10 ** -log10_N.mean())


def test_lengths_are_those_of_the_longest_stored(model: ours.Model, parts: tuple[Trie, list[bytes]]) -> None:
    trie, words = parts
    stored: list[dict[tuple[int, ...], int]] = [{(): 0}]
    for level in trie.levels:
        contexts = list(stored[-1])
        stored.append({(*contexts[key >> 32], key & 0xFFFFFFFF): i for i, key in enumerate(level.key_G.tolist())})
    for sentence in questions(60, 3):
        ids = [BOS, *ids_of(words, sentence), EOS]
        expected = [
            max(k for k in range(1, min(i + 1, trie.order) + 1) if tuple(ids[i + 1 - k : i + 1]) in stored[k])
            for i in range(1, len(ids))
        ]
        assert [length for _, length, _ in model.full_scores(sentence)] == expected


def test_word_by_word_is_the_same(model: ours.Model) -> None:
    for bos, begin in ((True, model.BeginSentenceWrite), (False, model.NullContextWrite)):
        for sentence in questions(40, 4):
            state, after = ours.State(), ours.State()
            begin(state)
            for word, full in zip([*sentence.encode().split(), "</s>"], model.full_scores(sentence, bos), strict=True):
                again = model.BaseFullScore(state, word, after)
                assert (again.log_prob, again.ngram_length, again.oov) == (pytest.approx(full[0]), *full[1:])
                assert model.BaseScore(state, word, state) == again.log_prob  # the two may be one
                assert state == after


def test_states_are_values(model: ours.Model) -> None:
    one, other, nothing = ours.State(), ours.State(), ours.State()
    model.BeginSentenceWrite(one)
    model.NullContextWrite(nothing)
    model.BaseScore(one, "ba", one)
    model.BaseScore(one, "zz", other)
    assert other == nothing  # nothing follows an unknown word
    assert one != nothing
    assert nothing < one
    assert len({one, copy.copy(one), copy.deepcopy(one), nothing}) == 2
    assert one != "ba"
    for strange in (-1, 1 << 70, (9 << 40) + 5, (1 << 40) + 10_000_000, (2 << 40) + 0xFFFFFFFF, "ba"):
        nothing.context = strange  # of some other model
        with pytest.raises((TypeError, OverflowError)):
            model.BaseScore(nothing, "ba", nothing)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_short_orders(order: int, tmp_path: Path) -> None:
    tokenizer = {"kind": "word", "split": "space", "vocab_size": None}
    lmlab.train(text=text(100, 8), tokenizer=tokenizer, model="ngram", order=order, unit="line", out=tmp_path / "m")
    model, (trie, words) = ours.Model(tmp_path / "m"), ours.read(tmp_path / "m")
    for sentence in questions(20, 9):
        logp_N = trie.logp_array(np.array([BOS, *ids_of(words, sentence), EOS], dtype=np.uint32))[1:]
        log10_N = logp_N.astype(float) / math.log(10)
        assert [prob for prob, _, _ in model.full_scores(sentence)] == pytest.approx(log10_N.tolist(), abs=1e-5)
        state = ours.State()
        model.BeginSentenceWrite(state)
        assert [model.BaseScore(state, word, state) for word in (*sentence.encode().split(), "</s>")] == pytest.approx(
            log10_N.tolist(), abs=1e-5
        )


def test_stupid_backoff_pays_for_contexts_never_seen(tmp_path: Path) -> None:
    tokenizer = {"kind": "word", "split": "space", "vocab_size": None}
    settings = {"kind": "ngram", "order": 3, "smoothing": "stupid-backoff"}
    lmlab.train(text=text(100, 8), tokenizer=tokenizer, model=settings, unit="line", out=tmp_path / "m")
    model, (trie, words) = ours.Model(tmp_path / "m"), ours.read(tmp_path / "m")
    for sentence in questions(20, 9):
        logp_N = trie.logp_array(np.array([BOS, *ids_of(words, sentence), EOS], dtype=np.uint32))
        expected = logp_N.sum(dtype=np.float64) / math.log(10)
        assert model.score(sentence) == pytest.approx(expected, rel=1e-6)
        state = ours.State()
        model.BeginSentenceWrite(state)
        assert sum(model.BaseScore(state, w, state) for w in (*sentence.encode().split(), "</s>")) == pytest.approx(
            expected
        )


def test_words_known(model: ours.Model) -> None:
    assert all(word in model for word in ("ba", b"ba", "tü", "<s>", "</s>"))
    assert not any(word in model for word in ("", "zz", "<unk>", "[UNK]", "<bos>", "ba be"))


@pytest.mark.parametrize("wrong", [None, 3, ["ba"], bytearray(b"ba")])
def test_what_is_no_text_is_refused(model: ours.Model, wrong: object) -> None:
    for call in (model.score, model.full_scores, model.__contains__):
        with pytest.raises(TypeError):
            call(wrong)  # type: ignore[operator]
    with pytest.raises(UnicodeEncodeError):
        model.score("\ud800")


def test_pickled_and_shared_by_threads(model: ours.Model, folder: Path) -> None:
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert again.path == model.path == str(folder).encode()
    assert again.order == 4
    assert repr(model) == "<Model from model>"
    sentences = questions(300, 5)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(again.score, sentences)) == [model.score(sentence) for sentence in sentences]


def test_an_arpa_file_gives_the_same(model: ours.Model, arpa_file: Path) -> None:
    read = ours.LanguageModel(str(arpa_file), ours.Config())
    for sentence in questions(50, 6):
        assert read.score(sentence) == pytest.approx(model.score(sentence), abs=1e-4)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "x.bin"
    binary.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    with pytest.raises(ArtifactError, match="cut short: 52 bytes are no whole header"):
        ours.Model(binary)
    with pytest.raises(OSError, match="Cannot read model"):
        ours.Model(str(tmp_path / "none"))
    lmlab.train(text="a b c " * 20, tokenizer="char", model="ngram", order=2, out=tmp_path / "char")
    with pytest.raises(ArtifactError, match="train with tokenizer word, split space"):
        ours.Model(tmp_path / "char")


def test_no_torch_is_loaded(folder: Path) -> None:
    code = (
        f"import sys; from lmlab.compat import kenlm; kenlm.Model({str(folder)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("plainly", [False, True])
@pytest.mark.parametrize("name", ["words_o5", "words_o4_prune001", "words_o2"])
def test_kenlm_says_the_same(name: str, plainly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kenlm 0.3.0 said of these sentences; `tests/golden/README.md` tells how it was asked."""
    if plainly:
        monkeypatch.setattr(calls, "TESTED", ())
        calls.works.cache_clear()
    rows = json.loads(gzip.decompress((GOLDEN / "scores.json.gz").read_bytes()))[name]
    model = ours.Model(GOLDEN / f"{name}.arpa.gz")
    assert isinstance(model._score, types.FunctionType) == (plainly or not calls.works())
    seen: dict[int, int] = {}
    for row in rows:
        sentence = row["sentence"]
        for full, (bos, eos) in zip(row["full"], itertools.product((True, False), repeat=2), strict=True):
            assert model.score(sentence, bos, eos) == pytest.approx(sum(p for p, _, _ in full), abs=1e-5, rel=1e-6)
            pairs = zip(model.full_scores(sentence, bos, eos), full, strict=True)
            assert all([*a[1:]] == b[1:] and abs(a[0] - b[0]) < 2e-6 for a, b in pairs)
        if row["perplexity"]:
            assert model.perplexity(sentence) == pytest.approx(row["perplexity"], rel=1e-5)
        state, after = ours.State(), ours.State()
        model.BeginSentenceWrite(state)
        for i, (word, number) in enumerate(zip(sentence.encode().split(), row["states"], strict=True)):
            told = model.BaseFullScore(state, word, after)
            logp, length, unknown = row["full"][0][i]
            assert (told.ngram_length, told.oov) == (length, unknown)
            assert told.log_prob == pytest.approx(logp, abs=2e-6)
            assert seen.setdefault(number, after.context) == after.context
            state, after = after, state
    assert len(set(seen.values())) == len(seen)  # they tell apart what we tell apart
    calls.works.cache_clear()


def test_what_the_self_check_finds_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = calls._sample()
    right = plain_calls.bind(*sample)
    assert calls.agree(right, plain_calls.bind(*sample))
    for wrong in (
        replace(right, score=lambda *asked: right.score(*asked) + 0.01),
        replace(right, full_scores=lambda *asked: right.full_scores(*asked) + bytes(12)),
        replace(right, step=lambda *asked: (*right.step(*asked)[:2], 1, False)),
    ):
        assert not calls.agree(wrong, right)
    monkeypatch.setattr(c_calls, "bind", lambda *_: wrong)
    calls.works.cache_clear()
    assert not calls.works()
    assert isinstance(calls.bind(*sample).score, types.FunctionType)
    calls.works.cache_clear()


@pytest.mark.skipif(not calls.works(), reason="the compiled functions are not tested with this Python")
def test_plain_calls_equal_the_compiled_ones(parts: tuple[Trie, list[bytes]]) -> None:
    trie, words = parts
    compiled, plain = (way(trie.levels, trie.absent, words) for way in (calls.bind, plain_calls.bind))
    assert not isinstance(compiled.score, types.FunctionType)
    for sentence in questions(60, 10):
        for bos, eos in itertools.product((True, False), repeat=2):
            assert plain.score(sentence, bos, eos) == pytest.approx(compiled.score(sentence, bos, eos), abs=1e-6)
            told = [
                struct.iter_unpack(plain_calls.RECORD, c.full_scores(sentence, bos, eos)) for c in (plain, compiled)
            ]
            for a, b in zip(*told, strict=True):
                assert (a[0], *a[1:]) == (pytest.approx(b[0], abs=1e-6), *b[1:])
    for wrong in (None, 3, bytearray(b"ba")):
        with pytest.raises(TypeError):
            plain.score(wrong, True, True)  # type: ignore[arg-type]
    for strange in (-1, 1 << 70, (9 << 40) + 5, (1 << 40) + 10_000_000, (2 << 40) + 0xFFFFFFFF):
        with pytest.raises(TypeError, match="some other model"):
            plain.step(strange, "ba")


def test_pyctcdecode_decodes_the_same(arpa_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("kenlm", reason="kenlm is not installed")
    decoder = pytest.importorskip("pyctcdecode.decoder", reason="pyctcdecode is not installed")
    language_model = sys.modules["pyctcdecode.language_model"]
    labels = ["", " ", *sorted(set("".join(WORDS)))]
    rng = np.random.default_rng(0)
    logits = [np.log(rng.dirichlet(np.full(len(labels), 0.15), size=40)).astype(np.float32) for _ in range(4)]
    beams = {}
    for kenlm in (theirs, ours):
        monkeypatch.setattr(decoder, "kenlm", kenlm)  # the one import that changes
        monkeypatch.setattr(language_model, "kenlm", kenlm)
        ctc = decoder.build_ctcdecoder(labels, str(arpa_file), WORDS, alpha=0.7, beta=1.0)
        beams[kenlm] = [ctc.decode_beams(each, beam_width=50) for each in logits]
    for their_beams, our_beams in zip(beams[theirs], beams[ours], strict=True):
        assert len(their_beams[0][0]) > 5
        assert [beam[0] for beam in our_beams] == [beam[0] for beam in their_beams]
        assert [beam[-1] for beam in our_beams] == pytest.approx([beam[-1] for beam in their_beams], abs=1e-4)
