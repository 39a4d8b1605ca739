"""What loops that write a text are given, and what they give.

Shapes: L layers, E embedding, H hidden, F gates (4H of an LSTM, 3H of a GRU, H of a plain RNN), V the vocabulary, P
processors, T tokens written, W a beam's width or that of a product by panels, K candidates; of convolutions C channels,
O = C or 2C of gated ones, I = a column's features times taps; of a Transformer D features, W the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmlab.vocabulary import NEVER_PREDICTED

TEMPERATURE, TOP_K, TOP_P, MIN_P = range(4)
"""The processors that compiled loops know, as codes."""
_STACKED = ("norm_attention", "norm_feed", "project", "attended", "widen", "narrow")
_KEPT = 1 << 26  # floats that are kept of a text, at most
_COPIED = 1024  # the widest window that is copied a token


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
        table_VE = named.get("embedding.weight", nothing)
        layers = range(sum(name.startswith("recurrent.weight_hh") for name in named))
        enter, recur, enter_bias, bias = (
            [named[f"recurrent.{kind}_l{layer}"] for layer in layers]
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return cls(
            *(table_VE, enter[0], np.stack(enter[1:]) if enter[1:] else nothing[None]),
            *(recur[0][None] if len(recur) == 1 else np.stack(recur), np.stack([enter_bias, bias], 1)),
            *(named.get("narrow.weight", nothing), named.get("narrow.bias", nothing.ravel())),
            *_output(named, temperature),
        )

    def matrices(self) -> tuple[np.ndarray, ...]:
        """What loops multiply by: recurrent, of deeper layers, narrow, output, and of the first layer."""
        enter_FE = self.enter_FE if len(self.table_VE) else self.narrow_EH[:0]  # one-hot: its columns are read
        return self.recur_LFH, self.deep_LFH, self.narrow_EH[None], self.out_VE[None], enter_FE[None]


class State(NamedTuple):
    """Of B texts: the layers' states, and what each token that came adds to the first layer's gates, W numbers."""

    h_BLH: np.ndarray
    c_BLH: np.ndarray
    known_V: np.ndarray
    entering_VW: np.ndarray


class ConvolutionWeights(NamedTuple):
    """Of a stack of causal convolutions, float32, contiguous, as torch keeps them.

    Attributes:
        table_VE: the embedding.
        enter_OI: of the first layer; the taps of a feature lie together, the oldest first.
        deep_LOI: of the other layers.
        bias_LO: of all.
        gap_L: tokens between two taps.
        residual: whether a layer's input is added to its output where their widths agree.
        out_VC: the output layer.
        out_bias_V: its bias; -inf where nothing is ever predicted.
    """

    table_VE: np.ndarray
    enter_OI: np.ndarray
    deep_LOI: np.ndarray
    bias_LO: np.ndarray
    gap_L: np.ndarray
    residual: bool
    out_VC: np.ndarray
    out_bias_V: np.ndarray

    @classmethod
    def of(cls, named: Mapping[str, np.ndarray], settings: Any, temperature: float) -> ConvolutionWeights:
        """From weights by torch's names, the network's settings, and what logits are divided by."""
        layers = range(settings.layers)
        enter, *deep = (named[f"convolutions.{layer}.weight"] for layer in layers)
        enter_OI, *deep = (filters.reshape(len(filters), -1) for filters in (enter, *deep))
        return cls(
            *(named["embedding.weight"], enter_OI, np.stack(deep) if deep else enter_OI[:0][None]),
            np.stack([named[f"convolutions.{layer}.bias"] for layer in layers]),
            *(np.array([settings.dilation**layer for layer in layers]), settings.residual),
            *_output(named, temperature),
        )

    def matrices(self) -> tuple[np.ndarray, ...]:
        """What loops multiply by: of the first layer, of the others, output."""
        return self.enter_OI[None], self.deep_LOI, self.out_VC[None]

    @property
    def taps(self) -> int:
        """How many columns a filter reads."""
        return self.enter_OI.shape[1] // self.table_VE.shape[1]

    @property
    def field(self) -> int:
        """How many tokens, the current one included, a prediction depends on."""
        return 1 + (self.taps - 1) * int(self.gap_L.sum())

    @property
    def kept(self) -> int:
        """How many floats the columns of a text are that a step reads."""
        reach_L = 1 + self.gap_L * (self.taps - 1)
        return int(reach_L[0] * self.table_VE.shape[1] + reach_L[1:].sum() * self.out_VC.shape[1])

    @property
    def small(self) -> bool:
        """Whether that is no great part of the memory."""
        return self.kept <= _KEPT

    def layers(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """Filters_OI, bias_O and gap of each layer."""
        deep = self.deep_LOI if len(self.gap_L) > 1 else ()
        return zip([self.enter_OI, *deep], self.bias_LO, self.gap_L.tolist(), strict=True)


class BlockWeights(NamedTuple):
    """Of a Transformer, float32, contiguous, as torch keeps them.

    Attributes:
        heads: of its attention.
        window: how many positions it reaches back, the current one included.
        table_VD: the embedding.
        norm_L2D: of each block, the gains before attention and before the feed-forward layers.
        project_LPD: queries, keys and values below each other, P = 3D.
        attended_LDD: from what all heads have seen.
        widen_LUD: U = 4D.
        narrow_LDU: back.
        last_norm_D: the gains before the output layer.
        out_VD: the output layer.
        out_bias_V: its bias; -inf where nothing is ever predicted.
    """

    heads: int
    window: int
    table_VD: np.ndarray
    norm_L2D: np.ndarray
    project_LPD: np.ndarray
    attended_LDD: np.ndarray
    widen_LUD: np.ndarray
    narrow_LDU: np.ndarray
    last_norm_D: np.ndarray
    out_VD: np.ndarray
    out_bias_V: np.ndarray

    @classmethod
    def of(cls, named: Mapping[str, np.ndarray], settings: Any, temperature: float) -> BlockWeights:
        """From weights by torch's names, the network's settings, and what logits are divided by."""
        norms, feeds, *matrices = (
            np.stack([named[f"blocks.{layer}.{name}.weight"] for layer in range(settings.layers)]) for name in _STACKED
        )
        return cls(
            *(settings.heads, settings.window, named["embedding.weight"], np.stack([norms, feeds], 1)),
            *(*matrices, named["norm.weight"], *_output(named, temperature)),
        )

    def holds(self, named: Mapping[str, np.ndarray], temperature: float) -> bool:
        """Whether these are those weights."""
        stacks = zip(_STACKED, (*self.norm_L2D.transpose(1, 0, 2), *self[4:8]), strict=True)
        pairs = [
            (named[f"blocks.{layer}.{name}.weight"], one) for name, all_L in stacks for layer, one in enumerate(all_L)
        ]
        own = self.table_VD, self.last_norm_D, self.out_VD, self.out_bias_V
        pairs += zip((named["embedding.weight"], named["norm.weight"], *_output(named, temperature)), own, strict=True)
        return all(np.array_equal(*pair) for pair in pairs)

    def matrices(self) -> tuple[np.ndarray, ...]:
        """What loops multiply by: of each block its four, then output."""
        return *self[4:8], self.out_VD[None]

    @property
    def small(self) -> bool:
        """Whether the keys and values of a text are no great part of the memory."""
        return self.norm_L2D.size * self.window <= _KEPT

    @property
    def narrow_window(self) -> bool:
        """Whether a copy of them costs little."""
        return self.window <= _COPIED


def _output(named: Mapping[str, np.ndarray], temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and bias of the full softmax, the embedding where that is tied, over the temperature."""
    weight_VH = named["output.weight"] if "output.weight" in named else named["embedding.weight"]
    bias_V, heat = named["output.bias"].copy(), np.float32(temperature)
    bias_V[list(NEVER_PREDICTED)] = -np.inf
    return (weight_VH, bias_V) if heat == 1 else (weight_VH / heat, bias_V / heat)
