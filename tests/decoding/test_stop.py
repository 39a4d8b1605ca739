"""Branches walked from their tips, and stops that look at them."""

import pytest

from lmlab.decoding import Branch, StopIds, StopText
from lmlab.errors import SettingError


def grow(*tokens, end=None):
    branch = Branch.root()
    for at, token in enumerate(tokens):
        last = at == len(tokens) - 1
        total, length = branch.total - 1, branch.length + 1
        branch = Branch(token, -1.0, -0.5, total, total / 2, total, length, 0, branch, end=end if last else None)
    return branch


def test_ids_leave_out_eos_but_path_and_length_count_it():
    branch = grow(5, 6, 3, end="eos")
    assert branch.ids() == [5, 6]
    assert branch.tail(1) == [6]
    assert [node.token for node in branch.path()] == [5, 6, 3]
    assert (branch.length, branch.total) == (3, -3.0)
    assert Branch.root().ids() == []


def test_other_ends_keep_their_last_token():
    assert grow(5, 6, end="stop").ids() == [5, 6]
    assert grow(5, 6, end="length").ids() == [5, 6]


def test_a_long_branch_is_walked_shown_and_freed_without_recursion():
    branch = grow(*range(100_000))
    assert branch.ids() == list(range(100_000))
    assert branch.tail(2) == [99_998, 99_999]
    assert len(repr(branch)) < 200


def test_branches_are_compared_by_identity():
    parent = grow(5)
    assert grow(5) != parent
    assert len({parent, grow(5)}) == 2


def test_stop_ids_looks_at_the_end_only():
    stop = StopIds([[7, 8], [9]])
    assert stop(grow(1, 7, 8))
    assert stop(grow(9))
    assert not stop(grow(7, 8, 1))
    assert not stop(grow(8))


def test_stop_text_decodes_only_the_tail():
    seen = []

    def decode(ids):
        seen.append(len(ids))
        return "".join(map(chr, ids))

    stop = StopText(decode, ["\n\n", "END"], window_tokens=4)
    assert stop(grow(*map(ord, "much ado END")))
    assert stop(grow(*map(ord, "a\n\n")))
    assert not stop(grow(*map(ord, "END of it")))
    assert seen == [4, 3, 4]


def test_the_default_window_holds_the_longest_string_in_bytes():
    stop = StopText(lambda ids: bytes(ids).decode(errors="replace"), ["…ende…"])
    assert stop(grow(*("x" * 50 + "…ende…").encode()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: StopIds([]),
        lambda: StopIds([[]]),
        lambda: StopText(str, []),
        lambda: StopText(str, ["a", ""]),
        lambda: StopText(str, ["a"], window_tokens=0),
    ],
)
def test_stops_that_could_never_or_always_fire_are_refused(make):
    with pytest.raises(SettingError):
        make()
