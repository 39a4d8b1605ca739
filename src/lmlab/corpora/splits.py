"""Which split a document belongs to: by its source's word, by hash, or by position.

The hash of the content (or of the group) decides, so that the same document lands in the same split on every machine
and in any order, and duplicates never stand on both sides. Too few documents for that are cut by position.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmlab.corpora.settings import SPLITS, DataSettings, Order, Shares, parse_split

DEFAULT_SHARES: Shares = (0.9, 0.05, 0.05)
FEW = 20  # fewer documents than this are cut by position where the hash leaves a split empty
_REACH = 64 << 10  # how far from the exact share a line end is looked for, in bytes


@dataclass(frozen=True)
class SplitRule:
    """How a corpus is split."""

    shares: Shares = DEFAULT_SHARES  # of train, valid and test, for what the source does not place
    named: bool = True  # whether the source's own partition counts
    sentence: str = ""  # the corpus's own rule in words, or empty
    order: Order = SPLITS  # in which they lie in a text that is cut by position


def choose_rule(settings: DataSettings, own: SplitRule) -> SplitRule:
    """What the user asks for; with `auto`, the corpus's own rule."""
    if settings.split == "auto":
        return own
    if settings.split == "none":
        return SplitRule((1.0, 0.0, 0.0), named=False, sentence="everything trains")
    shares, order = parse_split(settings.split) or (DEFAULT_SHARES, SPLITS)
    return SplitRule(shares, named=False, order=order)


def code_of(digest: bytes, shares: Shares) -> int:
    """The split (0 train, 1 valid, 2 test) of a SHA-256 digest: its first 53 bits, a number in [0, 1), against shares.

    >>> import hashlib
    >>> SPLITS[code_of(hashlib.sha256(b"some text").digest(), (0.0, 1.0, 0.0))]
    'valid'
    """
    uniform = (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
    return bisect_right((shares[0], 1.0 - shares[2]), uniform)


def shares_in_words(shares: Shares, order: Order = SPLITS) -> str:
    """`0.9 train, 0.05 valid, 0.05 test`."""
    return ", ".join(f"{shares[SPLITS.index(split)]:g} {split}" for split in order)


def position_cuts(edges: Sequence[int], shares: Sequence[float], read: Callable[[int, int], bytes]) -> tuple[int, int]:
    """Where the second and the third split begin, in bytes, when documents laid end to end are cut by position.

    Each lies at the line end (or document's end) nearest to the exact share, else at white space, else at a character.
    `edges` are where documents begin and end, `shares` stand in the order of the splits, `read` gives the bytes between
    two positions.
    """
    total = edges[-1]
    reach = max(0, min(_REACH, int(min(share for share in shares if share > 0) * total / 2) - 1))
    second, third = round(shares[0] * total), round((1.0 - shares[2]) * total)
    return _nearest_cut(second, reach, edges, read), _nearest_cut(third, reach, edges, read)


def _nearest_cut(target: int, reach: int, edges: Sequence[int], read: Callable[[int, int], bytes]) -> int:
    low, high = max(0, target - reach), min(edges[-1], target + reach + 1)
    window = read(low, high)
    if target in (edges[0], edges[-1]) or not window:
        return target
    inside = [edge for edge in edges if low < edge < high]
    for mark, others in ((b"\n", inside), (b" ", [])):
        found = (window.rfind(mark, 0, target - low), window.find(mark, target - low, len(window) - 1))
        cuts = [low + at + 1 for at in found if at >= 0] + others
        if cuts:
            return min(cuts, key=lambda cut: abs(cut - target))
    while target and read(target, target + 1)[0] & 0xC0 == 0x80:  # inside a UTF-8 character
        target -= 1
    return target
