"""Files of every kind, and a campaign: one process compresses them, another makes them again.

python -m tests.compression.generated 10000
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator

import lmlab
from tests.texts import some_text

_KINDS = 8


def file_of(seed: int) -> bytes:
    """A file: empty, one byte, all bytes, text, binary, repeated, alike bytes, a mixture of these."""
    draw = random.Random(seed)
    size = draw.choice((2, 17, 90, 400, 1500))
    match seed % _KINDS:
        case 0:
            return b"" if seed % 3 else bytes([seed % 256])
        case 1:
            return bytes(draw.sample(range(256), 256))
        case 2:
            return some_text(1 + size // 60, seed).encode()
        case 3:
            return draw.randbytes(size)
        case 4:
            return draw.randbytes(1 + size // 9) * 9
        case 5:
            return bytes([draw.randrange(256)]) * size
        case 6:
            return "".join(draw.choices("aé漢🦉\n\ud800", k=size)).encode("utf-8", "surrogatepass")
    return file_of(draw.randrange(1, 9999) * _KINDS + 2)[:size] + file_of(draw.randrange(9999) * _KINDS + 3)


def files(count: int) -> Iterator[bytes]:
    """So many of them, always the same."""
    return map(file_of, range(count))


def campaign(count: int) -> int:
    """How many files another process makes again; it stops at one that it does not."""
    words = [sys.executable, "-m", __spec__.name, "--other"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for number, data in enumerate(files(count)):
            print(json.dumps(lmlab.compress(data, memory="1M").hex()), file=other.stdin, flush=True)
            assert bytes.fromhex(json.loads(other.stdout.readline())) == data, f"file {number} came back otherwise"
    assert other.returncode == 0
    return count


if __name__ == "__main__":
    if "--other" in sys.argv:
        for line in sys.stdin:
            print(json.dumps(lmlab.decompress(bytes.fromhex(json.loads(line))).hex()), flush=True)
    else:
        print(f"{campaign(int(sys.argv[1])):,} files came back as they were")
