"""Causal language models of Hugging Face's transformers, from a folder, a GGUF file or the user's cache.

    model, tokenizer = open_model("models/gpt2")

The vocabulary is the model's own with our four special tokens before it (`lmlab.tokens.hf`). `<bos>` is read as the
model's beginning-of-text token; a model without one, as GPT-2, reads its end-of-text token there, which stood between
the documents that it was trained on. It is read before every text, whether or not the model's own tokenizer adds it.
`<eos>` is the model's end of text, all its end tokens together where it has several.

A model sees C positions at most. A text is read in windows: the first C, then, whenever a window is full, its last
C - S positions begin the next one (S, the stride, is half of C where nothing else is asked for). So each token is
predicted once, from at least C - S tokens before it, whether it is scored, generated or read as a prompt.

Weights are read from safetensors or GGUF, as 32-bit numbers; code that comes with a model is never run.

Shapes: B texts, T positions, V the vocabulary, U the model's own, N ids, P positions of a piece.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lmlab.errors import ArtifactError, MissingExtraError, SettingError, UsageError
from lmlab.models.base import Scorer
from lmlab.models.scorers import Padded
from lmlab.tokens.hf import SHIFT, HuggingFaceTokenizer
from lmlab.vocabulary import BOS, EOS, PAD, UNK

_PIECE_FLOATS = 1 << 24  # logits held at once, 64 MB
_PIECE_TOKENS = 1 << 11  # and positions read at once
_UNBOUNDED = 1 << 30
_LONGEST_TOLD = 200


@dataclass(frozen=True)
class WindowState:
    """What B texts have in their windows, padded on the left to one length."""

    cache: Any  # keys and values, as transformers keeps them; a forward pass is given a copy
    ids_BT: Tensor  # native
    length_B: Tensor  # how many of them are no padding
    ragged: bool  # whether there is padding

    def select(self, rows_K: Tensor) -> WindowState:
        """The state of these rows."""
        cache = _copied(self.cache)
        cache.batch_select_indices(rows_K)
        return WindowState(cache, self.ids_BT[rows_K], self.length_B[rows_K], self.ragged)

    def joined(self, other: WindowState) -> WindowState:
        """The state of these rows, then of the other's, padded to one length."""
        cache = _copied(self.cache)
        for mine, theirs in zip(cache.layers, other.cache.layers, strict=True):
            mine.keys, mine.values = _stacked(mine.keys, theirs.keys), _stacked(mine.values, theirs.values)
            if hasattr(mine, "cumulative_length"):  # of a sliding window
                mine.cumulative_length = max(mine.cumulative_length, theirs.cumulative_length)
        ids_BT = _stacked(self.ids_BT[..., None], other.ids_BT[..., None])[..., 0]
        ragged = self.ragged or other.ragged or self.ids_BT.shape[1] != other.ids_BT.shape[1]
        return WindowState(cache, ids_BT, torch.cat([self.length_B, other.length_B]), ragged)


