"""A small text with some structure, and the smallest training that is one."""

import importlib.util
import random

_NAMES = ("the cat", "a dog", "naïve Zoë", "an owl", "the 漢字 sign")
_DEEDS = ("sat on", "saw", "ran from", "sang to", "wrote of")


def some_text(sentences: int = 150, seed: int = 0) -> str:
    """Sentences of one shape, a few characters beyond ASCII among them."""
    draw = random.Random(seed).choice
    return "".join(f"{draw(_NAMES)} {draw(_DEEDS)} {draw(_NAMES)}.\n" for _ in range(sentences))


TEXT = some_text()
PPMD = ["PPMd"] * (importlib.util.find_spec("pyppmd") is not None)  # an optional line of a ladder
QUICK = {"steps": 3, "evaluations": 1, "samples": False, "baseline": False, "precision": "fp32", "threads": 1}
TINY = {"hidden": 8, "embedding": 8, **QUICK}
