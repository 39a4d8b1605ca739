import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlab.corpora import DataSettings
from lmlab.corpora.splits import SplitRule, choose_rule, code_of, position_cuts


def test_the_hash_split_is_frozen():
    """The same on every machine, for ever: these digests must never move."""
    digests = [hashlib.sha256(str(i).encode()).digest() for i in range(40)]
    codes = "".join(str(code_of(digest, (0.6, 0.2, 0.2))) for digest in digests)
    assert codes == "0020022000000002100020001100000221010010"


def test_the_hash_split_keeps_its_shares():
    codes = [code_of(hashlib.sha256(str(i).encode()).digest(), (0.9, 0.05, 0.05)) for i in range(20_000)]
    assert [codes.count(code) / 20_000 for code in range(3)] == pytest.approx([0.9, 0.05, 0.05], abs=0.006)


@pytest.mark.parametrize(("shares", "code"), [((1, 0, 0), 0), ((0, 1, 0), 1), ((0, 0, 1), 2)])
def test_shares_of_zero_and_one(shares, code):
    assert {code_of(bytes([byte] * 32), shares) for byte in (0, 127, 255)} == {code}


@given(st.text("ab \né", max_size=200), st.sampled_from([(0.9, 0.05, 0.05), (0.5, 0.25, 0.25), (0.8, 0, 0.2)]))
def test_position_cuts_lie_in_order_at_characters_near_the_shares(text, shares):
    data = text.encode()
    cuts = position_cuts([0, len(data)], shares, lambda start, end: data[start:end])
    assert 0 <= cuts[0] <= cuts[1] <= len(data)
    for cut, target in zip(cuts, (shares[0] * len(data), (1 - shares[2]) * len(data)), strict=True):
        data[:cut].decode()
        assert abs(cut - target) <= 3 + min(s for s in shares if s) * len(data) / 2
    if len(data) > 100 and shares[1]:
        assert cuts[0] < cuts[1] < len(data)


def test_position_cuts_prefer_line_ends_then_spaces():
    data = b"x" * 88 + b" \n" + b"y" * 5 + b"z" * 5
    lines = data * 20
    for cut in position_cuts([0, len(lines)], (0.5, 0.25, 0.25), lambda start, end: lines[start:end]):
        assert lines[cut - 1 : cut] == b"\n"
    words = lines.replace(b"\n", b"-")
    for cut in position_cuts([0, len(words)], (0.5, 0.25, 0.25), lambda start, end: words[start:end]):
        assert words[cut - 1 : cut] == b" "


def test_the_user_overrules_the_corpus():
    own = SplitRule((0.8, 0.1, 0.1), sentence="own")
    assert choose_rule(DataSettings(), own) is own
    assert choose_rule(DataSettings(split="none"), own) == SplitRule((1.0, 0.0, 0.0), False, "everything trains")
    assert choose_rule(DataSettings(split="0.5,0.25,0.25"), own) == SplitRule((0.5, 0.25, 0.25), named=False)
