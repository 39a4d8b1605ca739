import gzip

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmlab.corpora import raw
from lmlab.corpora.raw import Origin, decode, inflate, sliced
from lmlab.errors import DataError


def text_of(chunks, errors="strict"):
    return "".join(decode(chunks, "my.txt", errors))


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.integers(1, 7))
def test_text_survives_any_chunking(text, size):
    data = text.encode()
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    assert text_of(chunks) == text.removeprefix("\ufeff").replace("\r\n", "\n")


@given(st.binary(max_size=40), st.integers(1, 5), st.integers(0, 20_000))
def test_the_offset_of_a_bad_byte_is_exact(data, size, before):
    data = b"x" * before + data.replace(b"\0", b"0")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        chunks = [data[:before], *(data[i : i + size] for i in range(before, len(data), size))]
        with pytest.raises(DataError, match=f"byte 0x{data[error.start]:02x} at offset {error.start}: --errors"):
            text_of(chunks)
        assert text_of(chunks, "replace") == data.decode(errors="replace").removeprefix("\ufeff").replace("\r\n", "\n")


def test_only_a_leading_byte_order_mark_is_dropped():
    assert text_of(["\ufeffa\ufeff".encode()]) == "a\ufeff"


def test_a_nul_in_the_head_is_binary_even_with_replace():
    with pytest.raises(DataError, match="binary"):
        text_of([b"PK\0\0"], "replace")
    with pytest.raises(DataError, match="UTF-16"):
        text_of(["text".encode("utf-16")])


def test_a_late_nul_is_named_or_replaced():
    chunks = [b"x" * 10_000, b"ab\0c"]
    with pytest.raises(DataError, match="NUL byte at offset 10002"):
        text_of(chunks)
    assert text_of(chunks, "replace").endswith("ab\ufffdc")


PACKED = {".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("ending", PACKED)
def test_frames_one_after_the_other_are_one_stream(ending):
    data = PACKED[ending](b"one " * 5000) + PACKED[ending](b"two")
    assert b"".join(inflate([data[:7], data[7:]], "a" + ending)) == b"one " * 5000 + b"two"


@pytest.mark.parametrize("ending", PACKED)
def test_nuls_may_pad_the_end_of_a_frame(ending):
    data = PACKED[ending](b"one") + bytes(600)
    assert b"".join(inflate([data[:100], data[100:]], "a" + ending)) == b"one"


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("keep", [0, 3, -5])
def test_a_truncated_stream_is_told(ending, keep):
    data = PACKED[ending](b"some text to pack " * 100)
    with pytest.raises(DataError, match="cut off"):
        b"".join(inflate([data[:keep]], "a.txt" + ending))


@pytest.mark.parametrize("ending", PACKED)
def test_a_damaged_stream_is_told(ending):
    with pytest.raises(DataError, match="damaged"):
        b"".join(inflate([b"this was never packed at all"], "a" + ending))


@given(st.text(max_size=30), st.integers(0, 40), st.integers(0, 40), st.integers(1, 9))
def test_slices_meet_and_never_break_a_character(text, one, two, size):
    data = text.encode("utf-8", "replace")
    cuts = sorted((min(one, len(data)), min(two, len(data))))
    whole = Origin("a", lambda: (data[i : i + size] for i in range(0, len(data), size)), len(data))
    bounds = [(0, cuts[0]), (cuts[0], cuts[1]), (cuts[1], None)]
    parts = [b"".join(sliced(whole, start, stop, "").read()) for start, stop in bounds]
    assert b"".join(parts) == data
    for part in parts:
        part.decode()


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        next(raw._read_file(tmp_path))
