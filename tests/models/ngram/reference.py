"""Each smoothing straight from its textbook formula, over dicts of Counters: slow, plain, and the judge of ours."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from lmlab.vocabulary import BOS, EOS, NEVER_PREDICTED

Words = tuple[int, ...]


def lay(documents: list[list[int]], dtype: type = np.uint16) -> np.ndarray:
    """Documents laid end to end."""
    return np.array([i for document in documents for i in (BOS, *document, EOS)], dtype=dtype)


class Plain:
    def __init__(self, documents: list[list[int]], order: int, vocab_size: int, smoothing: str, k: float) -> None:
        self.order, self.k = order, k
        self.words = [w for w in range(vocab_size) if w not in NEVER_PREDICTED]
        self.counts: dict[Words, Counter[int]] = defaultdict(Counter)
        for document in documents:
            text = (BOS, *document, EOS)
            for i in range(1, len(text)):
                for n in range(min(order - 1, i) + 1):
                    self.counts[text[i - n : i]][text[i]] += 1
        self.adjusted = {h: self.preceded(h) for h in self.counts}
        self.formula = getattr(self, smoothing.replace("-", "_"))

    def row(self, history: list[int]) -> list[float]:
        """P of every predictable word after <bos> and the history."""
        text = (BOS, *history)
        context = text[max(0, len(text) - self.order + 1) :] if self.order > 1 else ()
        return [self.formula(context, w) for w in self.words]

    def preceded(self, h: Words) -> Counter[int]:
        """Kneser-Ney's counts: how many different words stand before h w, where anything can."""
        if len(h) == self.order - 1 or h[:1] == (BOS,):
            return self.counts[h]
        longer = [c for g, c in self.counts.items() if len(g) == len(h) + 1 and g[1:] == h]
        return Counter({w: sum(w in c for c in longer) for w in self.counts[h]})

    def below(self, h: Words, w: int) -> float:
        return self.formula(h[1:], w) if h else 1 / len(self.words)

    def mle(self, h: Words, w: int) -> float:
        if h not in self.counts:
            return self.mle(h[1:], w)
        return self.counts[h][w] / self.counts[h].total()

    def add_k(self, h: Words, w: int) -> float:
        seen = self.counts.get(h, Counter())
        return (seen[w] + self.k) / (seen.total() + self.k * len(self.words))

    def witten_bell(self, h: Words, w: int) -> float:
        if h not in self.counts:
            return self.below(h, w)
        seen = self.counts[h]
        return (seen[w] + len(seen) * self.below(h, w)) / (seen.total() + len(seen))

    def stupid_backoff(self, h: Words, w: int) -> float:
        seen = self.counts.get(h, Counter())
        if seen[w]:
            return seen[w] / seen.total()
        return 0.4 * self.stupid_backoff(h[1:], w) if h else 0.0

    def absolute(self, h: Words, w: int) -> float:
        if h not in self.counts:
            return self.below(h, w)
        n = Counter(c for g, seen in self.counts.items() if len(g) == len(h) for c in seen.values())
        d = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0.5
        seen = self.counts[h]
        return (max(seen[w] - d, 0) + d * len(seen) * self.below(h, w)) / seen.total()

    def kneser_ney(self, h: Words, w: int) -> float:
        if h not in self.counts:
            return self.below(h, w)
        seen, d = self.adjusted[h], self.discounts(len(h))
        gamma = sum(d[min(c, 3)] for c in seen.values())
        return (seen[w] - d[min(seen[w], 3)] + gamma * self.below(h, w)) / seen.total()

    def discounts(self, length: int) -> tuple[float, ...]:
        n = Counter(c for h, seen in self.adjusted.items() if len(h) == length for c in seen.values())
        if n[1] and n[2] and n[3]:
            y = n[1] / (n[1] + 2 * n[2])
            d1, d2, d3 = 1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]
            if 0 <= d1 <= 1 and 0 <= d2 <= 2 and 0 <= d3 <= 3:
                return (0, d1, d2, d3)
        y = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else 0
        return (0, y, 2 * y, 3 * y) if y else (0, 0.5, 1, 1.5)
