"""One id a token of Python source, found by one regular expression that no text can make fail.

Strings are one token each, comments and white space are dropped, and whatever is not Python is taken a character at a
time. Every alternative is tried once a place and a quote that closes nowhere is tried once a line, so the time is
linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lmlab import config
from lmlab.config import setting
from lmlab.tokens.base import clean
from lmlab.tokens.word import NEWLINE, WordsTokenizer

_TOKEN = re.compile(
    r"""
    \#[^\r\n]*                                                              # a comment: matched, but not captured
    | ( (?:[rbuf]|rb|br|rf|fr)?                                             # strings, with their prefixes
        (?: '''(?:[^\\']|\\[\s\S]|'(?!''))*+'''
          | \"""(?:[^\\"]|\\[\s\S]|"(?!""))*+\"""
          | '(?:[^'\\\r\n]|\\(?:\r\n|[\s\S]))*+'
          | "(?:[^"\\\r\n]|\\(?:\r\n|[\s\S]))*+" )
      | 0x[\da-f_]+ | 0b[01_]+ | 0o[0-7_]+                                  # numbers
      | (?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:e[+-]?\d[\d_]*)?j?
      | [^\W\d]\w*                                                          # names and keywords
      | \*\*=? | //=? | >>=? | <<=? | -> | := | \.\.\. | [-+*/%@&|^=<>!]=   # operators of more than one character
      | \\['"\\]                                                            # no quote: what a string would escape
      | \S )                                                                # anything else
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class CodeSettings(config.Settings):
    """Settings of the code tokenizer."""

    vocab_size: int | None = setting(40_000, "most ids, the four specials included; none: every token seen", ge=5)
    min_count: int = setting(1, "a token seen less often is unknown", ge=1)


class CodeTokenizer(WordsTokenizer):
    r"""One id a token of Python source.

    >>> from lmlab.corpora.document import Document
    >>> tokenizer = CodeTokenizer.train([Document("def f(x): return x**2  # square")], CodeSettings())
    >>> tokenizer.decode(tokenizer.encode("def f( x ):\n  return y").ids)
    'def f ( x ) : return [UNK]'
    """

    kind = "code"
    Settings = CodeSettings
    settings: CodeSettings
    _after: Mapping[str, int] = {"'": NEWLINE, '"': NEWLINE}
    """A stray quote must not open a string with the next one."""

    @property
    def normalisation(self) -> str:
        """How tokens are joined, and that comments are lost."""
        return "Tokens are joined by one space (a newline after a quote that opens no string); comments are dropped."

    def tokenise(self, text: str) -> list[str]:
        """The tokens of Python source, without comments."""
        return list(filter(None, _TOKEN.findall(clean(text))))
