"""Tiny models and tokenizers of transformers, random, as folders and as a GGUF file."""

from pathlib import Path
from typing import Any

import pytest

from lmlab.tokens.byte_level import byte_symbols

END = "<|endoftext|>"


def transformers() -> Any:
    """The library, or a skip where the extra is not installed."""
    return pytest.importorskip("transformers", reason="the extra hf is not installed")


def network(kind: str, vocab_size: int, context: int = 64, **more: Any) -> Any:
    """A random network with weights so large that a fault shows."""
    import torch

    library = transformers()
    ends = {"bos_token_id": vocab_size - 1, "eos_token_id": vocab_size - 1, "pad_token_id": None}
    if kind == "gpt2":
        shape = {"n_positions": context, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
        config, cls = library.GPT2Config, library.GPT2LMHeadModel
    elif kind == "bloom":
        shape = {"hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
        config, cls = library.BloomConfig, library.BloomForCausalLM
    else:
        shape = {"max_position_embeddings": context, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.5}
        config, cls = (getattr(library, f"{kind}{end}") for end in ("Config", "ForCausalLM"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(config(vocab_size=vocab_size, **ends, **shape, **more)).eval()


def byte_tokenizer(merges: int = 20) -> Any:
    """A byte-level tokenizer with a few merges and one end-of-text token, as GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = "etaoinshrd"
    pairs = [(a, b) for a in letters for b in letters if a < b][:merges]
    tokens = [*byte_symbols(), *(a + b for a, b in pairs), END]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers().PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def save(folder: Path, kind: str = "gpt2", context: int = 64, **more: Any) -> Path:
    """A model and its tokenizer as `save_pretrained` writes them."""
    tokenizer = byte_tokenizer()
    network(kind, len(tokenizer), context, **more).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_gguf(path: Path) -> Path:
    """The smallest llama that a GGUF file can hold, with GPT-2's kind of tokenizer."""
    import numpy as np

    gguf = pytest.importorskip("gguf", reason="the extra hf is not installed")
    tokenizer, rng = byte_tokenizer(), np.random.default_rng(0)
    backend = tokenizer.backend_tokenizer
    size, width, inner, heads = backend.get_vocab_size(), 32, 64, 2
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([backend.id_to_token(id) for id in range(size)])
    writer.add_token_types([1] * (size - 1) + [3])
    import json

    writer.add_token_merges([" ".join(pair) for pair in json.loads(backend.to_str())["model"]["merges"]])
    writer.add_bos_token_id(size - 1)
    writer.add_eos_token_id(size - 1)
    shapes = {"token_embd": (size, width), "output": (size, width)}
    shapes |= {f"blk.0.attn_{name}": (width, width) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (inner, width), "blk.0.ffn_up": (inner, width), "blk.0.ffn_down": (width, inner)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 0.3, shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
