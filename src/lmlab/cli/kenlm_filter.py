"""KenLM's filter: the n-grams of an ARPA file, or of a file of counts, whose words one of some sentences has.

copy keeps all; single takes the whole vocabulary for one sentence; union keeps what any one sentence (line) could need;
multiple writes one file a sentence, its number from 0 on behind OUTPUT. Words such as <s> are in every sentence. Either
the vocabulary (vocab:FILE) or the model (model:FILE) is a file, the other comes from standard input.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lmlab.cli.kenlm_lmplz import written
from lmlab.cli.parser import ToolParser
from lmlab.corpora.raw import named_origin
from lmlab.corpora.reading import inflate
from lmlab.errors import ArtifactError, UsageError

EXAMPLES = """\
  cat sentences.txt | lmlab kenlm filter union model:my.arpa small.arpa
  cat my.arpa | lmlab kenlm filter single context vocab:words.txt small.arpa"""
_MODES, _FORMATS = ("copy", "single", "multiple", "union"), ("arpa", "raw")
_IDLE = re.compile("(threads|batch_size):[1-9][0-9]*")

Passing = Callable[[list[bytes]], Sequence[int]]
"""The numbers of the files that an n-gram goes to."""


def add_arguments(parser: ToolParser) -> None:
    """The verb's arguments."""
    usage = "MODE [context] [raw|arpa] [threads:N] [vocab:|model:]INPUT OUTPUT"
    parser.add_argument("words", nargs="*", metavar=usage, help="in this order")


def run(options: argparse.Namespace) -> int:
    """Read the words, pass the n-grams."""
    words: list[str] = ["", "", *options.words]
    source, output = words[-2:]
    said = [word for word in words[:-2] if word and not _IDLE.fullmatch(word)]
    if "phrase" in said:
        raise UsageError("phrases are not filtered by", "leave phrase out: union of whole lines keeps more")
    modes, rest = [word for word in said if word in _MODES], {*said} - {*_MODES}
    if not source or len(modes) != 1 or not rest <= {"context", *_FORMATS} or {*_FORMATS} <= rest:
        raise UsageError("that is not MODE [context] [raw|arpa] [vocab:|model:]INPUT OUTPUT", "see --help")
    kind, _, name = source.rpartition(":")
    if kind not in ("", "vocab", "model"):
        raise UsageError(f"{source} begins with neither vocab: nor model:", "say which it is")
    files = {"vocab": "-", "model": "-", (kind or "model"): name}
    passing: Passing = lambda _: [0]  # noqa: E731
    outputs = 1
    if modes[0] != "copy":
        lines = _read(files["vocab"])
        sentences = [line.split() for line in ([b" ".join(lines)] if modes[0] == "single" else lines) if line.split()]
        passing = _passing(sentences, apart=modes[0] == "multiple")
        outputs = len(sentences) if modes[0] == "multiple" else 1
    names = [f"{output}{number}" for number in range(outputs)] if modes[0] == "multiple" else [output]
    with contextlib.ExitStack() as stack:
        outs = [stack.enter_context(written(name)) for name in names]
        copy = _copy_counts if "raw" in rest else _copy_arpa
        copy(iter(_read(files["model"])), files["model"], outs, passing, "context" in rest)
    return 0


def _read(name: str) -> list[bytes]:
    origin = named_origin(name)
    lines = b"".join(inflate(origin.read(), origin.name)).split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _passing(sentences: list[list[bytes]], *, apart: bool) -> Passing:
    """Which file an n-gram goes to: that of each sentence which has all its words, or the only one if any has."""
    holders: dict[bytes, set[int]] = {}
    for number, words in enumerate(sentences):
        for word in words:
            holders.setdefault(word, set()).add(number)
    everywhere = range(len(sentences)) if apart else [0]

    def passing(words: list[bytes]) -> Sequence[int]:
        sets = [holders.get(word, set()) for word in words if not (word[:1] == b"<" and word[-1:] == b">")]
        if not sets:
            return everywhere
        both = set.intersection(*sets)
        return sorted(both) if apart else [0] * bool(both)

    return passing


def _ngram(column: bytes, context: bool) -> list[bytes]:
    words = [word for word in column.split(b" ") if word]
    return words[:-1] if context else words


def _copy_counts(lines: Iterator[bytes], _name: str, outs: list[Any], passing: Passing, context: bool) -> None:
    for line in lines:
        if not line:
            print("Warning: empty n-gram count line being removed", file=sys.stderr)
            continue
        for number in passing(_ngram(line.partition(b"\t")[0], context)):
            outs[number].write(line + b"\n")


def _copy_arpa(lines: Iterator[bytes], name: str, outs: list[Any], passing: Passing, context: bool) -> None:
    """The sections that pass; the counts go before them at last, in as many bytes as those of the whole would take."""
    counts: list[int] = []
    for line in lines:
        if line.startswith(b"ngram "):
            match = re.fullmatch(rb"ngram (\d{1,3})=\s*(\d{1,18})\s*", line)
            if match is None or int(match[1]) != len(counts) + 1:
                raise _unsound(name, f"{line!r} stands among the counts")
            counts.append(int(match[2]))
        elif counts and not line.strip():
            break
        elif line.strip() not in (b"", b"\\data\\") and not line.startswith(b"#"):
            raise _unsound(name, f"it begins with {line[:40]!r}")
    if not counts:
        raise _unsound(name, "it has no counts")
    kept = [[0] * len(counts) for _ in outs]
    texts = [io.BytesIO() for _ in outs]
    for k, many in enumerate(counts, 1):
        header = next((line for line in lines if line.strip()), b"")
        if header.rstrip() != b"\\%d-grams:" % k:
            raise _unsound(name, f"{header[:40]!r} stands where \\{k}-grams: is due")
        for text in texts:
            text.write(header.rstrip() + b"\n")
        for _ in range(many):
            line = next(lines, b"")
            _, tab, columns = line.partition(b"\t")
            if not tab:
                raise _unsound(name, f"there are fewer {k}-grams than it promises")
            for number in passing(_ngram(columns.partition(b"\t")[0], context)):
                texts[number].write(line + b"\n")
                kept[number][k - 1] += 1
        for text in texts:
            text.write(b"\n")
    if next((line for line in lines if line.strip()), b"").strip() != b"\\end\\":
        raise _unsound(name, "it has no \\end\\, or more n-grams than it promises")
    for out, text, numbers in zip(outs, texts, kept, strict=True):
        out.write(_counts(numbers).ljust(len(_counts(counts)), b"\n") + text.getvalue() + b"\\end\\\n")


def _counts(numbers: list[int]) -> bytes:
    return b"\n\\data\\\n" + b"".join(b"ngram %d=%d\n" % each for each in enumerate(numbers, 1)) + b"\n"


def _unsound(name: str, what: str) -> ArtifactError:
    return ArtifactError(f"{'standard input' if name == '-' else name} is no sound ARPA file: {what}", "write it again")
