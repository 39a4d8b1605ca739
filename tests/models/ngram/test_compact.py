from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmlab.errors import ArtifactError
from lmlab.kernels import engine
from lmlab.kernels.ngram import compact as compact_kernels
from lmlab.kernels.ngram.compact_trie import CompactTrie, _steps
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.counts import count_ngrams
from lmlab.models.ngram.smoothing import SMOOTHINGS, absent_of, rules_of
from lmlab.vocabulary import BOS

from .reference import lay

V = 9
TEXT = st.lists(st.lists(st.integers(4, 7), max_size=9), min_size=1, max_size=6)
PRUNES: list[tuple[int, ...]] = [(0, 0, 1), (0, 1), (0, 1, 2, 3)]


def zipf(documents: int, vocab_size: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 60, documents)
    return [(3 + rng.zipf(1.3, length)).clip(max=vocab_size - 2).tolist() for length in lengths]


def packed(
    train: list[list[int]],
    order: int,
    vocab_size: int = V,
    smoothing: str = "kneser-ney",
    prune: tuple[int, ...] = (),
) -> CompactTrie:
    levels = count_ngrams(lay(train), order, vocab_size)
    return CompactTrie.of(levels, rules_of(levels, smoothing), prune, absent_of(smoothing))


def fast(test: list[list[int]], train: list[list[int]], choices: Ngram.Settings, vocab_size: int = V) -> np.ndarray:
    with engine.only(kernels=True):
        return Ngram.estimate(choices, vocab_size, lay(train)).logp_array(lay(test))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=30)
@given(train=TEXT, test=TEXT, order=st.integers(1, 5))
def test_scores_are_those_of_the_fast_layout(
    train: list[list[int]], test: list[list[int]], order: int, smoothing: str
) -> None:
    expected_N = fast(test, train, Ngram.Settings(order, smoothing))
    assert np.array_equal(packed(train, order, smoothing=smoothing).logp_array(lay(test)), expected_N)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [2, 5])
def test_so_they_are_with_many_blocks_and_wide_contexts(order: int, smoothing: str) -> None:
    train, test = zipf(600, 3000, 0), zipf(60, 3000, 1)
    compact = packed(train, order, 3000, smoothing=smoothing)
    assert compact.levels[1][compact_kernels.MANY_WIDE] > 3
    assert np.array_equal(compact.logp_array(lay(test)), fast(test, train, Ngram.Settings(order, smoothing), 3000))


@pytest.mark.parametrize("prune", PRUNES)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_pruned_models_score_alike(smoothing: str, prune: tuple[int, ...]) -> None:
    train, test = zipf(600, 3000, 0), zipf(60, 3000, 1)
    compact = packed(train, 4, 3000, smoothing=smoothing, prune=prune)
    model = Ngram.estimate(Ngram.Settings(4, smoothing, prune=prune), 3000, lay(train))
    assert compact.ngrams == model.ngrams
    assert compact.ngrams[3] < packed(train, 4, 3000).ngrams[3]
    np.testing.assert_allclose(compact.logp_array(lay(test)), model.logp_array(lay(test)), rtol=5e-7)


def test_what_is_dropped_leaves_a_level_empty() -> None:
    compact = packed([[4, 5], [5, 6, 4]], 4, prune=(0, 0, 9))
    assert compact.ngrams[2:] == (0, 0)
    assert np.isfinite(compact.logp_array(lay([[4, 5, 6]]))).all()


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@settings(deadline=None, max_examples=20)
@given(train=TEXT, test=TEXT, order=st.integers(1, 5))
def test_rows_step_by_step_hold_the_same_scores(
    train: list[list[int]], test: list[list[int]], order: int, smoothing: str
) -> None:
    compact, scores = packed(train, order, smoothing=smoothing), []
    for document in test:
        contexts = compact.begin([[BOS]])
        scores.append(0.0)
        for word in [*document, 3]:
            scores.append(compact.rows(contexts)[0, word])
            contexts = compact.advance(contexts, np.array([word]))
    assert np.array_equal(compact.logp_array(lay(test)), np.array(scores, dtype=np.float32))


