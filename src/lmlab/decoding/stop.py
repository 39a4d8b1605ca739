"""When to stop before `<eos>`: a stop is anything that looks at a branch and says yes or no.

A stop keeps no memory of its own, for beams ask it about many texts in turn. The tokens that made it say yes stay in
the branch; whoever shows the text decides whether to cut them off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from lmlab.decoding.branch import Branch
from lmlab.errors import SettingError


class Stop(Protocol):
    """Asked once about each new branch that `<eos>` did not end."""

    def __call__(self, branch: Branch) -> bool:
        """Whether the text ends here."""
        ...


class StopIds:
    """Stops where the generated ids end in one of these sequences.

    Raises:
        SettingError: no sequence, or an empty one.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self.sequences = tuple(list(sequence) for sequence in sequences)
        if not self.sequences or not all(self.sequences):
            raise SettingError("stop", self.sequences, "one or more sequences of ids, none empty")
        self._longest = max(map(len, self.sequences))

    def __call__(self, branch: Branch) -> bool:
        """Whether the generated ids end in one of the sequences."""
        tail = branch.tail(self._longest)
        return any(tail[-len(sequence) :] == sequence for sequence in self.sequences)


class StopText:
    """Stops where one of these strings shows in the generated text, decoding its last tokens only.

    Args:
        decode: turns ids into text.
        strings: the strings to look for.
        window_tokens: how many tokens to decode. The default covers the longest string where each token stands for at
            least one byte, and some more for tokenizers that trim the ends of what they decode.

    Raises:
        SettingError: no string, an empty one, or a window below 1.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], strings: Iterable[str], window_tokens: int | None = None
    ) -> None:
        self.strings = tuple(strings)
        if not self.strings or not all(self.strings):
            raise SettingError("stop", self.strings, "one or more strings, none empty")
        self.window_tokens = max(len(s.encode()) for s in self.strings) + 8 if window_tokens is None else window_tokens
        if self.window_tokens < 1:
            raise SettingError("window_tokens", window_tokens, "an integer >= 1")
        self._decode = decode

    def __call__(self, branch: Branch) -> bool:
        """Whether one of the strings shows in the last tokens."""
        text = self._decode(branch.tail(self.window_tokens))
        return any(string in text for string in self.strings)
