"""Small ARPA files as tools write them, by number, and what is right of each: its own arithmetic, worked out by hand.

`python -m tests.models.ngram.arpa_files` asks KenLM (its module, and `build_binary` on the path) and writes
`tests/golden/arpa_kenlm.json.gz`.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

GOLDEN = Path(__file__).parents[2] / "golden" / "arpa_kenlm.json.gz"
KEPT = 48  # files of which the golden file holds what KenLM says
WORDS = ["a", "bé", "\\c", "-1", "d\xa0d", "<x>", "é", "0.5"]
LATIN = b"caf\xe9"
PACKED = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
Gram = tuple[bytes, ...]


@dataclass
class File:
    """An ARPA file.

    Attributes:
        data: its bytes.
        grams: of each n-gram log10 p and log10 b, as they are to be read.
        options: to read it with.
        flags: what KenLM's build_binary needs to read it.
        refused: what a refusal says; empty where it is to be read.
        ways: how it differs from what lmplz writes.
    """

    data: bytes = b""
    grams: dict[Gram, tuple[float, float]] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    refused: str = ""
    ways: tuple[str, ...] = ()

    def refuse(self, said: str) -> None:
        """It is to be refused, for this or for what was wrong before."""
        self.refused = f"{self.refused}|{said}".strip("|")

    def logp(self, context: Gram, word: bytes) -> float:
        """Log10 p of a word by backing off; a context that is not stored costs nothing."""
        context = context[max(0, len(context) + 1 - max(map(len, self.grams))) :]
        if (*context, word) in self.grams:
            return self.grams[(*context, word)][0]
        if not context:
            return self.grams.get((b"<unk>",), (-100.0, 0.0))[0]
        return self.grams.get(context, (0.0, 0.0))[1] + self.logp(context[1:], word)

    def scores(self, sentence: Gram, bos: bool, eos: bool) -> list[float]:
        """Log10 p of each word, and of `</s>`."""
        known = [word if (word,) in self.grams else b"<unk>" for word in (*sentence, *[b"</s>"] * eos)]
        context: Gram = (b"<s>",) * bos
        told = []
        for word in known:
            told.append(self.logp(context, word))
            context = (*context, word)
        return told


def sentences(file: File, rng: random.Random) -> list[tuple[Gram, bool, bool]]:
    """Questions for a file: words, and whether `<s>` and `</s>` stand around them."""
    words = [gram[0] for gram in file.grams if len(gram) == 1 and gram[0] != b"</s>"] + [b"zzz"]
    bos, eos = ((mark,) in file.grams for mark in (b"<s>", b"</s>"))
    return [
        (tuple(rng.choices(words, k=rng.randrange(7))), bos and rng.random() < 0.6, eos and rng.random() < 0.6)
        for _ in range(8)
    ]


def made(number: int) -> File:
    """The file of a number."""
    rng, file = random.Random(number), File()
    ways = rng.sample(sorted(WAYS), rng.choice((0, 1, 1, 1, 2, 2, 3, 4)))
    grams = _grams(rng)
    lines = _Lines(rng, grams)
    for way in sorted(ways, key=list(WAYS).index):
        WAYS[way](lines, file)
    file.grams = {gram: (min(p, 0.0), b) for gram, (p, b) in lines.grams.items()}
    file.data, file.ways = lines.bytes(), tuple(ways)
    return file


def _grams(rng: random.Random) -> dict[Gram, tuple[float, float]]:
    """N-grams, of each its context and suffix too."""
    words = [b"<unk>", b"<s>", b"</s>", *(word.encode() for word in rng.sample(WORDS, rng.randrange(1, 7)))]
    order = rng.randrange(2, 5)
    grams: set[Gram] = {(word,) for word in words}
    for _ in range(rng.randrange(1, 12)):
        inner = rng.choices([word for word in words if word not in (b"<s>", b"</s>")], k=rng.randrange(order + 1))
        gram = (*[b"<s>"] * (rng.random() < 0.4), *inner, *[b"</s>"] * (rng.random() < 0.4))[:order]
        for start in range(len(gram)):
            grams.update(gram[start:stop] for stop in range(start + 1, len(gram) + 1))
    while max(map(len, grams)) < 2:  # KenLM has no unigram models
        grams.add((b"<s>", words[3]))
    longest = max(map(len, grams))
    ordered = sorted(grams, key=lambda gram: (len(gram), gram))
    rng.shuffle(ordered)
    return {
        gram: (-round(rng.uniform(0, 5), 6), 0.0 if len(gram) == longest else round(rng.uniform(-3, 0.5), 6))
        for gram in sorted(ordered, key=len)
    }


class _Lines:
    """The text of a file before it is bytes."""

    def __init__(self, rng: random.Random, grams: dict[Gram, tuple[float, float]]) -> None:
        self.rng, self.grams = rng, grams
        self.order = max(map(len, grams))
        self.said: dict[Gram, tuple[bytes, bytes]] = {}  # the numbers of some n-grams, as they are written
        self.counts = dict.fromkeys(range(1, self.order + 1), 0)  # what the header says too much
        self.before, self.after = b"", b""
        self.changes: list[Callable[[bytes], bytes]] = []
        self.again: list[Gram] = []

    def some(self, *lengths: int) -> list[Gram]:
        """A few of the n-grams, words with a meaning of their own left out."""
        fit = [gram for gram in self.grams if gram[-1][:1] != b"<" and (not lengths or len(gram) in lengths)]
        return self.rng.sample(fit, min(len(fit), self.rng.randrange(1, 4)))

    def bytes(self) -> bytes:
        """The file."""
        grams = [*self.grams, *self.again]
        lines = [b"\\data\\"]
        lines += [
            b"ngram %d=%d" % (k, sum(len(gram) == k for gram in grams) + self.counts[k])
            for k in range(1, self.order + 1)
        ]
        for k in range(1, self.order + 1):
            lines += [b"", b"\\%d-grams:" % k]
            for gram in (gram for gram in grams if len(gram) == k):
                p, b = self.said.get(gram, tuple(b"%.7g" % number for number in self.grams[gram]))
                lines.append(b"\t".join([p, b" ".join(gram), *[b] * (k < self.order and b != b"")]))
        text = b"\n".join([*lines, b"", b"\\end\\", b""])
        text = self.before + text + self.after
        for change in self.changes:
            text = change(text)
        return text


# ---- what differs, in the order in which it is done


def _numbers(p: bytes | None, b: bytes | None = None) -> Callable[[_Lines, File], None]:
    """Give some n-grams other numbers."""

    def change(lines: _Lines, file: File) -> None:
        lengths = range(1, lines.order + (b is None))
        for gram in lines.some(*lengths):
            old = lines.grams[gram]
            said = (p or b"%.7g" % old[0], b"%.7g" % old[1] if b is None else b)
            lines.said[gram] = said
            lines.grams[gram] = (float(said[0]), float(said[1] or b"0"))

    return change


def _positive(lines: _Lines, file: File) -> None:
    _numbers(b"0.25")(lines, file)
    file.options["positive"], file.flags = "zero", [*file.flags, "-i"]


def _positive_refused(lines: _Lines, file: File) -> None:
    if gram := lines.some(lines.order) or lines.some(1):
        lines.said[gram[0]] = (b"+1e-3", b"0")
        file.refuse("no log10 probability, a number up to 0: .*--positive zero")
        file.options.pop("positive", None)


def _without(*words: bytes) -> Callable[[_Lines, File], None]:
    def change(lines: _Lines, file: File) -> None:
        for gram in [gram for gram in lines.grams if set(words) & set(gram)]:
            del lines.grams[gram]
        if max(map(len, lines.grams)) < lines.order:  # the longest stay the longest
            word = next(gram for gram in lines.grams if gram[0] != b"<unk>")[0]
            for k in range(2, lines.order + 1):
                lines.grams.setdefault((word,) * k, (-0.5, -0.25 * (k < lines.order)))
        if words[0] != b"<unk>":
            file.flags = [*file.flags, "-s"]

    return change


def _lone(part: slice) -> Callable[[_Lines, File], None]:
    """Drop the contexts, or the suffixes, of the longest n-grams, as SRILM does where it prunes."""

    def change(lines: _Lines, file: File) -> None:
        for gram in lines.some(lines.order):
            if len(gram[part]) > 1:
                lines.grams.pop(gram[part], None)

    return change


def _other_unknown(lines: _Lines, file: File) -> None:
    lines.changes.append(lambda text: text.replace(b"<unk>", b"<UNK>"))


def _latin(lines: _Lines, file: File) -> None:
    lines.grams = {(LATIN,): (-1.5, -0.5), (LATIN, LATIN): (-2.0, 0.0), **lines.grams}
    file.options["errors"] = "replace"


def _latin_refused(lines: _Lines, file: File) -> None:
    lines.grams = {(LATIN,): (-1.5, -0.5), **lines.grams}
    file.options.pop("errors", None)
    file.refuse(r"line \d+: the word 'caf.+xe9' is not UTF-8: convert it with iconv.*--errors replace")


def _miscounted(more: int, refusal: str) -> Callable[[_Lines, File], None]:
    def change(lines: _Lines, file: File) -> None:
        lines.counts[lines.rng.randrange(1, lines.order + 1)] = more
        file.refuse(refusal)

    return change


def _twice(lines: _Lines, file: File) -> None:
    lines.again = lines.some(lines.rng.randrange(1, lines.order + 1))
    if lines.again:
        file.refuse("was there before|stands above it twice|there are more|is due")


def _refusing(change: Callable[[bytes], bytes], refusal: str) -> Callable[[_Lines, File], None]:
    def apply(lines: _Lines, file: File) -> None:
        lines.changes.append(change)
        file.refuse(refusal)

    return apply


def _written(change: Callable[[bytes], bytes]) -> Callable[[_Lines, File], None]:
    return lambda lines, file: lines.changes.append(change)


def _blank_lines(lines: _Lines, file: File) -> None:
    some = lines.rng.choice((b"\n", b" \n", b"\t\r\n", b"\n\n\n"))
    lines.changes.append(lambda text: text.replace(b"\n-", b"\n" + some + b"-"))


def _packed(lines: _Lines, file: File) -> None:
    lines.changes.append(PACKED[lines.rng.choice(sorted(PACKED))])


WAYS: dict[str, Callable[[_Lines, File], None]] = {
    "-99 as a probability": _numbers(b"-99"),
    "-inf as a probability": _numbers(b"-inf"),
    "-99 as a backoff weight": _numbers(None, b"-99"),
    "no backoff weight": _numbers(None, b""),
    "numbers with exponents": _numbers(b"-1.25E-1", b"-5e-1"),
    "numbers without digits before the point": _numbers(b"-.5", b"-1."),
    "numbers in full": _numbers(b"-0.30103000998497009277", b"+0.0"),
    "positive probabilities": _positive,
    "no <unk>": _without(b"<unk>"),
    "no <s>": _without(b"<s>"),
    "no </s>": _without(b"</s>"),
    "neither <s> nor </s>": _without(b"<s>", b"</s>"),
    "missing contexts": _lone(slice(None, -1)),
    "missing suffixes": _lone(slice(1, None)),
    "<UNK>": _other_unknown,
    "Latin-1, replaced": _latin,
    "a comment before": lambda lines, file: setattr(lines, "before", b"# SRILM\n\n"),
    "text before": lambda lines, file: setattr(lines, "before", b"This is a CLOSED-vocabulary model\n\n"),
    "text after": lambda lines, file: setattr(lines, "after", b"made by hand\n"),
    "no line end": _written(lambda text: text.removesuffix(b"\n")),
    "a positive infinite probability": _refusing(lambda text: text.replace(b"\n-", b"\ninf ", 1), "'inf' is no log10"),
    "an infinite backoff weight": _refusing(
        lambda text: text.replace(b"\n-", b"\n-1\tq\t-inf\n-", 1), "'-inf' is no log10 b"
    ),
    "tabs between words": _written(lambda text: text.replace(b" ", b"\t").replace(b"ngram\t", b"ngram ")),
    "spaces between columns": _written(lambda text: text.replace(b"\t", b" ")),
    "spaces at the ends": _written(lambda text: text.replace(b"\n-", b"\n  -").replace(b":\n", b": \n")),
    "blank lines": _blank_lines,
    "positive probabilities, refused": _positive_refused,
    "too few": _miscounted(1, "there are fewer|more n-grams than the file has room for"),
    "too many": _miscounted(-1, "stands where|there are more"),
    "far too few": _miscounted(10**8, "more n-grams than the file has room for"),
    "twice": _twice,
    "Latin-1, refused": _latin_refused,
    "no \\end\\": _refusing(lambda text: text.replace(b"\\end\\", b""), r"where \\end\\ is due|there are fewer"),
    "\\r\\n": _written(lambda text: text.replace(b"\r", b"").replace(b"\n", b"\r\n")),
    "a byte-order mark": _written(lambda text: b"\xef\xbb\xbf" + text),
    "an iARPA file": _refusing(lambda text: b"iARPA\n" + text.removeprefix(b"\xef\xbb\xbf"), "iARPA file of IRSTLM"),
    "UTF-16": _refusing(lambda text: text.decode("latin-1").encode("utf-16"), "is UTF-16: iconv"),
    "compressed": _packed,
}


# ---- what KenLM says


def ask_kenlm(file: File, questions: list[tuple[Gram, bool, bool]]) -> list[list[float]] | None:
    """Log10 p of each word; None where KenLM refuses the file."""
    import kenlm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.arpa")
        path.write_bytes(file.data)
        if file.flags:
            build = [
                shutil.which("build_binary") or "build_binary",
                *sorted(set(file.flags)),
                path,
                path.with_suffix(".bin"),
            ]
            if subprocess.run(build, capture_output=True, check=False).returncode:
                return None
            path = path.with_suffix(".bin")
        try:
            model = kenlm.Model(str(path))
        except (OSError, UnicodeDecodeError):  # of its own message
            return None
        return [
            [logp for logp, _, _ in model.full_scores(b" ".join(words), bos=bos, eos=eos)]
            for words, bos, eos in questions
        ]


def main() -> None:
    """Write the golden file."""
    answers: list[Any] = []
    for number in range(KEPT):
        file = made(number)
        answers.append(ask_kenlm(file, sentences(file, random.Random(number))))
    GOLDEN.write_bytes(gzip.compress(json.dumps(answers).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