class HuggingFaceModel:
    """A causal language model of transformers.

    Args:
        network: with `forward(input_ids, cache)`, in evaluation mode.
        bos: what it reads for `<bos>`.
        eos: what ends a text, one id or several.
        unk: what it reads and predicts for `[UNK]`; None where it has no unknown token.
        stride: how far a window moves; None is half the context.

    Raises:
        SettingError: a stride below 1 or beyond the context.
    """

    family: ClassVar[str] = "composed"
    bos, eos = BOS, EOS

    def __init__(
        self, network: Any, bos: int, eos: Sequence[int], unk: int | None = None, stride: int | None = None
    ) -> None:
        self.network = network
        size = int(network.config.get_text_config().vocab_size)
        self.vocab_size = size + SHIFT
        self.context = _context(network.config)
        self.stride = max(1, self.context // 2) if stride is None else stride
        if not 1 <= self.stride <= self.context:
            raise SettingError("stride", stride, f"an integer from 1 to the context of {self.context}")
        device = network.device
        self._native_V = torch.tensor([bos, bos if unk is None else unk, bos, eos[0], *range(size)], device=device)
        self._eos = torch.tensor(eos, device=device)
        moved = [id + SHIFT for id in (*eos, *([] if unk is None else [unk]))]
        never = torch.tensor([PAD, BOS, *([UNK] if unk is None else []), *moved], device=device)
        self._never_V = torch.zeros(self.vocab_size, device=device).index_fill(0, never, -torch.inf)
        self._takes, self._cache = _takes(network), _cache_name(network)

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take."""
        return sum(weight.numel() * weight.element_size() for weight in self.network.parameters())

    @torch.inference_mode()
    def attention_weights(self, ids: Sequence[int]) -> Tensor:
        """The attention of each layer and head while ids are read in one window: (layers, heads, T, T).

        Raises:
            UsageError: more ids than a window holds, or a model that does not give it.
        """
        if len(ids) > self.context:
            raise UsageError(f"{len(ids)} tokens are more than the window of {self.context}", "ask for fewer tokens")
        before = self.network.config._attn_implementation
        try:
            self.network.set_attn_implementation("eager")  # faster ones never hold the weights
            found = self.network(input_ids=self._native_V[[*ids]][None], output_attentions=True).attentions
        finally:
            self.network.set_attn_implementation(before)
        if not found or any(weights is None for weights in found):
            raise UsageError(f"a {self.network.config.model_type} does not give its attention", "name another model")
        return torch.cat([*found])

    def embedding_rows(self) -> Tensor:
        """The vectors that tokens enter as, (V, E)."""
        rows: Tensor = self.network.get_input_embeddings().weight.detach()[self._native_V]
        return rows

    # -- one token after the other ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, WindowState]:
        """logp_BV of the token after `<bos>` and each prompt, and the state there."""
        if not prompts:
            raise UsageError("start was given no prompts", "an empty prompt is [[]]")
        return self._read([self._native_V[[self.bos, *prompt]] for prompt in prompts])

    @torch.inference_mode()
    def step(self, state: WindowState, tokens_B: Tensor) -> tuple[Tensor, WindowState]:
        """logp_BV of the token after these, and the state there."""
        grown_BT = torch.cat([state.ids_BT, self._native_V[tokens_B][:, None]], 1)
        length_B = state.length_B + 1
        if grown_BT.shape[1] > self.context and int(length_B.max()) > self.context:
            return self._read([row[len(row) - n :] for row, n in zip(grown_BT, length_B.tolist(), strict=True)])
        return self._after(WindowState(_copied(state.cache), grown_BT, length_B, state.ragged), 1)

    def _read(self, texts: Sequence[Tensor]) -> tuple[Tensor, WindowState]:
        """The last window of each text, read from its beginning."""
        begins = [-(-max(0, len(text) - self.context) // self.stride) * self.stride for text in texts]
        windows = [text[begin:] for text, begin in zip(texts, begins, strict=True)]
        lengths = [len(window) for window in windows]
        longest = max(lengths)
        ids_BT = torch.stack([F.pad(window, (longest - len(window), 0)) for window in windows])
        length_B = torch.tensor(lengths, device=ids_BT.device)
        return self._after(WindowState(None, ids_BT, length_B, min(lengths) < longest), longest)

    def _after(self, state: WindowState, new: int) -> tuple[Tensor, WindowState]:
        """Read the last `new` positions of a state whose cache holds those before; the cache is altered."""
        width, cache = state.ids_BT.shape[1], state.cache
        piece = max(1, _PIECE_TOKENS // len(state.ids_BT))
        for begin in range(width - new, width, piece):
            end = min(begin + piece, width)
            padding = self._padding(width - state.length_B, begin, end) if state.ragged else {}
            logits_BPU, cache = self._forward(state.ids_BT[:, begin:end], cache, last=True, **padding)
        return self._ours(logits_BPU[:, -1]), WindowState(cache, state.ids_BT, state.length_B, state.ragged)

    def _padding(self, first_B: Tensor, begin: int, end: int) -> dict[str, Tensor]:
        """What tells the network of padding on the left: where each row begins, and the positions of a piece."""
        at_BT = torch.arange(end, device=first_B.device) - first_B[:, None]
        return {"attention_mask": (at_BT >= 0).long(), "position_ids": at_BT[:, begin:].clamp(min=0)}

    def _forward(self, ids_BP: Tensor, cache: Any, *, last: bool = False, **more: Any) -> tuple[Tensor, Any]:
        """Logits of the model's own vocabulary, of the last position or of all, and the cache."""
        if last:
            more["logits_to_keep"] = 1
        known = {name: value for name, value in more.items() if name in self._takes}
        out = self.network(input_ids=ids_BP, **{self._cache: cache}, use_cache=True, **known)
        return out.logits, getattr(out, self._cache)

    def _ours(self, logits: Tensor) -> Tensor:
        """Log-probabilities over V from the model's own logits over U, in any shape before that."""
        ours = logits.float().index_select(-1, self._native_V)
        if len(self._eos) > 1:
            ours[..., EOS] = logits[..., self._eos].float().logsumexp(-1)
        return (ours + self._never_V).log_softmax(-1)

    # -- known text ---------------------------------------------------------------------------------------------------

    def scorer(self) -> Scorer:
        """Scores padded batches."""
        return Padded(self.logp, self.rows)

    @torch.inference_mode()
    def logp(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """logp_BT of each token after `<bos>` and what precedes it in its window; 0 where the mask is False.

        Padding stands on the right, where nothing attends to it. Memory is bounded: rows and positions come in pieces.
        """
        rows = max(1, _PIECE_TOKENS // max(1, min(ids_BT.shape[1], self.context)))
        parts = []
        for ids_RT in ids_BT.split(rows):
            ids_RT = ids_RT.to(self._native_V.device)
            pieces = self._pieces(ids_RT)
            logp = [self._chosen(logits_RPU, ids_RT[:, at : at + logits_RPU.shape[1]]) for at, logits_RPU in pieces]
            parts.append(torch.cat([torch.zeros(len(ids_RT), 0), *(logp_RP.cpu() for logp_RP in logp)], 1))
        return torch.cat([torch.zeros(0, ids_BT.shape[1]), *parts]).masked_fill(~mask_BT, 0)

    def rows(self, ids_BT: Tensor) -> Iterator[Tensor]:
        """The log-probabilities of all tokens at the positions of these ones, rows_BSV, piece by piece."""
        with torch.inference_mode():
            for _, logits_BPU in self._pieces(ids_BT.to(self._native_V.device)):
                yield self._ours(logits_BPU).cpu()

    def _pieces(self, ids_BT: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Where a piece of the text begins, and logits_BPU of its tokens, each from the window that predicts it."""
        length, done, begin = ids_BT.shape[1], 0, 0
        inputs_BT = self._native_V[F.pad(ids_BT[:, :-1], (1, 0), value=self.bos)]
        piece = max(1, _PIECE_FLOATS // (len(ids_BT) * self.vocab_size))
        while done < length:
            end, cache = min(begin + self.context, length), None
            if begin < done:
                _, cache = self._forward(inputs_BT[:, begin:done], None, last=True)
            for at in range(done, end, piece):
                logits_BPU, cache = self._forward(inputs_BT[:, at : min(at + piece, end)], cache)
                yield at, logits_BPU
            done, begin = end, begin + self.stride

    def _chosen(self, logits_BPU: Tensor, ids_BP: Tensor) -> Tensor:
        """logp_BP of the tokens from the logits before each."""
        logits_BPU = logits_BPU.float()
        chosen_BP = logits_BPU.gather(-1, self._native_V[ids_BP][..., None])[..., 0]
        chosen_BP = torch.where(ids_BP == EOS, logits_BPU[..., self._eos].logsumexp(-1), chosen_BP)
        return chosen_BP + self._never_V[ids_BP] - logits_BPU.logsumexp(-1)


def _stacked(one: Tensor, other: Tensor) -> Tensor:
    """The rows of both, zeros in front where one has fewer positions than the other (the last axis but one)."""
    longest = max(one.shape[-2], other.shape[-2])
    return torch.cat([F.pad(part, (0, 0, longest - part.shape[-2], 0)) for part in (one, other)])


def _takes(network: Any) -> Container[str]:
    """The names of what a forward pass can be given."""
    return inspect.signature(network.forward).parameters


def _cache_name(network: Any) -> str:
    """What a forward pass calls its keys and values, before and since transformers 5.24; empty where it has none."""
    return next((name for name in ("cache", "past_key_values") if name in _takes(network)), "")


def _copied(cache: Any) -> Any:
    """A cache that a forward pass may extend: it puts longer tensors in the places of those it finds there."""
    new = _twin(cache)
    new.layers = [_twin(layer) for layer in cache.layers]
    return new


def _twin(of: Any) -> Any:
    """What `copy.copy` gives of a plain object, in a tenth of the time."""
    new = object.__new__(type(of))
    vars(new).update(vars(of))
    return new


def _context(config: Any) -> int:
    """How many positions a model sees."""
    text = config.get_text_config()
    known = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((int(size) for size in known if isinstance(size, int) and size > 0), _UNBOUNDED)


# -- opening ----------------------------------------------------------------------------------------------------------


def open_model(name: str) -> tuple[HuggingFaceModel, HuggingFaceTokenizer]:
    """A model and its tokenizer, from this machine where it has them, else from the hub.

    Args:
        name: a folder as `save_pretrained` writes it, a GGUF file, or a name on the hub, such as "gpt2".

    Raises:
        MissingExtraError: transformers is not installed.
        ArtifactError: there is no such model, or it is damaged, none of causal language, or wants code of its own.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise MissingExtraError("a Hugging Face model", "hf") from error
    where = _where(name)
    with _quietly(transformers):
        network, tokenizer = _network(transformers, name, where), _loaded(transformers.AutoTokenizer, name, where)
    native = getattr(tokenizer, "backend_tokenizer", None)
    size = int(network.config.get_text_config().vocab_size)
    if native is None or not native.get_vocab_size(with_added_tokens=False):
        raise ArtifactError(f"hf:{name} has no tokenizer.json", "save the model's tokenizer beside it")
    if native.get_vocab_size() > size:
        problem = f"hf:{name} has a tokenizer of {native.get_vocab_size()} tokens, but a model of {size}"
        raise ArtifactError(problem, "save the tokenizer that belongs to the model beside it")
    bos, eos = _ends(name, tokenizer, network)
    ours = HuggingFaceTokenizer(native, size, eos, _template(tokenizer))
    return HuggingFaceModel(network, bos, eos, ours.native_unk), ours


def _template(tokenizer: Any) -> Callable[[Any], str] | None:
    """Lays out a conversation by the tokenizer's own template, without the beginning-of-text token."""
    if not getattr(tokenizer, "chat_template", None):
        return None

    def lay_out(messages: Any) -> str:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text.removeprefix(tokenizer.bos_token or "")

    return lay_out


def _where(name: str) -> dict[str, Any]:
    """What `from_pretrained` is given to find a model; only a name on the hub may be looked for elsewhere."""
    path = Path(name)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ArtifactError(f"hf:{name} is a file, but no .gguf", "name the folder that save_pretrained wrote")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    if path.is_dir() and not (name and (path / "config.json").is_file()):
        raise ArtifactError(f"hf:{name} has no config.json", "name the folder that save_pretrained wrote, or a .gguf")
    if not path.is_dir() and (path.is_absolute() or path.suffix == ".gguf" or name.count("/") > 1):
        raise ArtifactError(f"hf:{name} is not there", "name a folder, a .gguf file, or a model of the hub")
    return {"pretrained_model_name_or_path": name, "local_files_only": path.is_dir()}


def _network(transformers: Any, name: str, where: Mapping[str, Any]) -> Any:
    """The network in evaluation mode, its weights 32-bit numbers."""
    if "gguf_file" in where:
        how = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    else:
        config = _loaded(transformers.AutoConfig, name, where)
        made = [kind for kind in config.architectures or ["a CausalLM"] if kind.endswith(("CausalLM", "LMHeadModel"))]
        if config.is_encoder_decoder or not made:
            kind = ", ".join(config.architectures or [config.model_type])
            raise ArtifactError(f"hf:{name} is no causal model ({kind})", "name one that predicts the next token")
        how = {"config": config, "use_safetensors": True}
    network = _loaded(transformers.AutoModelForCausalLM, name, where, dtype=torch.float32, **how)
    if not _cache_name(network) or getattr(network, "_is_stateful", False):
        kind = network.config.model_type
        raise ArtifactError(f"hf:{name} keeps more than keys and values ({kind})", "name a model of attention alone")
    return network.eval()


def _loaded(kind: Any, name: str, where: Mapping[str, Any], **how: Any) -> Any:
    """What an auto class of transformers loads, first from this machine alone; all that can go wrong in one line."""
    try:
        try:
            return kind.from_pretrained(**{**where, "local_files_only": True}, trust_remote_code=False, **how)
        except OSError:
            if where["local_files_only"]:
                raise
            return kind.from_pretrained(**where, trust_remote_code=False, **how)
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file each of its many readers raises something else
        told = " ".join(str(error).split())
        if "trust_remote_code" in told:
            remedy = "lmlab runs no code that comes with a model: name one that transformers itself knows"
            raise ArtifactError(f"hf:{name} wants code of its own", remedy) from error
        remedy = "see that it is whole, or that its name is one of the hub and there is a network"
        reason = told.split(". ")[0][:_LONGEST_TOLD] or type(error).__name__
        raise ArtifactError(f"hf:{name} cannot be read ({reason})", remedy) from error


def _ends(name: str, tokenizer: Any, network: Any) -> tuple[int, list[int]]:
    """What is read for `<bos>`, and what ends a text; each stands in for the other where that is lacking."""
    size = network.config.get_text_config().vocab_size
    said = (network.generation_config.eos_token_id, network.config.get_text_config().eos_token_id)
    listed = [tokenizer.eos_token_id, *(one for ids in said for one in (ids if isinstance(ids, list) else [ids]))]
    eos = [id for id in dict.fromkeys(listed) if isinstance(id, int) and 0 <= id < size]
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else next(iter(eos), None)
    if bos is None:
        raise ArtifactError(f"hf:{name} has neither a bos nor an eos token", "set one in its tokenizer_config.json")
    return bos, eos or [bos]


@contextlib.contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """No progress bars and no advice from transformers, whose own settings are then put back."""
    told = transformers.utils.logging
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels, bars = [logger.level for logger in loggers], told.is_progress_bar_enabled()
    told.disable_progress_bar()
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # where its bars for GGUF go
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            told.enable_progress_bar()
