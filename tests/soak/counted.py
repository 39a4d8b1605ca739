"""KenLM's binaries, ARPA files that are interpolated, and counts of shards, as nobody wrote them; sums made to hold."""

from __future__ import annotations

import functools
import gzip
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmlab.compat import kenlm
from lmlab.errors import ArtifactError
from lmlab.facade.estimate import merge
from lmlab.facade.shards import Shard, count_shard
from lmlab.kernels.ngram.kenlm_layout import MAGIC, Column, Head, layout_of
from lmlab.models.ngram import Ngram
from lmlab.models.ngram.count_files import read_about, read_arrays, write_arrays
from lmlab.progress import Silent
from tests.soak.campaign import WrongError
from tests.soak.directories import forged
from tests.soak.odd import Draw, damaged, one_changed

_GOLDEN = Path(__file__).parents[1] / "golden"
_HEADER = len(MAGIC) + 2 + 5 + 32  # bytes before what the file says of itself
_WHOLE = (0, 1, 2, 3, 7, 25, 26, 57, 63, 64, 65, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 47, 1 << 63)
_ENDS = ((True, True), (True, False), (False, True), (False, False))


class Counted:
    """Sound binaries of every kind, and counts of two texts, to be damaged."""

    def __init__(self, folder: Path) -> None:
        self.binaries = [gzip.decompress(path.read_bytes()) for path in sorted((_GOLDEN / "binary").glob("*.bin.gz"))]
        self.sentences = (_GOLDEN / "questions.txt").read_text(encoding="utf-8").split("\n")[:8]
        for data in self.binaries:
            (folder / "sound.bin").write_bytes(data)
            _asked(kenlm.Model(folder / "sound.bin"), self.sentences[0], True, True)  # compiled before cases are timed
        self.shards: list[Path] = []
        half = (folder / "text").read_text().splitlines(keepends=True)
        for name, order, lines in (("one", 3, half), ("two", 3, half[::2]), ("other", 2, half)):
            (folder / name).write_text("".join(lines))
            for shard in Shard.all_of([str(folder / name)], 2, Ngram.Settings(order=order)):
                self.shards.append(folder / f"counts-{name}-{shard.number}")
                count_shard(shard, self.shards[-1])


# -- KenLM's binaries -------------------------------------------------------------------------------------------------


def binary(draw: Draw, here: Path, base: Counted) -> None:
    """A binary of KenLM's whose header, tables or pointers are others: refused, or scored within its bounds."""
    data = bytearray(draw.choice(base.binaries))
    for _ in range(draw.choice((1, 1, 2, 4))):
        data = bytearray(draw.choice(_DAMAGES)(draw, data))
    path = here / "model.bin"
    path.write_bytes(data)
    model = kenlm.Model(path)
    for sentence in draw.sample(base.sentences, 2):
        _asked(model, sentence, *draw.choice(_ENDS))
    if draw.random() < 0.2 and len(model.ids) > len(data):
        raise WrongError("words from nowhere")


def _asked(model: kenlm.Model, sentence: str, bos: bool, eos: bool) -> None:
    told = list(model.full_scores(sentence, bos, eos))
    if len(told) != len(sentence.split()) + eos or not all(1 <= found <= model.order for _, found, _ in told):
        raise WrongError("scores of other words than were asked, or of longer n-grams than there are")
    with np.errstate(invalid="ignore", over="ignore"):
        total = sum((np.float32(logp) for logp, _, _ in told), np.float32(0))
    if not np.array_equal(np.float32(model.score(sentence, bos, eos)), total, equal_nan=True):
        raise WrongError("the sum of a sentence's words is not its score")
    state, after = kenlm.State(), kenlm.State()
    model.BeginSentenceWrite(state)
    for word in sentence.split():
        model.BaseFullScore(state, word, after)
        state, after = after, state


def _header(draw: Draw, data: bytearray) -> bytes:
    """Order, multiplier, kind, words, version of the kind, or a count of n-grams is another."""
    at = draw.choice((0, 4, 8, 12, 13, 16, *(20 + 8 * k for k in range(5)), draw.randrange(60)))
    said = struct.pack("<Q", draw.choice(_WHOLE))[: draw.choice((1, 4, 8))]
    if at == 4:
        said = struct.pack("<f", draw.choice((1.0, 1.5, 3.0, 0.5, 1e6, -1.0, float("nan"), float("inf"))))
    return bytes(data[: _HEADER + at] + said + data[_HEADER + at + len(said) :])


def _version(draw: Draw, data: bytearray) -> bytes:
    """The format, or the numbers that tell the machine, are others."""
    at = draw.randrange(len(MAGIC) - 3, _HEADER)
    return bytes(data[:at]) + draw.choice((b"0", b"4", b"6", b"\xff", draw.randbytes(1))) + bytes(data[at + 1 :])


