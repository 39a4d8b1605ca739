"""Everything that lmlab raises on purpose, in one tree.

    LmlabError                 exit code 1
    ├── UsageError             exit code 2: the call itself is wrong
    │   ├── SettingError       a setting's value lies outside its bound, or the setting does not exist
    │   ├── UnknownNameError   no model, tokenizer, corpus, recipe of that name
    │   ├── RunExistsError     the directory to write is already there
    │   └── MissingExtraError  an optional library is not installed
    │       └── MissingTorchError  torch is not
    ├── DataError              the text cannot be used
    │   ├── EmptyDataError     nothing left to train or score on
    │   └── DownloadError      a named corpus could not be fetched or verified
    ├── ArtifactError          a directory is no model, or a damaged one
    ├── StorageError           the disk refuses: full, not allowed, a file in the way
    │   └── HeldError          another process is at work on it
    ├── WorkerError            a process or machine that worked for this one is gone
    └── TrainingError          training could not go on
        └── NonFiniteError     the loss became NaN or infinite

Every message names the value, the bound and the remedy, in one line.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

_LONGEST_SHOWN = 120  # characters of a value in a message
_LONGEST_HALF = 1_000  # characters of a problem, or of a remedy
_LONGEST_LIST = 250  # characters of the names there are


class LmlabError(Exception):
    """The root: catch this to catch all of ours.

    Args:
        problem: what is wrong, naming the value and the bound.
        remedy: what to do about it.
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(": ".join(_line(half) for half in (problem, remedy) if half))

    def __reduce__(self) -> tuple[Any, ...]:
        """Come out of another process as it was, whatever its class takes."""
        return _again, (type(self), self.args, vars(self))


def _again(kind: type[LmlabError], args: tuple[Any, ...], attributes: dict[str, Any]) -> LmlabError:
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


def _line(text: str) -> str:
    """A text in one line, cut if it is long: a library that read a bad file may have quoted all of it."""
    text = " ".join(text.splitlines())
    return text if len(text) <= _LONGEST_HALF else f"{text[: _LONGEST_HALF - 1]}…"


class UsageError(LmlabError):
    """The call itself is wrong; nothing was started."""

    exit_code = 2


class SettingError(UsageError):
    """A setting's value lies outside its bound.

    >>> raise SettingError("temperature", -1, "a number >= 0", "0 is greedy")
    Traceback (most recent call last):
    lmlab.errors.SettingError: temperature is -1, but must be a number >= 0: 0 is greedy
    """

    def __init__(self, name: str, value: object, bound: str, remedy: str = "") -> None:
        super().__init__(f"{name} is {shown(value)}, but must be {bound}", remedy)
        self._name, self._said = name, (value, bound, remedy)

    def within(self, group: str) -> SettingError:
        """This error for a setting of a group: `model.layers` for `layers`."""
        return SettingError(self._name if "." in self._name else f"{group}.{self._name}", *self._said)


def check_integer(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """SettingError where a value is no integer within its bounds.

    >>> check_integer("n", True)
    Traceback (most recent call last):
    lmlab.errors.SettingError: n is True, but must be an integer >= 1
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else least - 1
    if number < least or (most is not None and number > most):
        bound = f"an integer >= {least:,}" if most is None else f"an integer from {least:,} to {most:,}"
        raise SettingError(name, value, bound)


def shown(value: object) -> str:
    """A value in a message: short, and in one line, whatever it is.

    >>> shown(3), shown("three"), shown(10**400), shown("x" * 100)[:12]
    ('3', "'three'", 'an integer of about 401 digits', "'xxxxxxxxxxx")
    """
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of about {int(value.bit_length() * 0.30103) + 1} digits"
    try:
        text = str(value) if isinstance(value, (int, float)) else repr(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, or tables thousands deep, within
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


class UnknownNameError(UsageError):
    """No thing of that kind has that name; the closest names are offered.

    >>> raise UnknownNameError("model", "lsmt", ["gru", "lstm"])
    Traceback (most recent call last):
    lmlab.errors.UnknownNameError: no model is called 'lsmt': did you mean 'lstm'? There are gru, lstm
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        import difflib

        known = sorted(known)
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join(known)
        if len(listed) > _LONGEST_LIST:
            listed = listed[:_LONGEST_LIST].rpartition(", ")[0] + " …"
        super().__init__(f"no {kind} is called {shown(name)}", f"{hint}There are {listed}")


class RunExistsError(UsageError):
    """The directory to write is already there; nothing is overwritten silently."""

    def __init__(self, path: object) -> None:
        super().__init__(f"{path} already exists", "choose another -o, --overwrite it, or go on with --resume")


class MissingExtraError(UsageError):
    """An optional library is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs a library that is not installed", f"pip install 'lmlab[{extra}]'")


class MissingTorchError(MissingExtraError):
    """Torch is not installed: n-grams do without it, and stored recurrent networks as far as they only write."""

    def __init__(self, what: str) -> None:
        LmlabError.__init__(self, f"{what} needs torch, which is not installed", "pip install torch")


class DataError(LmlabError, ValueError):
    """The text cannot be used."""


class EmptyDataError(DataError):
    """Nothing left to train or score on."""


class DownloadError(DataError):
    """A named corpus could not be fetched or verified."""


class ArtifactError(LmlabError):
    """A directory is no model, or a damaged one."""


class StorageError(LmlabError):
    """The disk refuses: full, not allowed, a file in the way. What stood there before still stands."""


class HeldError(StorageError):
    """Another process is at work on it."""

    def __init__(self, path: object, holder: str) -> None:
        super().__init__(f"{path} is in use by {holder}", "wait until it ends, or end it")


class WorkerError(LmlabError):
    """A process or machine that worked for this one is gone."""


class TrainingError(LmlabError):
    """Training could not go on."""


class NonFiniteError(TrainingError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""
