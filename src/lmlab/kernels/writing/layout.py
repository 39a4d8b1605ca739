"""What loops that write a text are given, and what they give.

Shapes: L layers, E embedding, H hidden, F gates (4H of an LSTM, 3H of a GRU, H of a plain RNN), V the vocabulary, P
processors, T tokens written, W a beam's width or that of a product by panels, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lmlab.vocabulary import NEVER_PREDICTED

TEMPERATURE, TOP_K, TOP_P, MIN_P = range(4)
"""The processors that compiled loops know, as codes."""


class Rule(NamedTuple):
    """How each token is chosen.

    Attributes:
        greedy: whether the likeliest is taken, the lowest id on ties; if not, one is drawn.
        eos: the id after which nothing is chosen any more.
        forbidden_F: ids that are never chosen, unless no other can be.
        code_P: the processors, in order.
        value_P: what each of them is set to, float64.
    """

    greedy: bool
    eos: int
    forbidden_F: np.ndarray
    code_P: np.ndarray
    value_P: np.ndarray

    @classmethod
    def of(cls, greedy: bool, eos: int, forbidden: Sequence[int], processors: Sequence[tuple[int, float]]) -> Rule:
        """From Python's numbers: processors as pairs of code and value."""
        codes, values = ([pair[place] for pair in processors] for place in (0, 1))
        return cls(greedy, eos, np.array(forbidden, np.int64), np.array(codes, np.int64), np.array(values, np.float64))


class Written(NamedTuple):
    """Tokens that were chosen, and their log-probabilities: the model's, and after the processors."""

    token_T: np.ndarray
    logp_T: np.ndarray
    drawn_T: np.ndarray

    @classmethod
    def room(cls, *shape: int) -> Written:
        """Of so many tokens, or rows of tokens, to be filled in."""
        return cls(np.empty(shape, np.int64), np.empty(shape), np.empty(shape))


class Candidates(NamedTuple):
    """The best continuations of a beam's texts at each token, best first: K of them, twice the beam's width.

    Attributes:
        score_TK: the text's score and the token's log-probability.
        row_TK: which of the texts it continues, in the order of those of the last token that go on.
        token_TK: by which token.
        logp_TK: its log-probability.
        drawn_TK: that among what is not forbidden.
        found_T: how many there are; -1 where the model gives NaN.
    """

    score_TK: np.ndarray
    row_TK: np.ndarray
    token_TK: np.ndarray
    logp_TK: np.ndarray
    drawn_TK: np.ndarray
    found_T: np.ndarray

    @classmethod
    def room(cls, tokens: int, width: int) -> Candidates:
        """Of so many tokens, to be filled in."""
        score_TK, logp_TK, drawn_TK = np.empty((3, tokens, 2 * width))
        row_TK, token_TK = np.empty((2, tokens, 2 * width), np.int64)
        return cls(score_TK, row_TK, token_TK, logp_TK, drawn_TK, np.empty(tokens, np.int64))


class Texts(NamedTuple):
    """The texts of a beam: of the first `live` of them the score and the token that is not read yet."""

    score_W: np.ndarray
    token_W: np.ndarray
    live_1: np.ndarray

    @classmethod
    def of(cls, width: int, token: int) -> Texts:
        """One text, which ends in a token."""
        return cls(np.zeros(width), np.full(width, token), np.ones(1, np.int64))


class Weights(NamedTuple):
    """Of a network, float32, contiguous, as torch keeps them; matrices that it lacks have no rows.

    Attributes:
        table_VE: the embedding; none where tokens enter as one-hot vectors.
        enter_FE: from what enters to the first layer's gates.
        deep_LFH: the same of the other layers.
        recur_LFH: from each layer's hidden state to its gates.
        bias_L2F: of both.
        narrow_EH: from the last hidden state to the features of a tied output layer.
        narrow_bias_E: its bias.
        out_VE: the output layer.
        out_bias_V: its bias; -inf where nothing is ever predicted.
    """

    table_VE: np.ndarray
    enter_FE: np.ndarray
    deep_LFH: np.ndarray
    recur_LFH: np.ndarray
    bias_L2F: np.ndarray
    narrow_EH: np.ndarray
    narrow_bias_E: np.ndarray
    out_VE: np.ndarray
    out_bias_V: np.ndarray

    @classmethod
    def of(cls, named: Mapping[str, np.ndarray], temperature: float) -> Weights:
        """From weights by torch's names, and what logits are divided by."""
        nothing = np.empty((0, 0), np.float32)
        table_VE, out_bias_V = named.get("embedding.weight", nothing), named["output.bias"].copy()
        layers = range(sum(name.startswith("recurrent.weight_hh") for name in named))
        enter, recur, enter_bias, bias = (
            [named[f"recurrent.{kind}_l{layer}"] for layer in layers]
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        out_bias_V[list(NEVER_PREDICTED)] = -np.inf
        out_VE, heat = named.get("output.weight", table_VE), np.float32(temperature)
        return cls(
            *(table_VE, enter[0], np.stack(enter[1:]) if enter[1:] else nothing[None]),
            *(recur[0][None] if len(recur) == 1 else np.stack(recur), np.stack([enter_bias, bias], 1)),
            *(named.get("narrow.weight", nothing), named.get("narrow.bias", nothing.ravel())),
            *((out_VE, out_bias_V) if heat == 1 else (out_VE / heat, out_bias_V / heat)),
        )


class State(NamedTuple):
    """Of B texts: the layers' states, and what each token that came adds to the first layer's gates, W numbers."""

    h_LBH: np.ndarray
    c_LBH: np.ndarray
    known_V: np.ndarray
    entering_VW: np.ndarray
