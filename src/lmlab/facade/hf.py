"""`hf:PATH_OR_NAME` as a text model: what a run's own directory says is said of the model that was found."""

from __future__ import annotations

from typing import Any, NamedTuple

from lmlab import corpora
from lmlab.models.hf import HuggingFaceModel, open_model
from lmlab.run_config import Component, RunConfig
from lmlab.tokens.hf import HuggingFaceSettings, HuggingFaceTokenizer
from lmlab.train_settings import TrainSettings

PREFIX = "hf:"


class Opened(NamedTuple):
    """A Hugging Face model as a `TextModel` is made of one."""

    model: HuggingFaceModel
    tokenizer: HuggingFaceTokenizer
    config: RunConfig
    manifest: dict[str, Any]


def open_hf(spec: str) -> Opened:
    """The model that `hf:PATH_OR_NAME` names. It has no text of its own; other texts are read whole.

    Raises:
        MissingExtraError: transformers is not installed.
        ArtifactError: it cannot be opened, or is none that can be used.
    """
    model, tokenizer = open_model(spec.removeprefix(PREFIX))
    of_model, of_tokenizer = (Component(kind, HuggingFaceSettings()) for kind in (spec, "hf"))
    config = RunConfig(spec, 0, corpora.DataSettings(), of_tokenizer, of_model, TrainSettings())
    manifest = {
        "kind": "hf",
        "vocab_size": tokenizer.vocab_size,
        "data": {"name": spec, "sha256": None, "split_rule": None, "splits": {}},
        "results": {},
        "architecture": model.network.config.model_type,
        "model_bytes": model.nbytes,
        "protocol": {
            "window": f"{model.context} tokens; the last {model.context - model.stride} of a full one begin the next"
        },
    }
    return Opened(model, tokenizer, config, manifest)
