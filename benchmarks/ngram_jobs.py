"""What ngram.py has done in processes of their own: jobs that set up and, mostly, answer what they are asked.

Some run in an interpreter that knows kenlm, and perhaps neither lmlab nor NumPy: so the head imports the standard
library alone. A job that is set up says null; then a question is a line of JSON on standard input, the answer one on
standard output.

Shapes: N ids, V words, Q of them asked for.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

TOUCHED = 64 << 20  # bytes, and once more to copy them
SHORT = 5  # words
LAPS, SHORTS = 20, 2000
CONTEXTS = 20
SAMPLE = 20_000  # words that kenlm is asked for; the whole vocabulary would take it too long

Answer = Callable[..., Any]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What work gives, its CPU and wall seconds; other memory is touched before and after."""
    bytes(bytearray(TOUCHED))
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    bytes(bytearray(TOUCHED))
    return found, cpu, wall


def lines_of(path: str) -> list[str]:
    """The lines of a text."""
    return Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def openings(held: str, many: int) -> list[list[str]]:
    """The first words of lines that are as long."""
    return [words[:many] for line in lines_of(held) if len(words := line.split()) >= many]


# ---- ours


def opened(model: str) -> tuple[Any, list[str]]:
    """A model of ours, and its words from id 4 on."""
    from lmlab.facade.estimate import ngram_of, words_of
    from lmlab.facade.text_model import TextModel

    lm = TextModel.load(model)
    return ngram_of(lm), [word.decode() for word in words_of(lm)]


def ids_of(text: str, words: Any) -> Any:
    """A file as ids."""
    import numpy as np

    from lmlab.corpora.reading import whole_words

    with Path(text).open("rb") as file:
        pieces = whole_words(iter(lambda: file.read(1 << 20), b""), text)
        return np.concatenate([*map(words.feed, pieces), words.close()])


def scoring(model: str) -> Answer:
    """A text, on the cores given: bytes to ids to log-probabilities to perplexity."""
    import numpy as np

    from lmlab.tokens.scan import scanner
    from lmlab.vocabulary import BOS, UNK

    ngram, spelled = opened(model)
    tables, words = ngram.trie.tables, scanner(None, spelled, learn=False)

    def score(text: str, threads: int) -> tuple[Any, dict[str, float]]:
        ids_N = ids_of(text, words)
        logp_N = tables.logp_array(ids_N, threads)
        unknown_N = ids_N == UNK
        tokens, unknown = len(ids_N) - np.count_nonzero(ids_N == BOS), np.count_nonzero(unknown_N)
        total, of_unknown = (float(array.sum(dtype=np.float64)) for array in (logp_N, logp_N[unknown_N]))
        excluding = math.exp((of_unknown - total) / (tokens - unknown))
        return logp_N, {"tokens": int(tokens), "including": math.exp(-total / tokens), "excluding": excluding}

    def answer(text: str, cores: list[int]) -> dict[str, float]:
        os.sched_setaffinity(0, cores)
        (logp_N, found), cpu, wall = timed(lambda: score(text, len(cores)))
        return {**found, "cpu": cpu, "wall": wall, "digest": zlib.crc32(logp_N.tobytes())}

    return answer


def text_to_tables(text: str, folder: str, order: int) -> None:
    """Estimate, save, and have the tables of batch scoring."""
    from lmlab.facade.estimate import estimate, ngram_of
    from lmlab.progress import Silent

    shutil.rmtree(folder, ignore_errors=True)
    ngram_of(estimate(text, out=folder, order=order, reporter=Silent())).trie.tables  # noqa: B018  made when asked


def read_arpa(path: str) -> None:
    """Read an ARPA file."""
    from lmlab.models.ngram import arpa

    arpa.read(Path(path))


def sizes(model: str, train: str, held: str) -> Answer:
    """Bits an n-gram of each layout, and digests of what two of them say of held-out text."""
    from lmlab.kernels.ngram.compact_trie import CompactTrie
    from lmlab.kernels.ngram.counter import Counter, pieces_of
    from lmlab.models.ngram.smoothing import absent_of, rules_of
    from lmlab.tokens.scan import scanner

    ngram, spelled = opened(model)
    many, spelling = sum(ngram.ngrams), sum(len(word.encode()) + 1 for word in spelled)

    def answer() -> dict[str, Any]:
        words, counter = scanner(None), Counter(len(ngram.ngrams))
        counter.count(pieces_of(ids_of(train, words)))
        levels, smoothing = counter.levels(len(words)), ngram.settings.smoothing
        compact = CompactTrie.of(levels, rules_of(levels, smoothing), (), absent_of(smoothing))
        tables, held_N = ngram.trie.tables, ids_of(held, scanner(None, spelled, learn=False))
        scores = {"fast": tables.logp_array(held_N), "compact": compact.logp_array(held_N)}
        nbytes = {"directory": ngram.nbytes, "tables": tables.nbytes, "compact": compact.nbytes}
        digests = {name: zlib.crc32(logp_N.tobytes()) for name, logp_N in scores.items()}
        return {"bits": {name: 8 * (n + spelling) / many for name, n in nbytes.items()}, "ngrams": many, **digests}

    return answer


