"""A Transformer that steps in NumPy: keys are normalised and rotated once, where torch's step does so for the window.

Shapes: B texts, L layers, W the window, A heads, F features of a head, D width, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmlab.kernels.writing.layout import BlockWeights
from lmlab.models.base import ArrayState
from lmlab.vocabulary import BOS

_BASE = 10_000.0


class TransformerReader:
    """`start` and `step` of a network, given its weights.

    A state holds the place of the next token, and at each place modulo the window the token's key, rotated by its
    place (scores depend on differences alone), and its value. Places count from the first token that is still seen.

    Args:
        weights: of the network.
        network: reads prompts at once; without one they are read token by token.
    """

    def __init__(self, weights: BlockWeights, network: Any = None) -> None:
        self._weights, self._network = weights, network

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after `<bos>` and each prompt, and the state there."""
        return self._stepped(prompts) if self._network is None else self._by_torch(prompts)

    def _room(self, rows: int) -> np.ndarray:
        layers, _, width = self._weights.norm_L2D.shape
        heads = self._weights.heads
        return np.zeros((rows, 2 * layers, self._weights.window, heads, width // heads), np.float32)

    def _stepped(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        kept, rows = self._room(len(prompts)), []
        for row, prompt in enumerate(prompts):
            for place, token in enumerate([BOS, *prompt]):
                logp_1V = self._read(kept[row : row + 1], np.array([place]), [token])
            rows.append(logp_1V)
        return np.concatenate(rows), ArrayState((kept, np.array([len(prompt) + 1 for prompt in prompts])))

    def _by_torch(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        import torch

        with torch.no_grad():
            logp_BV, state = self._network.start(prompts)
        *caches, missing_B = (part.numpy() for part in state.tensors)
        kept, (past, features) = self._room(len(prompts)), caches[0].shape[2:]
        for row, missing in enumerate(missing_B.tolist()):
            rotation = _rotation(np.arange(past - missing), features)
            for number, cache_BAPF in enumerate(caches):
                part_PAF = cache_BAPF[row, :, missing:].transpose(1, 0, 2)
                kept[row, number, : past - missing] = part_PAF if number % 2 else _turned(_normal(part_PAF), rotation)
        return logp_BV.numpy(), ArrayState((kept, past - missing_B))

    def step(self, state: ArrayState, token_B: Sequence[int]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after these, and the state there."""
        kept, count_B = state.arrays[0].copy(), state.arrays[1]
        return self._read(kept, count_B, token_B), ArrayState((kept, count_B + 1))

    def _read(self, kept: np.ndarray, count_B: np.ndarray, token_B: Sequence[int]) -> np.ndarray:
        """logp_BV after one token more of each text, whose keys and values are filled in."""
        weights, rows, slot_B = self._weights, np.arange(len(count_B)), count_B % self._weights.window
        rotation = _rotation(count_B, kept.shape[-1])
        most = min(weights.window, int(count_B.max()) + 1)
        unseen_B1S = (np.arange(most) > count_B[:, None])[:, None]
        x_BD = weights.table_VD[np.array(token_B)]
        for layer, (before_D, feed_D) in enumerate(weights.norm_L2D):
            projected = _normal(x_BD) * before_D @ weights.project_LPD[layer].T
            q_BAF, k_BAF, v_BAF = projected.reshape(len(rows), 3, weights.heads, -1).transpose(1, 0, 2, 3)
            kept[rows, 2 * layer, slot_B], kept[rows, 2 * layer + 1, slot_B] = _turned(_normal(k_BAF), rotation), v_BAF
            key_BASF, value_BASF = (kept[:, 2 * layer + side, :most].transpose(0, 2, 1, 3) for side in (0, 1))
            q_BAF = _turned(_normal(q_BAF), rotation) * np.float32(kept.shape[-1] ** -0.5)
            score_BAS = (key_BASF @ q_BAF[..., None])[..., 0]
            score_BAS[np.broadcast_to(unseen_B1S, score_BAS.shape)] = -np.inf
            p_BAS = np.exp(score_BAS - score_BAS.max(-1, keepdims=True))
            p_BAS /= p_BAS.sum(-1, keepdims=True)
            seen_BD = (p_BAS[..., None, :] @ value_BASF).reshape(x_BD.shape)
            x_BD = x_BD + seen_BD @ weights.attended_LDD[layer].T
            wide = _normal(x_BD) * feed_D @ weights.widen_LUD[layer].T
            x_BD = x_BD + np.square(np.maximum(wide, 0)) @ weights.narrow_LDU[layer].T
        logits_BV = _normal(x_BD) * weights.last_norm_D @ weights.out_VD.T + weights.out_bias_V
        logits_BV -= logits_BV.max(-1, keepdims=True)
        return np.asarray(logits_BV - np.log(np.exp(logits_BV).sum(-1, keepdims=True)))


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
