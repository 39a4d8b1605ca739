"""Text to ids and back: char, byte, word, code and bpe tokenizers behind one small interface."""

from lmlab.tokens.base import Coverage, Encoded, Tokenizer, build_tokenizer, coverage, load_tokenizer

__all__ = ["Coverage", "Encoded", "Tokenizer", "build_tokenizer", "coverage", "load_tokenizer"]
