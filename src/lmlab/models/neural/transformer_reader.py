"""A Transformer that steps in NumPy: keys are normalised and rotated once, where torch's step does so for the window.

Shapes: B texts, L layers, W the window, A heads, F features of a head, D width, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmlab.models.base import ArrayState
from lmlab.vocabulary import NEVER_PREDICTED

_BASE = 10_000.0


class TransformerReader:
    """`start` and `step` of a network, given its weights by torch's names.

    A state holds the place of the next token, and at each place modulo the window the token's key, rotated by its
    place (scores depend on differences alone), and its value. Places count from the first token that is still seen.
    """

    def __init__(self, network: Any, named: Mapping[str, np.ndarray], heads: int, window: int) -> None:
        self._network, self._named, self._heads, self._window = network, named, heads, window
        self._layers = sum(name.endswith("project.weight") for name in named)
        self._bias_V = named["output.bias"].copy()
        self._bias_V[list(NEVER_PREDICTED)] = -np.inf
        self._heat = np.float32(network.temperature)

    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, ArrayState]:
        """logp_BV of the token after `<bos>` and each prompt, which torch reads at once, and the state there."""
        import torch

        with torch.no_grad():
            logp_BV, state = self._network.start(prompts)
        *caches, missing_B = (part.numpy() for part in state.tensors)
        past, features = caches[0].shape[2:]
        kept = np.zeros((len(prompts), 2 * self._layers, self._window, self._heads, features), np.float32)
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
        named, rows, slot_B = self._named, np.arange(len(count_B)), count_B % self._window
        rotation = _rotation(count_B, kept.shape[-1])
        most = min(self._window, int(count_B.max()) + 1)
        unseen_B1S = (np.arange(most) > count_B[:, None])[:, None]
        x_BD = named["embedding.weight"][np.array(token_B)]
        for layer in range(self._layers):
            block = f"blocks.{layer}."
            projected = _normal(x_BD) * named[block + "norm_attention.weight"] @ named[block + "project.weight"].T
            q_BAF, k_BAF, v_BAF = projected.reshape(len(rows), 3, self._heads, -1).transpose(1, 0, 2, 3)
            kept[rows, 2 * layer, slot_B], kept[rows, 2 * layer + 1, slot_B] = _turned(_normal(k_BAF), rotation), v_BAF
            key_BASF, value_BASF = (kept[:, 2 * layer + side, :most].transpose(0, 2, 1, 3) for side in (0, 1))
            q_BAF = _turned(_normal(q_BAF), rotation) * np.float32(kept.shape[-1] ** -0.5)
            score_BAS = (key_BASF @ q_BAF[..., None])[..., 0]
            score_BAS[np.broadcast_to(unseen_B1S, score_BAS.shape)] = -np.inf
            p_BAS = np.exp(score_BAS - score_BAS.max(-1, keepdims=True))
            p_BAS /= p_BAS.sum(-1, keepdims=True)
            seen_BD = (p_BAS[..., None, :] @ value_BASF).reshape(x_BD.shape)
            x_BD = x_BD + seen_BD @ named[block + "attended.weight"].T
            wide = _normal(x_BD) * named[block + "norm_feed.weight"] @ named[block + "widen.weight"].T
            x_BD = x_BD + np.square(np.maximum(wide, 0)) @ named[block + "narrow.weight"].T
        logits_BV = _normal(x_BD) * named["norm.weight"] @ named["output.weight"].T + self._bias_V
        logits_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / self._heat
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
