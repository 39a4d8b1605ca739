"""A Transformer that steps in NumPy: keys are normalised and rotated once, where torch's step does so for the window.

Shapes: B texts, L layers, W the window, A heads, F features of a head, D width, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.kernels.writing.layout import BlockWeights
from lmlab.kernels.writing.network import Network
from lmlab.models.base import ArrayState
from lmlab.models.readers import log_softmax
from lmlab.vocabulary import BOS

_BASE = 10_000.0


class TransformerReader:
    """`start` and `step` of a network, given its weights.

    A state holds the place of the next token, and at each place modulo the window the token's key, rotated by its
    place (scores depend on differences alone), and its value. Places count from the first token that is still seen, and
    there are no more than were read: a step copies them all.

    Args:
        weights: of the network.
        module: reads prompts at once; without one they are read token by token.
        network: the same packed, to step in compiled loops.
    """

    def __init__(self, weights: BlockWeights, module: Any = None, network: Network | None = None) -> None:
        self._weights, self._module, self._network = weights, module, network
        self._read = self._plain if network is None else self._compiled

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after `<bos>` and each prompt, and the state there."""
        return self._stepped(prompts) if self._module is None else self._by_torch(prompts)

    def _room(self, rows: int, places: int) -> np.ndarray:
        layers, _, width = self._weights.norm_L2D.shape
        return np.zeros((rows, layers, 2, width, min(places, self._weights.window)), np.float32)

    def _stepped(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        count_B = np.array([len(prompt) + 1 for prompt in prompts])
        kept, rows = self._room(len(prompts), int(count_B.max())), []
        for row, prompt in enumerate(prompts):
            for place, token in enumerate([BOS, *prompt]):
                logp_1V = self._read(kept[row : row + 1], np.array([place]), [token])
            rows.append(logp_1V)
        return np.concatenate(rows), ArrayState((kept, count_B))

    def _by_torch(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        import torch

        with torch.no_grad():
            logp_BV, state = self._module.start(prompts)
        *caches, missing_B = (part.numpy() for part in state.tensors)
        past, features = caches[0].shape[2:]
        kept = self._room(len(prompts), past - int(missing_B.min()))
        for row, missing in enumerate(missing_B.tolist()):
            rotation = _rotation(np.arange(past - missing), features)
            for number, cache_BAPF in enumerate(caches):
                part_PAF = cache_BAPF[row, :, missing:].transpose(1, 0, 2)
                part_PAF = part_PAF if number % 2 else _turned(_normal(part_PAF), rotation)
                kept[row, number // 2, number % 2, :, : past - missing] = part_PAF.reshape(
                    past - missing, kept.shape[3]
                ).T
        return logp_BV.numpy(), ArrayState((kept, past - missing_B))

    def step(self, state: ArrayState, token_B: Sequence[int]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after these, and the state there."""
        before, count_B = state.arrays
        kept = self._room(len(count_B), max(before.shape[-1], int(count_B.max()) + 1))
        kept[..., : before.shape[-1]] = before
        return self._read(kept, count_B, token_B), ArrayState((kept, count_B + 1))

    def _compiled(self, kept_BL2DW: np.ndarray, count_B: np.ndarray, token_B: Sequence[int]) -> np.ndarray:
        from lmlab.kernels.writing.panels import width
        from lmlab.kernels.writing.transformer_loops import step

        assert self._network is not None
        rows, size = len(count_B), len(self._weights.out_bias_V)
        logits_BW, state = np.empty((rows, width(size)), np.float32), (kept_BL2DW, np.arange(rows), count_B.copy())
        step(*self._network.parts, state, np.array(token_B, np.int64), logits_BW)
        return log_softmax(logits_BW[:, :size])

    def _plain(self, kept_BL2DW: np.ndarray, count_B: np.ndarray, token_B: Sequence[int]) -> np.ndarray:
        """logp_BV after one token more of each text, whose keys and values are filled in."""
        weights, rows, slot_B = self._weights, np.arange(len(count_B)), count_B % self._weights.window
        features = weights.table_VD.shape[1] // weights.heads
        rotation = _rotation(count_B, features)
        most = min(weights.window, int(count_B.max()) + 1)
        unseen_B1S = (np.arange(most) > count_B[:, None])[:, None]
        x_BD = weights.table_VD[np.array(token_B)]
        for layer, (before_D, feed_D) in enumerate(weights.norm_L2D):
            projected = _normal(x_BD) * before_D @ weights.project_LPD[layer].T
            q_BAF, k_BAF, v_BAF = projected.reshape(len(rows), 3, weights.heads, -1).transpose(1, 0, 2, 3)
            kept_B2DW = kept_BL2DW[:, layer]
            for side, new_BAF in enumerate((_turned(_normal(k_BAF), rotation), v_BAF)):
                kept_B2DW[rows, side, :, slot_B] = new_BAF.reshape(x_BD.shape)
            parts = kept_B2DW[..., :most].reshape(len(rows), 2, weights.heads, features, most)
            q_BAF = _turned(_normal(q_BAF), rotation) * np.float32(features**-0.5)
            score_BAS = (q_BAF[:, :, None] @ parts[:, 0])[:, :, 0]
            score_BAS[np.broadcast_to(unseen_B1S, score_BAS.shape)] = -np.inf
            p_BAS = np.exp(score_BAS - score_BAS.max(-1, keepdims=True))
            p_BAS /= p_BAS.sum(-1, keepdims=True)
            seen_BD = (parts[:, 1] @ p_BAS[..., None]).reshape(x_BD.shape)
            x_BD = x_BD + seen_BD @ weights.attended_LDD[layer].T
            wide = _normal(x_BD) * feed_D @ weights.widen_LUD[layer].T
            x_BD = x_BD + np.square(np.maximum(wide, 0)) @ weights.narrow_LDU[layer].T
        return log_softmax(_normal(x_BD) * weights.last_norm_D @ weights.out_VD.T + weights.out_bias_V)


def _normal(x: np.ndarray) -> np.ndarray:
    """RMSNorm, as torch has it."""
    return np.asarray(x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.finfo(np.float32).eps))


def _rotation(place_B: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of the rotary angles at each place, (B, 1, F/2)."""
    half = features // 2
    angle_B1G = place_B[:, None, None] * _BASE ** (-np.arange(half) / half)
    return np.cos(angle_B1G).astype(np.float32), np.sin(angle_B1G).astype(np.float32)


def _turned(x_BAF: np.ndarray, rotation: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    a, b = np.split(x_BAF, 2, -1)
    cos, sin = rotation
    return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
