from hypothesis import given
from hypothesis import strategies as st

from lmlab.corpora.document import text_pieces, token_pieces


@given(st.lists(st.text()), st.integers(1, 20))
def test_pieces_join_to_the_text(texts, limit):
    pieces = list(text_pieces(texts, limit))
    assert "".join(text for text, _ in pieces) == "".join(texts)
    assert all(0 < len(text) <= limit for text, _ in pieces)
    assert [last for _, last in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)


def test_cut_at_line_end_then_at_white_space_then_anywhere():
    assert [text for text, _ in text_pieces(["a b\nc d"], 6)] == ["a b\n", "c d"]
    assert [text for text, _ in text_pieces(["ab cd ef"], 7)] == ["ab cd ", "ef"]
    assert [text for text, _ in text_pieces(["abcdefgh"], 3)] == ["abc", "def", "gh"]


@given(st.lists(st.text(min_size=1)), st.integers(1, 20))
def test_token_pieces_join_to_the_tokens(tokens, limit):
    pieces = list(token_pieces(tokens, limit))
    assert [token for piece, _ in pieces for token in piece] == tokens
    for piece, last in pieces:
        assert len(piece) == 1 or len(" ".join(piece)) + (not last) <= limit + 1
