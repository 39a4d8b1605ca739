"""The course notebooks' way, written from their description: plain models, naive batches, the prefix read again.

Nothing of lmlab's models, training or decoding is used. A model offers `next_logp(ids)`, which reads the whole prefix,
as a notebook's generation does; and `FromScratch` lifts it to the waist, so that `lmlab.scoring` is the ruler for both
sides. As in any notebook, everything is fp32 with torch's default threads and memory allocation.

Shapes: B rows, T positions, H features, V the vocabulary, K selected rows, N ids of the whole text.
"""

from __future__ import annotations

import abc
import itertools
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.models.base import Scorer
from lmlab.models.scorers import Arrays, Padded
from lmlab.vocabulary import BOS, EOS, IGNORE, NEVER_PREDICTED, PAD

_HEAD_ROWS = 1024  # scoring makes the logits of so many positions at once
_REPORTS = 5  # lines of progress a run


# -- to the waist -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prefixes:
    """The state of a model that remembers nothing but what was said: B lists of ids."""

    rows: tuple[tuple[int, ...], ...]

    def select(self, rows_K: Tensor) -> Prefixes:
        """The state of these rows."""
        return Prefixes(tuple(self.rows[row] for row in rows_K.tolist()))

    def joined(self, other: Prefixes) -> Prefixes:
        """The state of these rows, then of those of another."""
        return Prefixes(self.rows + other.rows)


class FromScratch(abc.ABC):
    """A member of the waist that reads its whole prefix again for every token; abstract."""

    bos, eos = BOS, EOS
    vocab_size: int

    @abc.abstractmethod
    def next_logp(self, ids: Sequence[int]) -> Tensor:
        """logp_V of what follows `<bos>` and more."""

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Prefixes]:
        """See `LanguageModel.start`."""
        return self._answer(Prefixes(tuple((BOS, *prompt) for prompt in prompts)))

    def step(self, state: Prefixes, tokens_B: Tensor) -> tuple[Tensor, Prefixes]:
        """See `LanguageModel.step`."""
        grown = zip(state.rows, tokens_B.tolist(), strict=True)
        return self._answer(Prefixes(tuple((*row, token) for row, token in grown)))

    def _answer(self, state: Prefixes) -> tuple[Tensor, Prefixes]:
        return torch.stack([self.next_logp(row) for row in state.rows]), state


def generate(model: FromScratch, count: int, seed: int = 0) -> list[int]:
    """The notebooks' generation: read the prefix, draw a token, append it, read again. `<eos>` is never drawn."""
    torch.manual_seed(seed)
    ids = [BOS]
    for _ in range(count):
        logp_V = model.next_logp(ids)
        logp_V[EOS] = -torch.inf
        ids.append(int(torch.multinomial(logp_V.softmax(-1), 1)))
    return ids[1:]


# -- the networks -----------------------------------------------------------------------------------------------------


