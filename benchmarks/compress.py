"""Bytes and speed of `lmlab compress` beside other compressors, in one run: `python benchmarks/compress.py FILE...`.

PPMd (pyppmd), brotli and zstandard are measured where they are installed. All run on one core, in this process, on
whole files in memory; speeds are of processor time. `--blocks` adds what blocks cost.
"""

from __future__ import annotations

import argparse
import bz2
import importlib
import lzma
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmlab

Pair = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


def peers() -> Iterator[tuple[str, Pair]]:
    """Each compressor that is installed, with what undoes it."""
    extreme = 9 | lzma.PRESET_EXTREME
    yield "bz2 -9", (bz2.compress, bz2.decompress)
    yield "xz -9e", (lambda data: lzma.compress(data, preset=extreme), lzma.decompress)
    for name, library, pair in (
        ("zstd -19", "zstandard", lambda z: (z.ZstdCompressor(level=19).compress, z.ZstdDecompressor().decompress)),
        ("brotli -11", "brotli", lambda b: (b.compress, b.decompress)),
        *((f"PPMd order {order}", "pyppmd", ppmd(order)) for order in (4, 6, 8)),
    ):
        try:
            yield name, pair(importlib.import_module(library))
        except ImportError:
            print(f"{library} is not installed")


def ppmd(order: int) -> Callable[[Any], Pair]:
    def pair(library: Any) -> Pair:
        options = {"max_order": order, "mem_size": 256 << 20}
        return lambda data: library.compress(data, **options), lambda data: library.decompress(data, **options)

    return pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--most", type=int, default=1 << 40, help="bytes of each file that are taken")
    parser.add_argument("--blocks", nargs="*", default=[], help="sizes of blocks to measure, as 256K 1M")
    options = parser.parse_args()
    ours = {"lmlab": (lmlab.compress, lmlab.decompress)}
    for size in options.blocks:
        ours[f"lmlab --block {size}"] = (lambda data, size=size: lmlab.compress(data, block=size), lmlab.decompress)
    lmlab.decompress(lmlab.compress(b"compiled once, before anything is timed"))
    for path in options.files:
        data = path.read_bytes()[: options.most]
        print(f"\n{path.name}, {len(data):,} bytes")
        print("| | bytes | bits a byte | kB/s | back, kB/s |\n|---|---:|---:|---:|---:|")
        for name, (compress, decompress) in {**dict(peers()), **ours}.items():
            began = time.process_time()
            packed = compress(data)
            middle = time.process_time()
            try:
                same = decompress(packed) == data
            except (ValueError, TypeError):  # pyppmd 1.3.1 does not always read what it wrote
                same = False
            assert same or "lmlab" not in name, "a file came back otherwise"
            speeds = [len(data) / 1e3 / max(1e-9, took) for took in (middle - began, time.process_time() - middle)]
            rates = f"{speeds[0]:,.0f} | {speeds[1]:,.0f}" if same else f"{speeds[0]:,.0f} | does not read it"
            bits = 8 * len(packed) / max(1, len(data))
            print(
                f"| {name} | {len(packed):,} | {bits:.3f} | {rates} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