def test_rows_are_those_of_the_fast_layout() -> None:
    train, prompts = zipf(300, 500, 0), [[BOS, 4, 5], [], [5, 4, 4, 4, 6], [498]]
    model = Ngram.estimate(Ngram.Settings(4), 500, lay(train))
    compact = packed(train, 4, 500)
    expected_BV = model.trie.rows(model.trie.begin(prompts))
    np.testing.assert_allclose(compact.rows(compact.begin(prompts)), expected_BV, atol=2e-6)


def test_threads_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compact, test = packed(zipf(100, 300, 0), 5, 300), lay(zipf(30, 300, 1))
    whole_N = compact.logp_array(test, threads=1)
    monkeypatch.setattr("lmlab.kernels.ngram.compact_trie.PIECE", 7)
    assert np.array_equal(compact.logp_array(test, threads=2), whole_N)


@pytest.mark.parametrize("most", [0, 1, 3, 1000, 2**20 + 5, 2**32 - 1])
def test_ladders_hold_any_number(most: int) -> None:
    rng = np.random.default_rng(most)
    number_B = np.append((most ** rng.random(63)).astype(np.int64), most)
    widths = _steps(number_B)
    level = np.zeros(200, dtype=np.uint64)
    level[: 1 + len(widths)] = [len(widths), *widths]
    end = compact_kernels._write(level, 517, number_B.copy(), 0)
    assert compact_kernels._end(level, 517, 0) == end
    assert [compact_kernels._read(level, 517, i, 0) for i in range(64)] == number_B.tolist()


def test_it_is_small() -> None:
    train = zipf(3000, 3000, 0)
    model = Ngram.estimate(Ngram.Settings(5), 3000, lay(train))
    assert packed(train, 5, 3000).nbytes * 8 < 16 * sum(model.ngrams)


# ---- keeping


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    packed(zipf(100, 300, 0), 3, 300).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("order", [1, 3])
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, order: int) -> None:
    compact, test = packed(zipf(100, 300, 0), order, 300, smoothing="stupid-backoff"), lay(zipf(30, 300, 1))
    compact.save(tmp_path)
    loaded = CompactTrie.load(tmp_path)
    assert (loaded.ngrams, loaded.absent, loaded.nbytes) == (compact.ngrams, compact.absent, compact.nbytes)
    assert not any(level.flags.owndata for level in loaded.levels)
    assert np.array_equal(loaded.logp_array(test), compact.logp_array(test))


@pytest.mark.parametrize("name", ["compact.json", "compact_1.npy", "compact_2.npy", "compact_3.npy"])
def test_damage_is_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    damaged = [b"", whole[: len(whole) // 2], whole[:-9]]
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 50 if name != "compact.json" else 0).tolist():
        damaged.append(whole[:at] + bytes([whole[at] ^ (1 << (at % 8))]) + whole[at + 1 :])
    for content in damaged:
        (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match="no sound compact n-gram model"):
            CompactTrie.load(folder).check()
    (folder / name).unlink()
    with pytest.raises(ArtifactError):
        CompactTrie.load(folder)


@pytest.mark.parametrize("about", [[], {}, {"crc32": [], "absent": 0}, {"crc32": 7}, {"crc32": [1, 2, 3], "absent": 0}])
def test_strange_descriptions_are_refused(folder: Path, about: object) -> None:
    (folder / "compact.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ArtifactError):
        CompactTrie.load(folder)


def test_levels_of_different_models_are_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    packed(zipf(90, 300, 5), 3, 300).save(other)
    said, others = (json.loads((where / "compact.json").read_text(encoding="utf-8")) for where in (folder, other))
    said["crc32"][1] = others["crc32"][1]
    (folder / "compact.json").write_text(json.dumps(said), encoding="utf-8")
    (folder / "compact_2.npy").write_bytes((other / "compact_2.npy").read_bytes())
    with pytest.raises(ArtifactError, match="contradicts"):
        CompactTrie.load(folder)


@settings(deadline=None, max_examples=100)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 63))
def test_wrong_runs_crash_nothing(at: int, bit: int) -> None:
    compact, test = packed(zipf(100, 300, 0)[:40], 3, 300), lay(zipf(10, 300, 1))
    levels = [level.copy() for level in compact.levels]
    for level in levels:
        runs = int(level[compact_kernels.RUNS])
        level[runs + at % (len(level) - runs)] ^= np.uint64(1 << bit)
    with np.errstate(all="ignore"):
        wrong = CompactTrie(tuple(levels), 0.0)
        assert len(wrong.logp_array(test)) == len(test)
