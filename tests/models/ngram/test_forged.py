"""Model directories whose arrays were forged and signed again by the normal writer: refused, or used within bounds."""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lmlab
from lmlab.errors import ArtifactError
from lmlab.facade.estimate import ngram_of, with_trie
from lmlab.kernels import engine
from lmlab.kernels.ngram import calls
from lmlab.kernels.ngram.compact_trie import CompactTrie
from lmlab.kernels.ngram.layout import Level, check_arrays
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.prune import by_entropy
from lmlab.models.ngram.trie import Trie

from .reference import lay

WORDS = [b"%d" % word for word in range(60)]
NAMES = ("key_G", "suffix_G", "logp_G", "backoff_G")
ODD = (0, 1, 2, 31, 32, 63, 64, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)
ODD_LOGS = (np.nan, np.inf, 1e-3, 1e30, 3e38, -3e38, -np.inf, -0.0)
DTYPES = ("<u8", "<u4", "<i4", "<f4", "<f8", ">u8", ">f4", "<c8", "<u2", "S3")


def sentences(seed: int, many: int = 150) -> np.ndarray:
    rng = random.Random(seed)
    return lay([[4 + min(int(rng.expovariate(0.12)), 59) for _ in range(rng.randrange(9))] for _ in range(many)])


def made(layout: str, prune: tuple[int, ...] = ()) -> Ngram:
    settings = Ngram.Settings(3, layout=layout, prune=prune)
    return Ngram.estimate(settings, 4 + len(WORDS), sentences(0))


def odd(rng: random.Random, dtype: Any, value: Any) -> Any:
    """Another number of a type: an odd one, or one that differs in its higher or lower half."""
    if dtype == "<f4":
        return np.float32(rng.choice(ODD_LOGS))
    half, other = 4 * dtype.itemsize, rng.choice((*ODD, rng.randrange(200)))
    high, low = divmod(int(value), 1 << half)
    return rng.choice((other, other << half | low, high << half | other)) & (1 << 2 * half) - 1


