"""Decoding: from a model and a prompt to new ids, by a strategy that you name.

    >>> from lmlab.models.toy import Scripted
    >>> model = Scripted.make({(): [0, 0, 0, 0, 0.6, 0.4], (4,): [0, 0, 0, 1, 0, 0], (5,): [0, 0, 0, 0, 0, 1]})
    >>> [branch.ids() for branch in finish(decode(model, [], Greedy()))]
    [[4]]
    >>> [(branch.ids(), branch.end) for branch in finish(decode(model, [], Beam(width=2), n=2, max_tokens=2))]
    [([4], 'eos'), ([5, 5], 'length')]

`docs/guide/decoding.md` tells the rest. The processors lie in `lmlab.decoding.processors`, under their own names.
"""

from lmlab.decoding import processors
from lmlab.decoding.alone import Contrastive, Exact, Lookup, Speculative
from lmlab.decoding.beams import Beam, BeamSample, Constrained, DiverseBeam, StochasticBeam
from lmlab.decoding.branch import Alternative, Branch, Cut, Pruned, Rows, Step
from lmlab.decoding.chain import PROCESSORS, chain_of
from lmlab.decoding.draws import MBR, Greedy, Sample
from lmlab.decoding.grammar import Grammar
from lmlab.decoding.search import Batch, Search, Strategy
from lmlab.decoding.stop import Stop, StopIds, StopText
from lmlab.decoding.strategies import STRATEGIES, decode, decode_all, finish, finish_all, strategy_of
from lmlab.decoding.tree import Node, Tree
from lmlab.decoding.watermark import Detection, detect

__all__ = [
    "MBR",
    "PROCESSORS",
    "STRATEGIES",
    "Alternative",
    "Batch",
    "Beam",
    "BeamSample",
    "Branch",
    "Constrained",
    "Contrastive",
    "Cut",
    "Detection",
    "DiverseBeam",
    "Exact",
    "Grammar",
    "Greedy",
    "Lookup",
    "Node",
    "Pruned",
    "Rows",
    "Sample",
    "Search",
    "Speculative",
    "Step",
    "StochasticBeam",
    "Stop",
    "StopIds",
    "StopText",
    "Strategy",
    "Tree",
    "chain_of",
    "decode",
    "decode_all",
    "detect",
    "finish",
    "finish_all",
    "processors",
    "strategy_of",
]