def _inside(draw: Draw, data: bytearray) -> bytes:
    """Where the layout says that something begins, there stands another number; or the same one, all through."""
    try:
        head, levels_LF, _, words = layout_of(np.frombuffer(bytes(data), np.uint8), "it")
    except ArtifactError:
        return damaged(draw, bytes(data))
    level_F = draw.choice(list(levels_LF))
    node = draw.randrange(int(level_F[Column.ENTRIES]) + 1)
    size = int(level_F[Column.ENTRY])
    begins = [
        int(head[Head.VOCAB]) + draw.choice((-8, -4, 0, 8, 12 * draw.randrange(int(head[Head.BUCKETS]) + 1))),
        int(head[Head.UNIGRAMS]) + draw.randrange(int(head[Head.BOUND]) + 1) * int(head[Head.UNIGRAM_BYTES]),
        int(head[Head.UNIGRAMS]) + draw.choice((8, 24, 16 * draw.randrange(int(head[Head.BOUND]) + 1) + 8)),
        int(level_F[Column.AT]) + (node * size // 8 if head[Head.KIND] >= 2 else node * size),
        int(level_F[draw.choice((Column.OFFSETS, Column.PROBS, Column.BACKOFFS))]) + 8 * draw.randrange(-1, 20),
        (words or 0) + draw.randrange(40),
    ]
    at = min(max(draw.choice(begins), 0), len(data) - 1)
    said = draw.choice((
        struct.pack("<Q", draw.choice(_WHOLE)), struct.pack("<Q", len(data) + draw.choice((-8, 0, 8))),
        struct.pack("<f", draw.choice((float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3e38, 1e-45))),
        draw.randbytes(8), data[at : at + 16],
    ))  # fmt: skip
    many = draw.choice((1, 1, 1, 40, 10**4))
    data[at : at + len(said) * many] = (said * many)[: len(data) - at]
    return bytes(data)


_DAMAGES: list[Callable[[Draw, bytearray], bytes]] = [
    _header, _inside, _inside, _inside, _version, lambda draw, data: damaged(draw, bytes(data)),
]  # fmt: skip


# -- files that are brought together ----------------------------------------------------------------------------------


def pair(draw: Draw, here: Path, sources: Sequence[bytes], run: Callable[[list[str], Path], None]) -> None:
    """ARPA files, sound or not, of any vocabulary and order, interpolated with odd weights or a text."""
    few = [b"\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-.1\t</s>\n\n\\end\\\n", _small()]
    words = ["kenlm", "interpolate", "-m"]
    for number in range(draw.choice((1, 2, 2, 3))):
        data = draw.choice((*sources, *few))
        if draw.random() < 0.2:
            for old in (b"\t<s>", b"\t</s>", b"\t<unk>", b"-"):
                data = data.replace(old, b"\tx") if draw.random() < 0.3 else data
        path = here / f"{number}.arpa"
        path.write_bytes(damaged(draw, data) if draw.random() < 0.3 else data)
        words.append(str(path))
    if draw.random() < 0.6:
        odd = ("0.5", "0.5", "1", "0", "-1", "0.3", "nan", "inf", "1e308", "x", "", "0.7")
        words += ["-w", *(draw.choice(odd) for _ in words[3 - draw.choice((0, 0, 0, 1)) :])]
    if draw.random() < 0.5:
        (here / "tune").write_bytes(damaged(draw, b"the end of\nnaive the\n\n<s> </s> \xff the\n"))
        words += ["-t", str(here / "tune")]
    run([*words, *draw.choice(((), ("--linear",), ("--just_tune",), ("--linear", "--just_tune")))], here)


@functools.cache
def _small() -> bytes:
    return gzip.decompress((_GOLDEN / "few_o3.arpa.gz").read_bytes())


def shards(draw: Draw, here: Path, base: Counted) -> None:
    """Counts of which some are missing, doubled, of another order, version or text, or forged: all told, or whole."""
    chosen = [draw.choice(base.shards) for _ in range(draw.choice((1, 2, 3)))]
    if draw.random() < 0.7:
        chosen = draw.choice((base.shards[:2], base.shards[2:4], base.shards[:4], base.shards[4:]))
    folders = []
    for number, source in enumerate(chosen):
        folders.append(here / f"counts-{number}")
        shutil.rmtree(folders[-1], ignore_errors=True)
        shutil.copytree(source, folders[-1])
    sound = chosen in (base.shards[:2], base.shards[2:4])
    if draw.random() < 0.8:
        _forge(draw, draw.choice(folders))
        sound = False
    lm = merge(*folders, reporter=Silent())
    expected = _expected(tuple(chosen)) if sound else None
    if expected and lm.manifest["results"]["ngrams"] != expected:
        raise WrongError("another model than that of one process")
    lm.score("the end of")


@functools.cache
def _expected(folders: tuple[Path, ...]) -> Any:
    return merge(*folders, reporter=Silent()).manifest["results"]["ngrams"]


def _forge(draw: Draw, folder: Path) -> None:
    """An array or the description is another, signed anew; or bytes are, and nothing is signed."""
    about = read_about(folder)
    arrays = dict(zip(about["arrays"], map(np.array, read_arrays(folder, *about["arrays"])), strict=True))
    kept = {key: value for key, value in about.items() if key not in ("arrays", "sha256")}
    change = draw.random()
    if change < 0.2:
        path = draw.choice(sorted(folder.iterdir()))
        path.write_bytes(damaged(draw, path.read_bytes()))
        return
    if change < 0.5:
        kept = one_changed(kept, draw)
    else:
        name = draw.choice(list(arrays))
        arrays[name] = forged(draw, arrays[name])
        if arrays[name].ndim != 1:
            return
    write_arrays(folder, arrays.items(), kept, lasting=False)
