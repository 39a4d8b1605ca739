"""Gradients through time: of a loss with respect to what a recurrent network held some steps before.

Shapes: B pieces of text, T positions, K lags from 0 on, H hidden.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from lmlab.errors import UsageError
from lmlab.models.neural.rnn import GRU, LSTM, RNN, Recurrent
from lmlab.seeing.picture import Seen
from lmlab.seeing.recurrence import BLOCKS, check_index, recurrent, steps

CELLS: Mapping[str, type[Recurrent]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of one network.

    Attributes:
        hidden_KB: norms of d loss_t / d h_(t-k), of each lag k and piece of text.
        cell_KB: of d loss_t / d c_(t-k), in an LSTM; else None. What c does through the h of its position is counted.
        singular: the singular values of each block of the recurrent matrix, falling.
    """

    hidden_KB: np.ndarray
    cell_KB: np.ndarray | None
    singular: Mapping[str, np.ndarray]

    def share(self, lag: int, *, cell: bool = False) -> float:
        """The norm at a lag relative to that at lag 0: the median of the pieces of text."""
        norm_KB = self.cell_KB if cell else self.hidden_KB
        assert norm_KB is not None, "only an LSTM has a cell"
        return float(np.median(norm_KB[lag] / norm_KB[0]))


def gradients_of(model: Any, ids_BT: Any, lags: int = 200, layer: int = 0) -> Gradients:
    """Gradients of the loss of each piece's last token with respect to what a layer held before it.

    The loss is that of the last id, predicted from the state after the one before it, which is lag 0. All is computed
    in float64, since float32 ends at 1e-45.

    Args:
        model: an RNN, LSTM or GRU.
        ids_BT: pieces of text, of at least lags + 2 ids.
        lags: how far back.
        layer: counted from 0.

    Raises:
        UsageError: the model is none of these, or the pieces are too short.
        SettingError: there is no such layer.
    """
    network = copy.deepcopy(recurrent(model, "gradients through time")).double().eval()
    check_index("layer", layer, network.recurrent.num_layers)
    ids_BT = torch.as_tensor(ids_BT, dtype=torch.int64, device=network.device)
    if ids_BT.shape[1] < lags + 2:
        raise UsageError(f"{lags} lags take {lags + 2} tokens, but there are {ids_BT.shape[1]}", "ask for fewer lags")
    with torch.enable_grad():
        read = list(steps(network, ids_BT[:, :-1]))
        logits_BV = network.output(network.narrow(read[-1][-1]["hidden"]))
        loss = F.cross_entropy(logits_BV, ids_BT[:, -1], reduction="sum")
        names = ("hidden", "cell") if network.cell == "lstm" else ("hidden",)
        held = [layers[layer][name] for name in names for layers in read[: -lags - 2 : -1]]
        norm_KB = torch.stack(torch.autograd.grad(loss, held)).norm(dim=-1).cpu().numpy()
    of_cell_KB = norm_KB[lags + 1 :] if network.cell == "lstm" else None
    return Gradients(norm_KB[: lags + 1], of_cell_KB, singular_values(network, layer))


def singular_values(model: Recurrent, layer: int = 0) -> dict[str, np.ndarray]:
    """Of each block of a layer's recurrent matrix, falling, by the name of what the block computes."""
    blocks = model.recurrent.all_weights[layer][1].detach().double().split(model.recurrent.hidden_size)
    names = BLOCKS[model.cell]
    return {name: torch.linalg.svdvals(each).cpu().numpy() for name, each in zip(names, blocks, strict=True)}


def batch_norms(model: Recurrent, ids_BT: Any, rows: int) -> np.ndarray:
    """The norm of the gradient of all weights, of the mean loss of every so many rows: what clipping compares."""
    network = copy.deepcopy(model).eval()
    norms = []
    for ids in torch.as_tensor(ids_BT, dtype=torch.int64, device=model.device).split(rows):
        with torch.enable_grad():
            nats, _ = network.loss(ids[:, :-1], ids[:, 1:])
            grads = torch.autograd.grad(nats / ids[:, 1:].numel(), [*network.parameters()])
        norms.append(float(torch.nn.utils.get_total_norm(grads)))
    return np.array(norms)


def fresh(lm: Seen, kind: str, scale: float = 1.0) -> Recurrent:
    """A network of a run's settings and seed as it was before training, or of another cell, its recurrence scaled."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lm.config.seed)
        network = CELLS[kind](lm.config.model.settings, lm.tokenizer.vocab_size)
    with torch.no_grad():
        for _, recur_FH, *_ in network.recurrent.all_weights:
            recur_FH.mul_(scale)
    return network.eval()
