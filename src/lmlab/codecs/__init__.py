"""Text to ids and back: char, byte, word, code and bpe codecs behind one small interface."""

from lmlab.codecs.base import Codec, Coverage, Encoded, build, coverage, load

__all__ = ["Codec", "Coverage", "Encoded", "build", "coverage", "load"]
