"""Trained models for others: a folder of Hugging Face's transformers, or a step function in ONNX.

The folder is loaded by `AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)`: it holds the weights,
the tokenizer, and one file of code (`modeling_lmlab.py`). Its logits are those of the run.

The step function reads one token a text: `step.onnx` maps `tokens` (B) and the tensors of the state to `logp` (B, V)
and the state after. `initial_state.npz` has a row of the state before `<bos>`, which is read first.

Shapes: B texts, V the vocabulary.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lmlab.disk import atomic_folder, write_json
from lmlab.errors import MissingExtraError, UnknownNameError, UsageError
from lmlab.models.neural.base import TensorState
from lmlab.models.neural.transformer import Transformer
from lmlab.vocabulary import BOS, EOS, PAD, SPACES, SPECIALS, UNK

if TYPE_CHECKING:
    from lmlab.facade.text_model import TextModel

CODE = "modeling_lmlab"
FORMATS = ("hf", "onnx")
_KINDS = ("cnn", "gru", "lstm", "rnn", "transformer")


def export(lm: TextModel, to: str, folder: Path) -> None:
    """Write a text model for others, whole or not at all.

    Args:
        lm: a trained run.
        to: "hf" or "onnx".
        folder: a new folder.

    Raises:
        UnknownNameError: there is no such format.
        UsageError: the model is not a trained network of lmlab's own.
        MissingExtraError: what writes ONNX is not installed.
        RunExistsError: the folder is already there.
    """
    if to not in FORMATS:
        raise UnknownNameError("format", to, FORMATS)
    kind = lm.config.model.kind
    if kind not in _KINDS:
        remedy = "lmlab ngram arpa writes an n-gram model" if kind == "ngram" else f"it may be {', '.join(_KINDS)}"
        raise UsageError(f"a model of kind {kind} is not exported", remedy)
    with atomic_folder(folder) as beside:
        {"hf": _write_hf, "onnx": _write_onnx}[to](lm, beside)
        _write_tokenizer(lm, beside)


def _write_hf(lm: TextModel, folder: Path) -> None:
    from safetensors.torch import save_file

    network: Any = lm.model
    inside = {name if name.startswith("output.") else f"body.{name}": w for name, w in network.state_dict().items()}
    save_file({name: w.contiguous() for name, w in inside.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / f"{CODE}.py").write_bytes((Path(__file__).parent / "remote_code" / f"{CODE}.py").read_bytes())
    ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    config = {
        "architectures": ["LmlabForCausalLM"],
        "auto_map": {"AutoConfig": f"{CODE}.LmlabConfig", "AutoModelForCausalLM": f"{CODE}.LmlabForCausalLM"},
        "model_type": "lmlab",
        "kind": lm.config.model.kind,
        "settings": lm.config.model.settings.dump(),
        "calibration_temperature": network.temperature,
        "vocab_size": network.vocab_size,
        "dtype": "float32",
        "tie_word_embeddings": False,
        "use_cache": True,
        **ends,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {**ends, "use_cache": True})


def _write_tokenizer(lm: TextModel, folder: Path) -> None:
    """`tokenizer.json` such that a text is read as here, `<bos>` first; words and code come parted by white space."""
    native = json.loads(lm.tokenizer.reference().to_str())
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    native["added_tokens"] = [{"id": id, "content": content, **special} for id, content in enumerate(SPECIALS)]
    bos = {"SpecialToken": {"id": SPECIALS[BOS], "type_id": 0}}
    single, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    native["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, single],
        "pair": [bos, single, second],
        "special_tokens": {SPECIALS[BOS]: {"id": SPECIALS[BOS], "ids": [BOS], "tokens": [SPECIALS[BOS]]}},
    }
    if lm.tokenizer.kind == "char":
        native["decoder"] = {"type": "Fuse"}
    elif native["pre_tokenizer"] is None:
        blanks = {"Regex": f"[{SPACES}]+"}
        native["pre_tokenizer"] = {"type": "Split", "pattern": blanks, "behavior": "Removed", "invert": False}
    write_json(folder / "tokenizer.json", native)
    names = {"pad_token": PAD, "unk_token": UNK, "bos_token": BOS, "eos_token": EOS}
    about: dict[str, Any] = {name: SPECIALS[id] for name, id in names.items()}
    about |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", {**about, "split_special_tokens": True, "padding_side": "left"})


class _Step(nn.Module):
    """One token further, the state as plain tensors."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens_B: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        features_B1H, after = self.network.features(tokens_B[:, None], TensorState(state))
        return self.network.output(features_B1H[:, 0]).log_softmax(-1), *after.tensors


def _write_onnx(lm: TextModel, folder: Path) -> None:
    try:
        importlib.import_module("onnxscript")
    except ImportError as error:
        raise MissingExtraError("ONNX", "onnx") from error
    network: Any = lm.model
    state = _initial(network, 2)
    inputs = [torch.tensor([BOS, BOS]), *state]
    names = [f"state_{number}" for number in range(len(state))]
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Step(network).eval(),
            tuple(inputs),
            input_names=["tokens", *names],
            output_names=["logp", *(f"{name}_after" for name in names)],
            dynamic_shapes=({0: "B"}, tuple({0: "B"} for _ in state)),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(folder / "step.onnx")
    first: Mapping[str, Any] = {name: each[:1].numpy() for name, each in zip(names, state, strict=True)}
    np.savez(folder / "initial_state.npz", **first)


def _initial(network: Any, rows: int) -> list[Tensor]:
    """The state before `<bos>`, of a shape that stays: a Transformer's window is full, of padding."""
    state = list(network.initial_state(rows, network.device).tensors)
    if isinstance(network, Transformer):
        *caches, missing_B = state
        settings: Any = network.settings
        kept = settings.window - 1
        wide = [cache.new_zeros(*cache.shape[:2], kept, cache.shape[3]) for cache in caches]
        return [*wide, torch.full_like(missing_B, kept)]
    return [each.clone() for each in state]
