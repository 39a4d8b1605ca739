"""Output layers: from features to the distribution of the next token, in full or by clusters of rare tokens.

Shapes: N rows, H features, V the vocabulary, R rows whose target is in a cluster.

Both offer `forward`, logits of the whole vocabulary (-inf where never predicted), and `nats`, the loss of known
targets, which need not look at all of it. Both divide their logits by a temperature (Guo et al. 2017), which is 1 while
a model is trained and may be calibrated afterwards (`training/calibrate.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmlab.kernels.neural import cross_entropy_sum
from lmlab.vocabulary import NEVER_PREDICTED, SPECIALS

_SHARES = (8, 2)  # the shortlist is an eighth of the vocabulary; the clusters end at a half of it, and at its end
_NARROWEST = 64  # features of a cluster, at least: fewer save little, as a product then waits for memory


class _Output(nn.Module):
    temperature = 1.0

    def _cooled(self, features: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Features and bias that give the logits divided by the temperature."""
        return (features, bias) if self.temperature == 1 else (features / self.temperature, bias / self.temperature)


class FullSoftmax(_Output):
    """One matrix over the vocabulary: its own, or the embedding's (`tied`)."""

    def __init__(self, features: int, vocab_size: int, tied: nn.Embedding | None = None) -> None:
        super().__init__()
        own = nn.Linear(features, vocab_size) if tied is None else None
        self._tied = [tied] if tied is not None else []  # in a list, so that the weight is not registered twice
        self.weight = own.weight if own else None
        self.bias = own.bias if own else nn.Parameter(torch.zeros(vocab_size))
        self.register_buffer("_never", _never(vocab_size), persistent=False)
        self._never: Tensor

    def _layer(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, bias = self._cooled(features, self.bias + self._never)
        return features, self._tied[0].weight if self.weight is None else self.weight, bias

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        return F.linear(*self._layer(features))

    def nats(self, features_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Summed nats of the targets, but for those equal to `IGNORE`."""
        return cross_entropy_sum(*self._layer(features_NH), targets_N)


class Cluster(nn.Module):
    """Fewer features for rarer tokens, then a matrix over the cluster's tokens."""

    def __init__(self, features: int, narrow: int, size: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(features, narrow, bias=False) if narrow < features else nn.Identity()
        self.last = nn.Linear(min(narrow, features), size)


class AdaptiveSoftmax(_Output):
    """Frequent tokens at once, rare ones in two steps: their cluster, then the token (Grave et al. 2017).

    Ids must fall in frequency, as those of every word vocabulary here do. A row costs the shortlist and, seldom, one
    cluster; probabilities are exact and sum to one. It is another model than the full softmax, not an approximation.
    """

    def __init__(self, features: int, vocab_size: int) -> None:
        super().__init__()
        cuts = {max(len(SPECIALS), vocab_size // share) for share in _SHARES} | {vocab_size}
        self._cuts = sorted(cut for cut in cuts if cut <= vocab_size)
        sizes = [end - start for start, end in itertools.pairwise(self._cuts)]
        self.head = nn.Linear(features, self._cuts[0] + len(sizes))
        self.clusters: Sequence[Cluster] = nn.ModuleList(  # type: ignore[assignment]
            Cluster(features, max(_NARROWEST, features // 4**k), size) for k, size in enumerate(sizes, 1)
        )
        self.register_buffer("_never", _never(self.head.out_features), persistent=False)
        self._never: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Logits, which are log-probabilities already."""
        head = _log_softmax(*self._head(features))
        parts = [head[..., : self._cuts[0]]]
        for k, cluster in enumerate(self.clusters, self._cuts[0]):
            parts.append(head[..., k, None] + _log_softmax(*self._in_cluster(cluster, features)))
        return torch.cat(parts, -1)

    def nats(self, features_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Summed nats of the targets, but for those equal to `IGNORE`."""
        total, head_targets_N = features_NH.new_zeros((), dtype=torch.float32), targets_N
        spans = itertools.pairwise(self._cuts)
        for k, (cluster, (start, end)) in enumerate(zip(self.clusters, spans, strict=True), self._cuts[0]):
            rows_R = ((targets_N >= start) & (targets_N < end)).nonzero()[:, 0]
            layer = self._in_cluster(cluster, features_NH[rows_R])
            total = total + cross_entropy_sum(*layer, targets_N[rows_R] - start)
            head_targets_N = head_targets_N.index_fill(0, rows_R, k)
        return total + cross_entropy_sum(*self._head(features_NH), head_targets_N)

    def _head(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, bias = self._cooled(features, self.head.bias + self._never)
        return features, self.head.weight, bias

    def _in_cluster(self, cluster: Cluster, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, bias = self._cooled(cluster.narrow(features), cluster.last.bias)
        return features, cluster.last.weight, bias


def _log_softmax(features: Tensor, weight_VH: Tensor, bias_V: Tensor) -> Tensor:
    return F.linear(features, weight_VH, bias_V).float().log_softmax(-1)


def _never(size: int) -> Tensor:
    never = torch.zeros(size)
    never[list(NEVER_PREDICTED)] = -torch.inf
    return never
