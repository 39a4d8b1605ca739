"""Models with words, small enough to be reckoned by hand: `lmlab plot beams toy:woman --prompt The`."""

from __future__ import annotations

from typing import Any, cast

from lmlab.corpora import DataSettings
from lmlab.errors import UnknownNameError
from lmlab.models.toy import Scripted
from lmlab.run_config import Component, RunConfig
from lmlab.store import Stored
from lmlab.tokens.base import Vocabulary
from lmlab.tokens.word import WordSettings, WordTokenizer
from lmlab.train_settings import TrainSettings
from lmlab.vocabulary import EOS, SPECIALS

TOYS = {
    "woman": {
        "": {"The": 1.0},
        "The": {"nice": 0.5, "dog": 0.4, "car": 0.1},
        "The nice": {"woman": 0.4, "house": 0.3, "guy": 0.3},
        "The dog": {"has": 0.9, "runs": 0.05, "and": 0.05},
        "The car": {"drives": 0.5, "is": 0.3, "turns": 0.2},
    }
}
"""What follows each text, and how likely; every other text ends.

woman: of "How to generate text" (P. von Platen, Hugging Face, 2020). Greedy search finds "The nice woman", of
probability 0.5 * 0.4 = 0.2; a beam of two finds "The dog has", 0.4 * 0.9 = 0.36.
"""


def open_toy(spec: str) -> Stored:
    """The model that `toy:NAME` names.

    Raises:
        UnknownNameError: there is none of this name.
    """
    name = spec.removeprefix("toy:")
    if name not in TOYS:
        raise UnknownNameError("toy model", name, TOYS)
    words = dict.fromkeys(word for followers in TOYS[name].values() for word in followers)
    tokenizer = WordTokenizer(WordSettings(), Vocabulary((*SPECIALS, *words)))
    id_of = {word: id for id, word in enumerate(tokenizer.tokens)}
    size = len(id_of)
    table = {
        tuple(id_of[word] for word in text.split()): [followers.get(word, 0.0) for word in tokenizer.tokens]
        for text, followers in TOYS[name].items()
    }
    settings = Scripted.Settings()
    model = Scripted(settings, size, table, default=[float(id == EOS) for id in range(size)])
    parts = Component("word", WordSettings()), Component("scripted", settings)
    config = RunConfig(spec, 0, DataSettings(), *parts, TrainSettings())
    data: dict[str, Any] = {"name": spec, "sha256": None, "split_rule": None, "splits": {}}
    manifest = {"kind": "scripted", "status": "done", "config": config.dump(), "vocab_size": size, "data": data}
    return Stored(cast(Any, model), tokenizer, config, manifest | {"results": {}})