def forged_level(rng: random.Random, level: Level, name: str) -> Level:
    array = np.array(getattr(level, name))
    where = rng.randrange(len(array)) if len(array) else 0
    change = rng.choice(("one", "one", "one", "many", "swap", "all", "type", "shape", "longer", "shorter", "order"))
    if not len(array) or change == "longer":
        array = np.append(array, array[:1] if len(array) else np.zeros(1, array.dtype)).astype(array.dtype)
    elif change in ("one", "many"):
        array[where if change == "one" else slice(where, where + 9)] = odd(rng, array.dtype, array[where])
    elif change == "swap":
        array[[where, -1]] = array[[-1, where]]
    elif change == "all":
        array[:] = array[where]
    elif change == "type":
        array = array.astype(rng.choice(DTYPES)) if rng.random() < 0.5 else array.view(array.dtype.newbyteorder(">"))
    elif change == "shape":
        array = array.reshape(rng.choice([(1, -1), (-1, 1)]))
    elif change == "shorter":
        array = array[: len(array) // 2]
    else:
        array = array[::-1].copy()
    return replace(level, **{name: array})


def used(model: Ngram) -> None:
    """All that reads the arrays, compiled."""
    trie, ids_N = model.trie, sentences(1, 60)
    found = [trie.logp_array(ids_N)]
    contexts = trie.begin([[2], [2, 4, 5], [], [*ids_N[:7].tolist()]])
    found.append(trie.rows(trie.advance(contexts, np.array([4, 5, 6, 7]))))
    if isinstance(trie, Trie):
        found += [trie.tables.logp_array(ids_N), trie.row_tables.rows(contexts)]
        functions = calls.bind(trie.levels, trie.absent, WORDS, trie.bos_logp)
        context = 0
        for word in ids_N.tolist():
            context, logp, _, _ = functions.step(context, WORDS[max(0, word - 4)])
            found.append(np.array([logp]))
        functions.full_scores(" ".join(map(str, range(60))), True, True)
        assert sum(len(ids_MK) for ids_MK, _, _ in trie.pieces(3)) == trie.ngrams[2]
        by_entropy(trie, 1e-3, None, None)
    assert not any(np.isnan(numbers).any() for numbers in found)


def attack(folder: Path, save: Callable[[], None], layout: str) -> str:
    """What comes of a forged folder: the refusal, or nothing."""
    save()
    try:
        model = Ngram.load(folder, Ngram.Settings(3, layout=layout), 4 + len(WORDS))
        model.check()
        with engine.only(True):
            used(model)
    except ArtifactError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore:overflow", "ignore:divide", "ignore:invalid")
def test_forged_tries(tmp_path: Path) -> None:
    model = made("fast")
    refused = []
    for number in range(200):
        rng, levels = random.Random(number), list(model.trie.levels)
        for _ in range(rng.choice((1, 1, 2))):
            k = rng.randrange(3)
            levels[k] = forged_level(rng, levels[k], rng.choice(NAMES))
        forged = Ngram(model.settings, Trie(tuple(levels), 0.0))
        refused.append(attack(tmp_path, lambda forged=forged: forged.save(tmp_path), "fast"))  # type: ignore[misc]
    check(refused)


def check(refused: list[str]) -> None:
    """Neither all nor none are refused, each in a line."""
    assert all("\n" not in message and len(message) < 400 for message in refused)
    assert 0.2 < np.mean([bool(message) for message in refused]) < 0.97


@pytest.mark.filterwarnings("ignore:overflow", "ignore:divide", "ignore:invalid")
def test_forged_compact_tries(tmp_path: Path) -> None:
    refused = []
    for number in range(200):
        rng = random.Random(number)
        model = COMPACT[number % 2]
        levels = [np.array(level) for level in model.trie.levels]
        for _ in range(rng.choice((1, 1, 3))):
            level = rng.choice(levels)
            where = rng.choice((rng.randrange(40), rng.randrange(len(level)), rng.randrange(40, min(len(level), 400))))
            value, half = int(level[where]), rng.choice(ODD)
            values = (
                half,
                value ^ (1 << rng.randrange(64)),
                (value & 0xFFFFFFFF) | (half << 32 & (1 << 64) - 1),
                value + 1,
            )
            level[where] = (
                rng.choice((*values, int(np.float64(rng.choice((np.nan, -1.0, 9e9))).view(np.uint64)))) & (1 << 64) - 1
            )
        forged = Ngram(model.settings, CompactTrie(tuple(levels), 0.0))
        refused.append(attack(tmp_path, lambda forged=forged: forged.save(tmp_path), "compact"))  # type: ignore[misc]
    check(refused)


COMPACT = [made("compact"), made("compact", (0, 0, 1))]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ngrams", value) for value in ([], [64], [64, -1, 5], [64, "x", 5], [64, 1 << 62, 1], [64.0, 1.0, 1.0], 3)),
        *(("absent", value) for value in (math.nan, -math.inf, 0.5, "x", None)),
        *(("bos", value) for value in (math.nan, 0.5, "x", [])),
        *(("crc32", value) for value in ({}, [], {"key_1.npy": 3}, {"key_1.npy": []})),
        ("notes", 3),
    ],
)
def test_forged_descriptions(tmp_path: Path, name: str, value: object) -> None:
    made("fast").save(tmp_path)
    about = json.loads((tmp_path / "ngram.json").read_text())["model"] | {name: value}
    (tmp_path / "ngram.json").write_text(json.dumps({"model": about, "crc32": zlib.crc32(json.dumps(about).encode())}))
    with pytest.raises(ArtifactError, match="is no sound n-gram model") as caught:
        Ngram.load(tmp_path, Ngram.Settings(3), 4 + len(WORDS))
    assert "\n" not in str(caught.value)


def test_opening_a_forged_directory(tmp_path: Path) -> None:
    """The arrays are looked through when a model directory is opened, however well its sums fit."""
    (tmp_path / "text").write_text("a b a b c\nb c a\n" * 5)
    lm = lmlab.estimate(tmp_path / "text", order=3)
    levels = list(ngram_of(lm).fast_trie.levels)
    levels[1] = replace(levels[1], suffix_G=levels[1].suffix_G + np.uint32(1000))
    with_trie(lm, Trie(tuple(levels), 0.0), "forged").save(tmp_path / "m")
    with pytest.raises(ArtifactError, match="suffix_2 of the n-gram model has 1,00"):
        lmlab.load(tmp_path / "m")


def test_what_a_refusal_names() -> None:
    levels = made("fast").trie.levels
    changes = [
        (1, "suffix_G", 64, "suffix_2 of the n-gram model has 64, but must be at most 63"),
        (1, "key_G", 1 << 40, "key_2 of the n-gram model does not ascend from number 0 on"),
        (1, "logp_G", np.nan, "logp_2 of the n-gram model has nan, but must be at most 0"),
        (1, "backoff_G", np.inf, "backoff_2 .* has inf, but must be at most 10,000,000,000"),
        (0, "suffix_G", 1, "suffix_1 .* has 1, but must be at most 0"),
    ]
    for k, name, value, message in changes:
        array = np.array(getattr(levels[k], name))
        array[3] = value
        forged = [replace(level, **{name: array}) if k == at else level for at, level in enumerate(levels)]
        with pytest.raises(ArtifactError, match=message):
            check_arrays(forged)
