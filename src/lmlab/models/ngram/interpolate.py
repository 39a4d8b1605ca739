"""One n-gram model of several, whose vocabularies may differ: log-linear as KenLM's, or linear as SRILM's.

    log-linear    p(w | h) = prod_i p_i(w | h) ** weight_i / Z(h)     exact; a word that a model lacks is its <unk>
    linear        p(w | h) = sum_i weight_i p_i(w | h)                a word that a model lacks has p_i = 0

The n-grams are those of all models together. Where no model has an n-gram hw, every p_i(w | h) is b_i(h) p_i(w | h'),
so that Z(h) = B(h) (Z(h') - sum of the products at h' over the known words) + sum of the products at h over them, with
B(h) = prod_i b_i(h) ** weight_i. A linear mixture backs off with the weight that makes its rows sum to one.

Shapes: I models, M n-grams of one length, K words in each, N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmlab.errors import DataError, SettingError
from lmlab.models.ngram import arpa
from lmlab.models.ngram.arpa_text import LN_10, shown
from lmlab.models.ngram.listing import Grams, Listing, completed, keys

_LEAST = 1e-12  # of a probability that rounding may have eaten up
_STEP, _ROUNDS, _ENOUGH = 1e-3, 30, 1e-7  # of Newton's method, in weights and nats a token


class _Model:
    """A model that is asked for n-grams in the ids of the union."""

    def __init__(self, listing: Listing, ids: dict[bytes, int]) -> None:
        levels = completed(listing).levels
        union_V = np.array([ids[word] for word in listing.words], np.uint32)
        logs = [(-np.abs(logp_M) * LN_10, backoff_M * LN_10) for _, logp_M, backoff_M in levels]
        self.grams = [Grams(union_V[ids_MK], *each) for (ids_MK, _, _), each in zip(levels, logs, strict=True)]
        self.has_V = np.isin(np.arange(len(ids)), union_V)
        self._index = [_Index(grams.ids_MK) for grams in self.grams]

    def logp(self, ids_MK: np.ndarray) -> np.ndarray:
        """Ln p of the last word of each n-gram after the others; of a word that the model lacks that of `<unk>`."""
        k = ids_MK.shape[1]
        if k == 1:
            place_M = self._index[0].find(np.where(self.has_V[ids_MK], ids_MK, 0))
            return np.asarray(self.grams[0].logp_M[place_M], np.float64)
        if k > len(self.grams):
            return self.logp(ids_MK[:, 1:])
        ids_MK = np.where(self.has_V[ids_MK], ids_MK, 0)
        place_M = self._index[k - 1].find(ids_MK)
        logp_M = self.grams[k - 1].logp_M[place_M].astype(np.float64)
        (backs_M,) = np.nonzero(place_M < 0)
        if len(backs_M):
            logp_M[backs_M] = self.logp(ids_MK[backs_M, 1:]) + self.backoff(ids_MK[backs_M, :-1])
        return np.asarray(logp_M)

    def backoff(self, ids_MK: np.ndarray) -> np.ndarray:
        """Ln of the backoff of each context, 0 where the model has none."""
        if ids_MK.shape[1] >= len(self.grams):
            return np.zeros(len(ids_MK))
        place_M = self._index[ids_MK.shape[1] - 1].find(ids_MK)
        return np.where(place_M < 0, 0.0, self.grams[ids_MK.shape[1] - 1].backoff_M[place_M].astype(np.float64))


class _Index:
    """Where n-grams of one length stand."""

    def __init__(self, ids_MK: np.ndarray) -> None:
        key_M = keys(ids_MK)
        self._order_M = np.argsort(key_M, kind="stable")
        self._key_M = key_M[self._order_M]

    def find(self, ids_QK: np.ndarray) -> np.ndarray:
        """The place of each, or -1."""
        key_Q = keys(ids_QK)
        at_Q = np.minimum(np.searchsorted(self._key_M, key_Q), len(self._key_M) - 1)
        return np.asarray(np.where(self._key_M[at_Q] == key_Q, self._order_M[at_Q], -1))


class _Level(NamedTuple):
    """The n-grams of one length of all models: their words, what each model makes of them, their context and suffix."""

    ids_MK: np.ndarray
    logp_IM: np.ndarray
    backoff_IM: np.ndarray
    lacks_IM: np.ndarray
    context_M: np.ndarray
    suffix_M: np.ndarray


class Interpolated(NamedTuple):
    """The model that comes out: the spellings of its ids; of each length ids, ln p, ln b (none of the longest)."""

    words: list[bytes]
    levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]]

    def write(self, file: Any) -> None:
        """Write an ARPA file into an open one."""
        arpa.write_sections(file, self.words, [len(ids_MK) for ids_MK, _, _ in self.levels], map(_piece, self.levels))


def _piece(level: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    yield level[0], level[1].astype(np.float32), level[2].astype(np.float32)


_without_warnings = np.errstate(all="ignore")  # what comes out is looked at


class Union:
    """The n-grams of some models together, to be weighed.

    Args:
        listings: the models.
    """

    def __init__(self, listings: Sequence[Listing]) -> None:
        self.ids: dict[bytes, int] = {}
        for listing in listings:
            for word in listing.words:
                self.ids.setdefault(word, len(self.ids))
        self._models = [_Model(listing, self.ids) for listing in listings]
        self.order = max(len(model.grams) for model in self._models)
        self._levels: list[_Level] = []
        self._index: list[_Index] = []
        for k in range(1, self.order + 1):
            parts = [model.grams[k - 1].ids_MK for model in self._models if k <= len(model.grams)]
            ids_MK = np.unique(np.concatenate(parts), axis=0)
            index = _Index(ids_MK)
            ends = [self._index[-1].find(part) for part in (ids_MK[:, :-1], ids_MK[:, 1:])] if k > 1 else []
            logp, backoff = ([ask(model, ids_MK) for model in self._models] for ask in (_Model.logp, _Model.backoff))
            lacks = [~model.has_V[ids_MK[:, -1]] for model in self._models]
            nowhere_M = np.zeros(len(ids_MK), np.int64)
            self._levels.append(_Level(ids_MK, *map(np.array, (logp, backoff, lacks)), *(ends or [nowhere_M] * 2)))
            self._index.append(index)
        self._bos = self.ids.get(b"<s>", -1)

    @_without_warnings
    def log_linear(self, weights: Sequence[float]) -> Interpolated:
        """The product of the models to the powers of their weights, over its sum.

        Raises:
            DataError: it cannot be said in numbers.
        """
        score, log_z = self._products(np.array(weights))
        levels = []
        for k, level in enumerate(self._levels):
            logp_M = score[k] - log_z[k][level.context_M]
            backoff_M = np.empty(0)
            if k + 1 < self.order:
                backoff_M = np.array(weights) @ level.backoff_IM + log_z[k][level.suffix_M] - log_z[k + 1]
            levels.append((level.ids_MK, self._spared(k, np.minimum(logp_M, 0)), backoff_M))
        return self._interpolated(levels)

    def _interpolated(self, levels: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Interpolated:
        for k, (ids_MK, logp_M, backoff_M) in enumerate(levels, 1):
            if len(bad := np.flatnonzero(np.isnan(logp_M) | (len(backoff_M) and np.isnan(backoff_M)))):
                gram = b" ".join(list(self.ids)[id] for id in ids_MK[bad[0]])
                problem = f"the models cannot be interpolated so: the {k}-gram {shown(gram)} gets no number"
                raise DataError(problem, "choose weights near 1, and models without probabilities of 0")
        return Interpolated(list(self.ids), levels)

    def _products(self, weights_I: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of each length the logs of the products, and of each length of context, 0 first, the logs of their sums."""
        score = [weights_I @ level.logp_IM for level in self._levels]
        words_M = self._levels[0].ids_MK[:, 0] != self._bos
        z = [np.array([np.exp(score[0][words_M]).sum()])]
        for k, (level, longer) in enumerate(zip(self._levels, self._levels[1:], strict=False)):
            known_M = np.bincount(longer.context_M, np.exp(score[k + 1]), len(level.ids_MK))
            before_M = np.bincount(longer.context_M, np.exp(score[k][longer.suffix_M]), len(level.ids_MK))
            left_M = np.maximum(z[k][level.suffix_M] - before_M, 0)
            z.append(np.exp(weights_I @ level.backoff_IM) * left_M + known_M)
        return score, [np.log(z_M) for z_M in z]

    @_without_warnings
    def linear(self, weights: Sequence[float]) -> Interpolated:
        """The weighted mean of the models.

        Raises:
            DataError: it cannot be said in numbers.
        """
        share_I1, levels, p = np.array(weights)[:, None], [], []
        for k, level in enumerate(self._levels):
            p.append((share_I1 * np.where(level.lacks_IM, 0.0, np.exp(level.logp_IM))).sum(0))
            levels.append((level.ids_MK, self._spared(k, np.log(p[k])), np.empty(0)))
        for k, longer in enumerate(self._levels[1:]):
            many = len(levels[k][0])
            left_M = 1 - np.bincount(longer.context_M, p[k + 1], many)
            before_M = 1 - np.bincount(longer.context_M, p[k][longer.suffix_M], many)
            backoff_M = np.log(np.maximum(left_M, _LEAST)) - np.log(np.maximum(before_M, _LEAST))
            levels[k] = (*levels[k][:2], backoff_M)
        return self._interpolated(levels)

    def _spared(self, k: int, logp_M: np.ndarray) -> np.ndarray:
        """Ln p 0 for `<s>`, which is never predicted, as lmplz has it."""
        return np.where(self._levels[0].ids_MK[:, 0] == self._bos, 0.0, logp_M) if k == 0 else logp_M

    # ---- weights

    def _tokens(self, sentences: Sequence[bytes]) -> Iterator[np.ndarray]:
        """The tokens of a text, each behind its context: ids_NK of one length after the other."""
        rows: list[list[list[int]]] = [[] for _ in range(self.order + 1)]
        for sentence in sentences:
            ids = [self._bos, *(self.ids.get(word, 0) for word in sentence.split()), self.ids[b"</s>"]]
            for end in range(2, len(ids) + 1):
                row = ids[max(0, end - self.order) : end]
                rows[len(row)].append(row)
        yield from (np.array(each, np.uint32) for each in rows if each)

    def tune_linear(self, sentences: Sequence[bytes]) -> list[float]:
        """The weights that make a text likeliest, by expectation maximisation; its sentences are lists of words.

        Raises:
            DataError: there is no text.
        """
        from lmlab.models.mixture import fit_weights

        parts = []
        for ids_NK in self._told(sentences):
            logp_IN = np.array([np.where(m.has_V[ids_NK[:, -1]], m.logp(ids_NK), -np.inf) for m in self._models])
            parts.append(logp_IN)
        return [float(weight) for weight in fit_weights(np.concatenate(parts, axis=1))]

    def _told(self, sentences: Sequence[bytes]) -> list[np.ndarray]:
        if self._bos < 0 or b"</s>" not in self.ids or not sentences:
            raise DataError("there is no text to tune weights on, or no <s> and </s>", "give one, or weights")
        return list(self._tokens(sentences))

    @_without_warnings
    def tune_log_linear(self, sentences: Sequence[bytes]) -> list[float]:
        """The weights that make a text likeliest, by Newton's method on differences, from equal shares.

        Raises:
            DataError: there is no text, or it is impossible.
        """
        asked = self._told(sentences)
        logp_IN = np.concatenate([np.array([model.logp(ids_NK) for model in self._models]) for ids_NK in asked], axis=1)
        contexts = [self._longest(ids_NK[:, :-1]) for ids_NK in asked]
        length_N, place_N = (np.concatenate(parts) for parts in zip(*contexts, strict=True))

        def nats(weights_I: np.ndarray) -> float:
            log_z = self._products(weights_I)[1]
            z_N = np.empty(len(length_N))
            for length, z_M in enumerate(log_z):
                z_N[length_N == length] = z_M[place_N[length_N == length]]
            return float(np.mean(z_N - weights_I @ logp_IN))

        many = len(self._models)
        weights_I, steps = np.full(many, 1 / many), np.eye(many) * _STEP
        best = nats(weights_I)
        for _ in range(_ROUNDS):
            up, down = (np.array([nats(weights_I + sign * step) for step in steps]) for sign in (1, -1))
            slope_I = (up - down) / (2 * _STEP)
            bend_II = np.diag((up + down - 2 * best) / _STEP**2)
            for i in range(many):
                for j in range(i):
                    mixed = (nats(weights_I + steps[i] + steps[j]) - up[i] - up[j] + best) / _STEP**2
                    bend_II[i, j] = bend_II[j, i] = mixed
            if not np.isfinite(bend_II).all():
                raise DataError("the text is impossible to a model, so that no weights fit it", "give weights")
            move_I = -np.linalg.lstsq(bend_II, slope_I, rcond=1e-6)[0]
            while (found := nats(weights_I + move_I)) > best and np.abs(move_I).max() > _ENOUGH:
                move_I = move_I / 2
            if not found < best - _ENOUGH:
                break
            weights_I, best = weights_I + move_I, found
        return [float(weight) for weight in weights_I]

    def _longest(self, ids_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The longest context that is listed: its length, 0 for none, and its place."""
        length_N, place_N = np.zeros(len(ids_NK), np.int64), np.zeros(len(ids_NK), np.int64)
        for k in range(1, min(ids_NK.shape[1], self.order - 1) + 1):
            found_N = self._index[k - 1].find(ids_NK[:, -k:])
            length_N[found_N >= 0], place_N[found_N >= 0] = k, found_N[found_N >= 0]
        return length_N, place_N


def checked(weights: Sequence[float], models: int, *, shares: bool) -> list[float]:
    """Weights, one a model; those of a linear mixture sum to 1.

    Raises:
        SettingError: they do not.
    """
    if len(weights) != models:
        raise SettingError("the weights", list(weights), f"{models}, one a model")
    if not np.isfinite(weights).all() or (shares and (min(weights) < 0 or abs(sum(weights) - 1) > 1e-6)):
        raise SettingError("the weights", list(weights), "shares that sum to 1" if shares else "finite numbers")
    return list(weights)
