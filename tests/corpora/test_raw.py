import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.corpora import raw
from lmlab.corpora.raw import Origin, sliced
from lmlab.errors import DataError


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
