"""Calling the command line as a test does."""

import json
from dataclasses import dataclass
from typing import Any

from lmlab.cli import UNFORESEEN, main
from tests.texts import TINY

_MODEL = ("hidden", "embedding")


def tiny(steps: int = 3) -> list[str]:
    """The options of the smallest training of an LSTM."""
    groups = {name: "model" if name in _MODEL else "train" for name in TINY if name != "steps"}
    settings = [f"{group}.{name}={TINY[name]}" for name, group in groups.items()]
    return ["--steps", str(steps), *(word for setting in settings for word in ("--set", setting))]


@dataclass
class Called:
    """What a call gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(capsys: Any, *words: Any) -> Called:
    """Run `lmlab WORDS` in this process."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert UNFORESEEN not in err, err
    return Called(code, out, err)
