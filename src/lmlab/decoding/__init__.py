"""Decoding: from a model and a prompt to new ids, by a strategy that you name.

    >>> from lmlab.models.toy import Scripted
    >>> model = Scripted.make({(): [0, 0, 0, 0, 0.6, 0.4], (4,): [0, 0, 0, 1, 0, 0], (5,): [0, 0, 0, 0, 0, 1]})
    >>> [branch.ids() for branch in finish(decode(model, [], Greedy()))]
    [[4]]
    >>> [(branch.ids(), branch.end) for branch in finish(decode(model, [], Beam(width=2), n=2, max_tokens=2))]
    [([4], 'eos'), ([5, 5], 'length')]

`docs/guide/decoding.md` tells the rest.
"""

from lmlab.decoding.branch import Branch, Step
from lmlab.decoding.processors import (
    MinP,
    NoRepeatNgram,
    Processor,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
)
from lmlab.decoding.stop import Stop, StopIds, StopText
from lmlab.decoding.strategies import Beam, Greedy, Sample, Search, Strategy, decode, finish

__all__ = [
    "Beam",
    "Branch",
    "Greedy",
    "MinP",
    "NoRepeatNgram",
    "Processor",
    "RepetitionPenalty",
    "Sample",
    "Search",
    "Step",
    "Stop",
    "StopIds",
    "StopText",
    "Strategy",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
    "decode",
    "finish",
]