class Network(nn.Module, abc.ABC):
    """A body and a linear head; abstract."""

    head: nn.Linear

    @abc.abstractmethod
    def body(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """features_BTH, and the recurrent state where there is one."""

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BTV."""
        logits_BTV: Tensor = self.head(self.body(ids_BT)[0])
        return logits_BTV


class ConvNet(Network):
    """Embedding, convolutions each with zeros padded on its left, ReLU, head."""

    def __init__(self, vocab_size: int, embedding: int, channels: int, layers: int, kernel: int, residual: bool):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding)
        widths = [embedding] + [channels] * layers
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, kernel) for before, after in itertools.pairwise(widths)
        )
        self.head = nn.Linear(channels, vocab_size)
        self.past, self.residual = kernel - 1, residual

    def body(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """See the base; there is no state."""
        hidden_BHT = self.embedding(ids_BT).transpose(1, 2)
        for convolution in self.convolutions:
            new_BHT = F.relu(convolution(F.pad(hidden_BHT, (self.past, 0))))
            same = self.residual and new_BHT.shape == hidden_BHT.shape
            hidden_BHT = new_BHT + hidden_BHT if same else new_BHT
        return hidden_BHT.transpose(1, 2), None


class RecurrentNet(Network):
    """Embedding (or one-hot, where its width is None), LSTM or GRU, head."""

    def __init__(self, vocab_size: int, embedding: int | None, hidden: int, layer: type[nn.RNNBase] = nn.LSTM):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding) if embedding else None
        self.recurrent = layer(embedding or vocab_size, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocab_size)
        self.vocab_size = vocab_size

    def body(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """See the base."""
        entered = F.one_hot(ids_BT, self.vocab_size).float() if self.embedding is None else self.embedding(ids_BT)
        features_BTH, state = self.recurrent(entered, state)
        return features_BTH, state


class Trained(FromScratch):
    """A network at the waist; PAD and BOS, which our ruler never predicts, are taken out of its distribution."""

    def __init__(self, network: Network) -> None:
        self.network = network.eval()
        self.vocab_size = network.head.out_features

    @torch.no_grad()
    def next_logp(self, ids: Sequence[int]) -> Tensor:
        """See the base: the logits of every position are made, the last ones used."""
        return _predictable(self.network(torch.tensor([list(ids)]))[0, -1])

    def scorer(self) -> Scorer:
        """Scores padded batches."""
        return Padded(self.logp)

    @torch.no_grad()
    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and the tokens before it; 0 where the mask is False."""
        features_BTH, _ = self.network.body(F.pad(ids_BT[:, :-1], (1, 0), value=BOS))
        chunks = zip(features_BTH.flatten(0, 1).split(_HEAD_ROWS), ids_BT.flatten().split(_HEAD_ROWS), strict=True)
        chosen = [_predictable(self.network.head(rows)).gather(-1, ids[:, None])[:, 0] for rows, ids in chunks]
        return torch.cat(chosen).view(ids_BT.shape).masked_fill(~mask_BT, 0.0)


def _predictable(logits: Tensor) -> Tensor:
    return logits.index_fill(-1, torch.tensor(NEVER_PREDICTED), -torch.inf).log_softmax(-1)


# -- the loops --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What a training loop did: steps, tokens read (padding not counted), seconds."""

    steps: int
    tokens: int
    seconds: float


def train_lines(
    network: Network, documents: Sequence[np.ndarray], minutes: float, longest: int, seed: int = 0, rows: int = 32
) -> Run:
    """32 random documents a step, cut to `longest` tokens, padded to the longest of them; Adam 1e-3, masked mean."""
    rng = random.Random(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> tuple[float, int]:
        lines = [torch.tensor(rng.choice(documents)[: longest + 1].astype(np.int64)) for _ in range(rows)]
        rows_BT = nn.utils.rnn.pad_sequence(lines, batch_first=True, padding_value=PAD)
        logp_BTV = network(rows_BT[:, :-1]).log_softmax(-1)
        mask_BT = rows_BT[:, 1:] != PAD  # up to each line's <eos>
        chosen_BT = logp_BTV.gather(-1, rows_BT[:, 1:, None])[..., 0]
        loss = -(chosen_BT * mask_BT).sum() / mask_BT.sum()
        _descend(loss, optimizer)
        return loss.item(), int(mask_BT.sum())

    return _timed(step, minutes)


def train_windows(
    network: Network,
    ids_N: np.ndarray,
    minutes: float,
    every_position: bool,
    seed: int = 0,
    rows: int = 128,
    length: int = 100,
) -> Run:
    """128 random windows of 100 tokens a step; predicts what follows the window, or every position's next token."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    size = min(length, len(ids_N) - 2)

    def step() -> tuple[float, int]:
        starts_B1 = rng.integers(0, len(ids_N) - size, size=(rows, 1))
        rows_BT = torch.from_numpy(ids_N[starts_B1 + np.arange(size + 1)].astype(np.int64))
        features_BTH, _ = network.body(rows_BT[:, :-1])
        targets_BT = rows_BT[:, 1:]
        if not every_position:
            features_BTH, targets_BT = features_BTH[:, -1:], targets_BT[:, -1:]
        loss = _mean_loss(network.head(features_BTH), targets_BT)
        _descend(loss, optimizer)
        return loss.item(), rows * size

    return _timed(step, minutes)


def train_columns(network: Network, ids_N: np.ndarray, minutes: float) -> Run:
    """16 columns, 32 tokens a step, the state carried and cut from the graph; Adam 0.01, clipped to norm 5."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    column = (len(ids_N) - 1) // 16
    inputs, targets = (torch.from_numpy(ids_N[at : at + 16 * column].astype(np.int64)).view(16, -1) for at in (0, 1))

    def batches() -> Iterator[tuple[int, Tensor, Tensor]]:
        while True:
            for at in range(0, column, 32):
                yield at, inputs[:, at : at + 32], targets[:, at : at + 32]

    source, state = batches(), None

    def step() -> tuple[float, int]:
        nonlocal state
        at, ids_BT, targets_BT = next(source)
        features_BTH, state = network.body(ids_BT, state if at else None)
        state = tuple(part.detach() for part in state)
        loss = _mean_loss(network.head(features_BTH), targets_BT)
        _descend(loss, optimizer, network)
        return loss.item(), ids_BT.numel()

    return _timed(step, minutes)


def _mean_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy; a `<bos>` inside the stream is read, but not a target."""
    targets_N = targets_BT.flatten()
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_N.masked_fill(targets_N == BOS, IGNORE))


def _descend(loss: Tensor, optimizer: torch.optim.Optimizer, clipped: nn.Module | None = None) -> None:
    optimizer.zero_grad()
    loss.backward()
    if clipped is not None:
        nn.utils.clip_grad_norm_(clipped.parameters(), 5.0)
    optimizer.step()


def _timed(step: Callable[[], tuple[float, int]], minutes: float) -> Run:
    """Steps until the budget is spent, the first one included."""
    began, steps, tokens, told = time.perf_counter(), 0, 0, 0
    while (seconds := time.perf_counter() - began) < 60 * minutes:
        loss, read = step()
        steps, tokens = steps + 1, tokens + read
        if seconds * _REPORTS > told * 60 * minutes:
            told += 1
            print(f"  {seconds:5.0f} s · step {steps} · {loss:.3f} nats/token", file=sys.stderr, flush=True)
    return Run(steps, tokens, time.perf_counter() - began)


# -- the n-gram -------------------------------------------------------------------------------------------------------


class Counts:
    """Nested dicts: of each context of n-1 tokens, how often each token followed it; and of no context at all."""

    def __init__(self, documents: Sequence[np.ndarray], order: int) -> None:
        self.order = order
        self.after: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.alone: Counter[int] = Counter()
        for document in documents:
            context = (BOS,) * (order - 1)
            for token in document[1:].tolist():
                self.after[context][token] += 1
                self.alone[token] += 1
                context = (*context, token)[1:]
        self.totals = {context: sum(counter.values()) for context, counter in self.after.items()}
        self.total = sum(self.alone.values())


class CountedNotebook(FromScratch):
    """An n-gram of nested dicts: Lidstone, or maximum likelihood mixed with (and backing off to) single tokens.

    Args:
        counts: see `Counts`.
        vocab_size: V.
        k: Lidstone's addition, also to the counts of single tokens.
        weight: of maximum likelihood in the mixture; None is Lidstone.
    """

    def __init__(self, counts: Counts, vocab_size: int, k: float = 0.1, weight: float | None = None) -> None:
        self.counts, self.vocab_size, self.k, self.weight = counts, vocab_size, k, weight

    def prob(self, context: tuple[int, ...], token: int) -> float:
        """P(token | the n-1 tokens before it)."""
        if token in NEVER_PREDICTED:
            return 0.0
        counts, share = self.counts, self.k * (self.vocab_size - len(NEVER_PREDICTED))
        seen = counts.after[context][token] if context in counts.after else 0
        total = counts.totals.get(context, 0)
        if self.weight is None:
            return (seen + self.k) / (total + share)
        alone = (counts.alone[token] + self.k) / (counts.total + share)
        return self.weight * seen / total + (1 - self.weight) * alone if total else alone

    def next_logp(self, ids: Sequence[int]) -> Tensor:
        """See the base: a list of every token's probability."""
        context = self._context(ids)
        return torch.tensor([self.prob(context, token) for token in range(self.vocab_size)]).log()

    def scorer(self) -> Scorer:
        """Scores documents laid end to end."""
        return Arrays(self.logp_array)

    def logp_array(self, ids_N: np.ndarray) -> np.ndarray:
        """Natural log-probability of each id; every `<bos>` opens a new document and itself scores 0."""
        logp, context = [], self._context(())
        for token in ids_N.tolist():
            context = self._context(()) if token == BOS else context
            logp.append(0.0 if token == BOS else float(np.log(self.prob(context, token))))
            context = context if token == BOS else (*context, token)[1:]
        return np.array(logp, dtype=np.float32)

    def _context(self, ids: Sequence[int]) -> tuple[int, ...]:
        padded = (BOS,) * self.counts.order + tuple(ids)
        return padded[len(padded) - (self.counts.order - 1) :]
