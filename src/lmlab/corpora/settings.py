"""What a user may say about a source of text: the settings group `data`."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lmlab import config
from lmlab.config import setting
from lmlab.errors import SettingError

IN_HAND = "(text in hand)"
"""The source of a run whose text a program held."""
Shares = tuple[float, float, float]
"""The shares of train, valid and test."""
Order = tuple[str, ...]
SPLITS: Order = ("train", "valid", "test")
"""The splits, in the order in which they lie in a text that is cut by position, unless the user names another."""


@dataclass(frozen=True)
class DataSettings(config.Settings):
    """How a source is read and split."""

    unit: str = setting(
        "auto",
        "what one document is: auto takes a record of jsonl, csv and parquet, else a whole file",
        choices=("auto", "document", "line", "record"),
    )
    text_field: str | None = setting(None, "the field of a record that holds its text or its list of tokens")
    template: str | None = setting(None, 'a text made of a record\'s fields, such as "{title} ; {summary}"')
    columns: tuple[str, ...] = setting((), "names of the columns of a CSV that has no header row")
    delimiter: str = setting("auto", "what parts columns: auto (a comma; in a .tsv a tab), tab, or one character")
    quote: str = setting("auto", 'what quotes a field: auto (" in a CSV, nothing in a .tsv), none, or one character')
    escape: str = setting("none", "what makes the next character an ordinary one: none, or one character")
    max_chars: int | None = setting(None, "cut each document after so many characters", ge=1)
    split: str = setting(
        "auto",
        'auto, none (everything trains), or shares of train, valid, test: "0.9,0.05,0.05"; named, they may stand in '
        'another order: "valid 0.01, train 0.89, test 0.1"',
    )
    errors: str = setting("strict", "what to do with bytes that are no UTF-8 text", choices=("strict", "replace"))
    limit: int | None = setting(None, "read at most so many documents", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_split(self.split)
        for name, words in (("delimiter", ("auto", "tab")), ("quote", ("auto", "none")), ("escape", ("none",))):
            value = getattr(self, name)
            if value not in words and (len(value) != 1 or value in "\0\r\n"):
                raise SettingError(name, value, f"{', '.join(words)}, or one character that ends no line")
        for dialect in (list(filter(None, self.dialect(tabbed))) for tabbed in (False, True)):
            if len(set(dialect)) < len(dialect):
                raise SettingError("quote", self.quote, "another character than delimiter and escape", "or none")
        if len(set(self.columns)) < len(self.columns):
            raise SettingError("columns", ",".join(self.columns), "names that differ", "each column needs its own")
        if self.template is not None:
            parse_template(self.template)
            if self.text_field is not None:
                raise SettingError("text_field", self.text_field, "left out beside a template", "choose one of the two")

    def dialect(self, tabbed: bool) -> tuple[str, str | None, str | None]:
        """The delimiter, the quote and the escape character of a CSV, or of a TSV; None where there is none."""
        delimiter = {"auto": "\t" if tabbed else ",", "tab": "\t"}.get(self.delimiter, self.delimiter)
        quote = {"auto": None if tabbed else '"', "none": None}.get(self.quote, self.quote)
        return delimiter, quote, None if self.escape == "none" else self.escape


def parse_split(split: str) -> tuple[Shares, Order] | None:
    """The shares that a `split` asks for, and the order in which they lie in the text; None where it is a word.

    >>> parse_split("0.8,0.1,0.1"), parse_split("auto")
    (((0.8, 0.1, 0.1), ('train', 'valid', 'test')), None)
    >>> parse_split("valid 0.01, train 0.89, test 0.1")
    ((0.89, 0.01, 0.1), ('valid', 'train', 'test'))
    """
    if split in ("auto", "none"):
        return None
    asked = [share.split() for share in split.split(",")]
    if [len(words) for words in asked] == [1, 1, 1]:
        asked = [[name, *words] for name, words in zip(SPLITS, asked, strict=True)]
    try:
        shares = [float(share) for _, share in asked]
    except ValueError:
        shares = [-1.0]
    order = tuple(words[0] for words in asked if words)
    if sorted(order) != sorted(SPLITS) or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6:
        bound = "auto, none, or three shares >= 0 of train, valid and test that sum to 1"
        raise SettingError("split", split, bound, "for example --split 0.9,0.05,0.05")
    train, valid, test = (shares[order.index(name)] for name in SPLITS)
    return (train, valid, test), order


@functools.cache
def parse_template(template: str) -> tuple[tuple[str, str | None], ...]:
    """The literal texts of a template, each with the field that follows it.

    >>> parse_template("{title} ; {summary}")
    (('', 'title'), (' ; ', 'summary'))
    """
    import string

    try:
        parsed = tuple(string.Formatter().parse(template))
    except ValueError:
        parsed = ()
    fields = [field for _, field, _, _ in parsed if field is not None]
    if not fields or "" in fields or any(form or conversion for _, _, form, conversion in parsed):
        raise SettingError("template", template, "a text with fields in braces", 'for example "{title} ; {summary}"')
    return tuple((literal, field) for literal, field, _, _ in parsed)
