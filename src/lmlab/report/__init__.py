"""How results look: bars, coloured tokens, a page of HTML that needs no other file. Strings in, strings out."""