def write_words(model: str, path: str) -> None:
    """Write the words of a model to a file."""
    Path(path).write_text("\n".join(opened(model)[1]) + "\n", encoding="utf-8")


def sampled(words: str) -> tuple[list[str], int]:
    """Some of the words of a file, and how many there are."""
    known = lines_of(words)
    return known[:: -(-len(known) // SAMPLE)], len(known)


def contexts_of(held: str) -> list[list[str]]:
    """The beginnings of some lines."""
    found = openings(held, 4)
    return found[:: -(-len(found) // CONTEXTS)]


def our_row(model: str, held: str, words: str) -> Answer:
    """Microseconds a row; and a sum over sampled words, to compare."""
    import numpy as np

    from lmlab.vocabulary import BOS, SPECIALS, UNK

    ngram, spelled = opened(model)
    ids = {word: id for id, word in enumerate(spelled, len(SPECIALS))}
    contexts = [ngram.trie.begin([[BOS, *(ids.get(word, UNK) for word in some)]]) for some in contexts_of(held)]
    asked_Q = np.array([ids[word] for word in sampled(words)[0]])
    ngram.trie.rows(contexts[0])  # makes what rows need

    def answer() -> dict[str, float]:
        seconds, total = [], 0.0
        for context in contexts:
            began = time.process_time()
            logp_1V = ngram.trie.rows(context)
            seconds.append(time.process_time() - began)
            total += float(logp_1V[0, asked_Q].sum(dtype=np.float64)) / math.log(10)
        return {"us": 1e6 * median(seconds), "total": total, "words": len(spelled)}

    return answer


# ---- theirs, and ours by their interface


def their_row(path: str, held: str, words: str) -> Answer:
    """The same with kenlm, as many microseconds as all words would take."""
    kenlm: Any = importlib.import_module("kenlm")
    model, (asked, many), contexts = kenlm.Model(path), sampled(words), contexts_of(held)

    def answer() -> dict[str, float]:
        seconds, total = [], 0.0
        for context in contexts:
            before, after = kenlm.State(), kenlm.State()
            model.BeginSentenceWrite(before)
            for word in context:
                model.BaseScore(before, word, after)
                before, after = after, before
            began = time.process_time()
            scores = [model.BaseScore(before, word, after) for word in asked]
            seconds.append(time.process_time() - began)
            total += math.fsum(scores)
        return {"us": 1e6 * median(seconds) * many / len(asked), "total": total}

    return answer


def sentences(path: str, module: str, held: str) -> Answer:
    """Millions of tokens a second, a line a call."""
    model, lines = importlib.import_module(module).Model(path), lines_of(held)
    tokens = sum(len(line.split()) + 1 for line in lines)

    def answer() -> dict[str, float]:
        _, full, _ = timed(lambda: [deque(model.full_scores(line), maxlen=0) for line in lines])
        scores, plain, _ = timed(lambda: [model.score(line) for line in lines])
        return {"full_scores": tokens / 1e6 / full, "score": tokens / 1e6 / plain, "total": math.fsum(scores)}

    return answer


def calls(path: str, module: str, held: str) -> Answer:
    """Microseconds a call, of short sentences; many, and many times."""
    score = importlib.import_module(module).Model(path).score
    found = [" ".join(words) for words in openings(held, SHORT)[:SHORTS]]

    def laps() -> float:
        total = 0.0
        for _ in range(LAPS):
            for sentence in found:
                total += score(sentence)
        return total

    def answer() -> dict[str, float]:
        total, cpu, _ = timed(laps)
        return {"us": 1e6 * cpu / LAPS / len(found), "total": total}

    return answer


def opening(path: str, module: str) -> Answer:
    """Seconds to open an ARPA file in a process that has opened it before."""
    kenlm = importlib.import_module(module)
    kenlm.Model(path)

    def answer() -> dict[str, float]:
        _, cpu, _ = timed(lambda: kenlm.Model(path))
        return {"cpu": cpu}

    return answer


def estimating(text: str, order: int) -> Answer:
    """Seconds to estimate in a process that has done so before, the model in memory."""
    from lmlab.facade.estimate import estimate
    from lmlab.progress import Silent

    def answer() -> dict[str, float]:
        _, cpu, wall = timed(lambda: estimate(text, order=order, reporter=Silent()))
        return {"cpu": cpu, "wall": wall}

    answer()
    return answer


JOBS: dict[str, Callable[..., Any]] = {
    job.__name__: job
    for job in (
        scoring,
        text_to_tables,
        read_arpa,
        sizes,
        write_words,
        our_row,
        their_row,
        sentences,
        calls,
        opening,
        estimating,
    )
}


def main(name: str, arguments: str) -> None:
    """Do a job until there are no more questions."""
    answer = JOBS[name](*json.loads(arguments))
    print("null", flush=True)
    for question in sys.stdin:
        print(json.dumps(answer(*json.loads(question))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
