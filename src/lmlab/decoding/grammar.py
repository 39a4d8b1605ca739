"""What may be written: the texts of a regular expression, of a JSON schema, or of a grammar.

    grammar = Grammar(tokenizer, regex="[0-9]{4}")
    finish(decode(model, [], Beam(width=5), grammar=grammar))

The library llguidance reads text as bytes; the tokenizer says how each id is spelled. All spellings of a text count,
and a text may end exactly where it is one of the language. The ids that may come next are a function of those before:
a matcher is a value (a copy takes microseconds), shared by equal texts and kept for the latest branches only.

Shapes: B rows, V the vocabulary, C classes of ids by what they leave the next one to add, S different spellings.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from lmlab.decoding.branch import Branch, Rows
from lmlab.errors import LmlabError, MissingExtraError, SettingError, UsageError
from lmlab.tokens.base import SILENT, Tokenizer
from lmlab.vocabulary import EOS, SPECIALS

if TYPE_CHECKING:
    from collections.abc import Iterable

Mask = NDArray[np.bool_]

# Without it text that the grammar forces could be spelled in one way only, by the longest tokens.
_EVERY_SPELLING = '\n%llguidance {"no_forcing": true}\n'
_NOTHING, _END = 0, 1  # the spelling of what is never written, and the end of a text
_KEPT = 256


class Grammar:
    """The texts that may be written with a tokenizer, told in exactly one of three ways.

    Args:
        tokenizer: spells ids. `[UNK]` and other ids without a text are never allowed.
        regex: a regular expression that the whole text matches, in the syntax of Rust: no look-around, no references.
        json_schema: a JSON schema, as an object or as JSON, whose instances are written; white space may stand in them.
        lark: a grammar in Lark's notation, as llguidance reads it.

    Raises:
        UsageError: not exactly one was given.
        SettingError: the library cannot make a grammar of it.
        MissingExtraError: llguidance is not installed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        regex: str | None = None,
        json_schema: Mapping[str, Any] | str | bool | None = None,
        lark: str | None = None,
    ) -> None:
        told = {"regex": regex, "json_schema": json_schema, "grammar": lark}
        given = [name for name, value in told.items() if value is not None]
        if len(given) != 1:
            problem = f"{', '.join(told)} are one choice, but {' and '.join(given) or 'none'} was given"
            raise UsageError(problem, "give one of them")
        library, name, value = _library(), given[0], told[given[0]]
        if name != "json_schema" and not isinstance(value, str):
            raise SettingError(name, value, "a string")
        if name == "regex":
            lark = f"start: /{library.regex_to_lark(value, '')}/"
        elif name == "json_schema":
            lark = f"start: %json {_json(value)}"
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.vocab_size
        self._spellings = _spellings(tokenizer)
        limits = library.LLParserLimits(verbose_errors=False)
        made = library.LLMatcher(self._spellings.native, f"{lark}{_EVERY_SPELLING}", log_level=0, limits=limits)
        if problem := made.get_error():
            kind = {"regex": "regular expression", "json_schema": "JSON schema", "grammar": "grammar"}[name]
            raise SettingError(name, value, f"a {kind} that llguidance reads", _complaint(problem))
        self._beginning = _Place(made, None, np.empty(0, dtype=bool))
        self._known: dict[Branch, _Place] = {}

    def allowed(self, rows: Rows) -> Mask:
        """A mask of the ids that may come next, `<eos>` where the text is whole; a row may have none.

        Raises:
            UsageError: the text or what follows it is too complex for the library.
        """
        mask_BV = [self._place(*row).allowed_V for row in zip(rows.prompts, rows.live, strict=True)]
        for old in list(islice(self._known, max(0, len(self._known) - _KEPT - 2 * len(rows)))):
            del self._known[old]
        return np.array(mask_BV)

    def dead_end(self, ids: Sequence[int]) -> UsageError:
        """The error where nothing can follow these ids."""
        told = f"after {self.tokenizer.decode(ids)[-40:]!r}" if len(ids) else "at the beginning"
        problem = f"no token goes on {told} as the grammar wants: the vocabulary cannot spell it, or its p is 0"
        remedy = "widen the grammar, or take a tokenizer of bytes; after a prompt, words begin with a space"
        return UsageError(problem, remedy)

    def _place(self, prompt: Sequence[int], branch: Branch) -> _Place:
        new, node = [], branch
        while node not in self._known and node.parent is not None:
            new.append(node)
            node = node.parent
        if node not in self._known:
            previous = next((id for id in reversed(prompt) if id not in SILENT), None)
            self._known[node] = self._beginning.after.get(previous) or self._kept(self._beginning, previous, previous)
        place = self._known[node]
        for node in reversed(new):
            place = self._known[node] = place.after.get(node.token) or self._read(place, node.token)
        return place

    def _read(self, place: _Place, token: int) -> _Place:
        """Where a text stands after one token more."""
        spelling = int(self._spellings.of(place.previous)[token])
        if self._spellings.tokens[spelling] != self.tokenizer.surface(token, place.previous):
            shown = f"{self.tokenizer.token_text(token)!r} is spelled in its own way here"
            raise UsageError(f"a grammar cannot follow this tokenizer: {shown}", "take a tokenizer of bytes")
        return self._kept(place, token, token, spelling)

    def _kept(self, place: _Place, key: int | None, previous: int | None, *spellings: int) -> _Place:
        matcher = place.matcher.deep_copy()
        if not matcher.consume_tokens(list(spellings)):
            raise UsageError(f"the grammar stopped ({_complaint(matcher.get_error())})", "make it simpler")
        made = place.after[key] = _Place(matcher, previous, self._spellings.allowed(matcher, previous))
        return made


