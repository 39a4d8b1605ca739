import bz2
import gzip
import itertools
import lzma

import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from lmlab.corpora import reading
from lmlab.corpora.reading import decode, inflate, lines, packed, utf8, whole_words
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
    assume(data[:2] not in (b"\xff\xfe", b"\xfe\xff"))  # told as UTF-16
    try:
        data.decode()
    except UnicodeDecodeError as error:
        chunks = [data[:before], *(data[i : i + size] for i in range(before, len(data), size))]
        with pytest.raises(
            DataError, match=f"byte 0x{data[error.start]:02x} at offset {error.start}: convert .*--errors"
        ):
            text_of(chunks)
        assert text_of(chunks, "replace") == data.decode(errors="replace").removeprefix("\ufeff").replace("\r\n", "\n")


def test_only_a_leading_byte_order_mark_is_dropped():
    assert text_of(["\ufeffa\ufeff".encode()]) == "a\ufeff"


def test_a_nul_in_the_head_is_binary_even_with_replace():
    with pytest.raises(DataError, match="binary"):
        text_of([b"PK\0\0"], "replace")


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_utf16_is_told_even_where_it_has_no_nul(errors):
    for coding in ("utf-16-le", "utf-16-be"):
        data = "\ufeff漢字".encode(coding)
        with pytest.raises(DataError, match="UTF-16 by its first two bytes: iconv"):
            text_of([data[:1], data[1:]], errors)


def test_a_late_nul_is_named_or_replaced():
    chunks = [b"x" * 10_000, b"ab\0c"]
    with pytest.raises(DataError, match="NUL byte at offset 10002"):
        text_of(chunks)
    assert text_of(chunks, "replace").endswith("ab\ufffdc")


PACKED = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKED)
def test_streams_one_after_the_other_are_one_whatever_the_name(ending):
    data = PACKED[ending](b"one " * 5000) + PACKED[ending](b"two")
    for size in (1, 7, 4000):
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        assert b"".join(inflate(chunks, "a.txt")) == b"one " * 5000 + b"two"
        assert packed(chunks)


def test_a_frame_that_is_to_be_skipped_may_come_first():
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"  # as pzstd writes
    assert b"".join(inflate([skipped + zstandard.compress(b"one")], "a")) == b"one"


@pytest.mark.parametrize("ending", PACKED)
def test_nuls_may_pad_the_end_of_a_stream(ending):
    data = PACKED[ending](b"one") + bytes(600)
    assert b"".join(inflate([data[:100], data[100:]], "a")) == b"one"


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("keep", [12, -5])
def test_a_truncated_stream_is_told(ending, keep):
    data = PACKED[ending](b"some text to pack " * 100)
    with pytest.raises(DataError, match="cut off"):
        b"".join(inflate([data[:keep]], "a.txt"))


@pytest.mark.parametrize("ending", PACKED)
def test_a_damaged_stream_is_told(ending):
    data = PACKED[ending](b"".join(b"%d " % i for i in range(3000)))
    checked = [] if ending == ".zst" else [data[:40] + b"damage" + data[46:]]  # zstandard writes no checksum
    for broken in [*checked, data + b"rubbish behind"]:
        with pytest.raises(DataError, match=r"damaged|cut off"):
            b"".join(inflate([broken], "a"))


@pytest.mark.parametrize("ending", PACKED)
def test_what_is_packed_small_is_unpacked_in_bounded_pieces(ending):
    assert max(map(len, inflate([PACKED[ending](bytes(30 << 20))], "a"))) <= reading.PIECE


def test_what_only_has_the_name_is_taken_as_it_is():
    assert list(inflate([b"BZh4 and so on"], "a.gz")) == [b"BZh4 and so on"]
    assert list(inflate([], "a.gz")) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_pieces_end_between_words(size):
    text = b"a bb\nccc\tdddddddddddd\ve\rf \n" + "\u2028ü".encode()
    pieces = list(whole_words([text[i : i + size] for i in range(0, len(text), size)], "a"))
    assert b"".join(pieces) == text
    assert [word for piece in pieces for word in piece.split()] == text.split()


def test_the_bytes_of_text_are_its_utf8():
    data = "\ufeffü\r\n\ufeff漢\0".encode() + b"\xff"
    data = b"x" * 9000 + data  # beyond the head
    for size in (1, 4096):
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        assert b"".join(utf8(chunks, "a", "replace")).replace(b"\r", b"").decode() == text_of(chunks, "replace")


def test_what_would_have_to_be_held_whole_has_a_limit(monkeypatch):
    monkeypatch.setattr(reading, "LONGEST", 10_000)
    endless = itertools.repeat
    with pytest.raises(DataError, match="a has a word of more than 10,000 bytes"):
        list(whole_words(endless(b"x" * 1000), "a"))
    with pytest.raises(DataError, match="a has a line of more than 10,000 bytes"):
        list(lines(endless("x y " * 1000), "a"))
