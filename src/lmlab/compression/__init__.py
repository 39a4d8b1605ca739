"""Any file in few bytes, by any of our models: what a model expects is cheap.

    packed = lmlab.compress("book.txt")                   # a path, or bytes; nothing to train
    lmlab.decompress(packed)
    lmlab.compress("book.txt", model="runs/lstm")         # by a model of yours, which decompressing needs too

`coders` turn pieces into fewer bytes, `container` lays these out in a file with sums of all that matters.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmlab.compression.container import Packing, pack, unpack
from lmlab.errors import SettingError

if TYPE_CHECKING:
    from lmlab.facade.text_model import TextModel

__all__ = ["Packing", "compress", "decompress", "opened", "pack", "unpack"]


def compress(
    source: bytes | str | Path,
    *,
    model: str | Path | TextModel | None = None,
    adapt: str | None = None,
    mix: Sequence[str] = (),
    block: str | None = None,
    jobs: int = 1,
    memory: str = "128M",
) -> bytes:
    """Few bytes, from which `decompress` makes the source again.

    Args:
        source: bytes, or the path of a file.
        model: a text model or its directory; None mixes contexts of bytes, learning as it goes.
        adapt: as `TextModel.composed` takes it.
        mix: as `TextModel.composed` takes it.
        block: without a model: size of parts that are compressed apart, "4M" for example; None is one for all.
        jobs: how many blocks at a time.
        memory: without a model: at most so much for its slots.

    Raises:
        UsageError: options that do not go together, or a model whose rows do not sum to one.
        ArtifactError: the model cannot be read.
        MissingExtraError: with a model, constriction is missing.

    >>> len(compress(b"to be or not to be, " * 50)) < 200
    True
    """
    with _opened(source) as file:
        out = io.BytesIO()
        pack(file, out, Packing(memory, block, jobs), opened(model, adapt, mix))
        return out.getvalue()


def decompress(
    source: bytes | str | Path,
    *,
    model: str | Path | TextModel | None = None,
    adapt: str | None = None,
    mix: Sequence[str] = (),
    jobs: int = 1,
) -> bytes:
    """What `compress` was given.

    Args:
        source: the bytes that `compress` gave, or a file of them.
        model: the one that compressed; None where none was named.
        adapt: as it was then.
        mix: as it was then.
        jobs: blocks read at a time, each by a process.

    Raises:
        ArtifactError: the source is damaged, cut off, of another version or model, or nothing of ours.

    >>> decompress(compress(b"to be"))
    b'to be'
    """
    with _opened(source) as file:
        out = io.BytesIO()
        unpack(file, out, opened(model, adapt, mix), jobs=jobs)
        return out.getvalue()


def opened(model: str | Path | TextModel | None, adapt: str | None, mix: Sequence[str]) -> TextModel | None:
    """The text model, composed as asked for; None where none is named."""
    if model is None:
        if adapt is not None or mix:
            raise SettingError(
                "model", None, "named where something adapts or is mixed", "without one it learns anyway"
            )
        return None
    from lmlab.facade.text_model import TextModel

    lm = model if isinstance(model, TextModel) else TextModel.load(model)
    return lm.composed(adapt, mix)


def _opened(source: Any) -> Any:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if isinstance(source, (str, Path)):
        return Path(source).open("rb")
    raise SettingError("the source", source, "bytes, or the path of a file")
