"""The one rule for special tokens: the same four, at the same ids, in every tokenizer and every model.

`<bos>` is context and never predicted; `[PAD]` fills batches and is never predicted; `<eos>` is predicted; `[UNK]`
stands for what the vocabulary lacks, is predicted, and its spelling is charged for (`spelling_nats`).
"""

from __future__ import annotations

import math

PAD, UNK, BOS, EOS = range(4)
SPECIALS = ("[PAD]", "[UNK]", "<bos>", "<eos>")
NEVER_PREDICTED = (PAD, BOS)
SPACES = "\0\t\n\v\f\r "
"""What parts words where these are runs of non-space: the white space of KenLM's query, and nothing of Unicode's."""
IGNORE = -100
"""What stands in a row of targets where nothing is predicted."""


def spelling_nats(unknown_tokens: int, unknown_bytes: int) -> float:
    """What the unknown tokens of a text cost beyond the prediction of `[UNK]`, in nats.

    Each is spelled in UTF-8, every byte and a closing mark uniform over 257 symbols: a complete prefix code, so that
    a model with a small vocabulary pays honestly for what it does not know.

    >>> round(spelling_nats(1, 2), 3)   # two bytes and the closing mark
    16.647
    """
    return (unknown_bytes + unknown_tokens) * math.log(257)