@dataclass(eq=False)
class _Place:
    """Where texts of the same ids stand.

    Attributes:
        matcher: has read them.
        previous: the last id with a text.
        allowed_V: which ids may follow.
        after: places one token on, as long as a branch stands there.
    """

    matcher: Any
    previous: int | None
    allowed_V: Mask
    after: WeakValueDictionary[int | None, _Place] = field(default_factory=WeakValueDictionary)


class _Spellings:
    """The different byte strings by which ids are spelled, and the library's view of them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, ids = tokenizer, range(len(SPECIALS), tokenizer.vocab_size)
        self.tokens, self._numbers = [b"", b""], {b"": _NOTHING}
        members = {tokenizer.context(id): id for id in (*ids, None)}  # one of each class
        self._class = {context: at for at, context in enumerate(members)}
        surfaces_CV = [[tokenizer.surface(id, member) for id in ids] for member in members.values()]
        self._index_CV = np.full((len(members), tokenizer.vocab_size), _NOTHING)
        self._index_CV[:, EOS] = _END
        for at, surfaces_V in enumerate(surfaces_CV):
            self._index_CV[at, len(SPECIALS) :] = list(map(self._number, surfaces_V))
        self._first = None if _closed(self.tokens) else list(map(_first_bytes, surfaces_CV))
        for byte in (byte for firsts in self._first or () for byte in firsts):
            self._number(byte)
        self.native = _library().LLTokenizer(_Vocabulary(self.tokens), n_vocab=len(self.tokens))

    def _number(self, spelling: bytes) -> int:
        if b"\xff" in spelling:  # which no UTF-8 has, and by which the library marks special tokens
            return _NOTHING
        if spelling not in self._numbers:
            self._numbers[spelling] = len(self.tokens)
            self.tokens.append(spelling)
        return self._numbers[spelling]

    def of(self, previous: int | None) -> NDArray[np.int64]:
        """The number of each id's spelling after an id."""
        return np.asarray(self._index_CV[self._class[self._tokenizer.context(previous)]])

    def allowed(self, matcher: Any, previous: int | None) -> Mask:
        """A mask of the ids that may follow."""
        bits_S = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little").view(bool)
        error = matcher.get_error()
        if error and not error.startswith("NoExtension"):
            raise UsageError(f"the grammar stopped ({_complaint(error)})", "make it simpler")
        index_V = self.of(previous)
        allowed_V = bits_S.take(index_V) if not error else np.zeros(len(index_V), dtype=bool)
        if self._first is not None:
            for id in np.flatnonzero(allowed_V[len(SPECIALS) :]) + len(SPECIALS):
                allowed_V[id] = self._goes_on(matcher, int(id), int(index_V[id]))
        return allowed_V

    def _goes_on(self, matcher: Any, id: int, spelling: int) -> bool:
        """Whether something can come after an id: a word must not end where a longer one was meant."""
        assert self._first is not None
        firsts = self._first[self._class[self._tokenizer.context(id)]]
        if any(matcher.validate_tokens([spelling, self._numbers[byte]]) == 2 for byte in firsts):
            return True
        further = matcher.deep_copy()
        return bool(further.consume_token(spelling) and further.is_accepting())


_spellings = lru_cache(maxsize=4)(_Spellings)


class _Vocabulary:
    """What the library wants to know."""

    is_tokenizer_wrapper = True
    eos_token_id, bos_token_id, special_token_ids = _END, None, (_END,)

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self.tokens = tokens

    def __call__(self, text: str) -> list[int]:
        raise LmlabError("llguidance asked for a spelling, though nothing is forced", "report this")


def _closed(spellings: Iterable[bytes]) -> bool:
    """Whether the single characters, or bytes, of the spellings are spellings too."""
    known = {*spellings}
    return all(
        {bytes([byte]) for byte in one} <= known or {char.encode() for char in one.decode("utf-8", "replace")} <= known
        for one in known
    )


def _first_bytes(spellings: Iterable[bytes]) -> list[bytes]:
    """What spellings begin with, the commonest first."""
    return [byte for byte, _ in Counter(one[:1] for one in spellings if one and b"\xff" not in one).most_common()]


def _json(schema: Any) -> str:
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
        if not isinstance(schema, Mapping | bool):
            raise SettingError("json_schema", schema, "an object, or true or false")
        return json.dumps(schema if isinstance(schema, bool) else dict(schema))
    except (ValueError, TypeError, RecursionError) as error:
        raise SettingError("json_schema", schema, "JSON", str(error)) from error


def _complaint(problem: str) -> str:
    """The line of the library's message that says what is wrong."""
    lines = problem.splitlines()
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingExtraError("a grammar", "grammar") from error
    return llguidance
