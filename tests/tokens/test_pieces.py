from tokenizers import pre_tokenizers

from lmlab.tokens.pieces import byte_symbols


def test_byte_symbols_are_the_librarys():
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    symbols = byte_symbols()
    assert set(symbols) == set(pre_tokenizers.ByteLevel.alphabet())
    for text in ("\x00 ~\x7f\n", "é\xad\xa0ÿ", "😀"):
        [(spelled, _)] = splitter.pre_tokenize_str(text)
        assert spelled == "".join(symbols[byte] for byte in text.encode())
