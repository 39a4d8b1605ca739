"""Everything compiled, and the choice between compiled and plain."""
