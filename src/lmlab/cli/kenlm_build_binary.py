"""KenLM's build_binary: an ARPA file to a binary file, hash tables (probing) or a trie, byte for byte as there.

A model directory of ours is taken in the place of the ARPA file. Without an output file, the sizes of all kinds are
shown. -w, -T and -S are taken; nothing depends on them. Rest costs (-r) are read from binaries, but not written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lmlab.cli.parser import ToolParser
from lmlab.errors import UsageError

EXAMPLES = """\
  lmlab kenlm build_binary my.arpa my.bin
  lmlab kenlm build_binary -q 8 -b 8 -a 22 trie my.arpa my.bin"""


def add_arguments(parser: ToolParser) -> None:
    """The verb's arguments."""
    parser.add_argument("files", nargs="*", metavar="[TYPE] INPUT [OUTPUT]", help="TYPE is probing (default) or trie")
    parser.add_argument("-u", type=float, default=-100.0, metavar="LOG10", help="of <unk> where the ARPA file has none")
    parser.add_argument("-s", action="store_true", help="take a file without <s> and </s>")
    parser.add_argument("-i", action="store_true", help="take log10 p above 0 for 0")
    parser.add_argument("-v", action="store_true", help="leave the words out")
    parser.add_argument("-p", type=float, default=1.5, metavar="X", help="buckets an n-gram, above 1")
    parser.add_argument("-q", type=int, metavar="BITS", help="quantise log10 p to so many bits (trie)")
    parser.add_argument("-b", type=int, metavar="BITS", help="quantise backoffs to so many bits (default: as -q)")
    parser.add_argument("-a", type=int, metavar="BITS", help="of pointers that an array may hold at most (trie)")
    parser.add_argument("-r", metavar="FILES", help="refused: rest costs are not written")
    for option, help in (("-w", "mmap or after"), ("-T", "temporary files"), ("-S", "memory"), ("-t", ""), ("-m", "")):
        parser.add_argument(option, metavar="X", help=f"taken; nothing depends on it ({help or 'an older name'})")


def run(options: argparse.Namespace) -> int:
    """Read, write."""
    from lmlab.compat.kenlm import listing_of
    from lmlab.models.ngram import kenlm_write

    files = options.files if len(options.files) > 1 else [*options.files, ""]
    *kind, source, target = files if len(files) > 1 else ["", ""]
    if not source or kind not in ([], ["probing"], ["trie"]):
        raise UsageError(f"{' '.join(options.files) or 'nothing'} is not [probing|trie] INPUT [OUTPUT]", "see --help")
    if options.r:
        raise UsageError("rest costs (-r) are not written", "leave -r out, or build with KenLM")
    if options.b is not None and options.q is None:
        raise UsageError("-b quantises backoffs, but -q does not quantise log10 p", "give -q too")
    trie = kind == ["trie"]
    if not trie and options.q is not None and target:
        raise UsageError("Quantization is only implemented in the trie data structure", "name the type trie")
    read = {"unknown": options.u, "positive": "zero" if options.i else "refuse", "marks": not options.s}
    listing = listing_of(Path(source), **read)
    bits = None if options.q is None else (options.q, options.q if options.b is None else options.b)
    if not target:
        _show_sizes([len(grams.logp_M) for grams in listing.levels], options.p, bits or (8, 8), options.a)
    elif trie:
        said = {"multiplier": options.p, "spelled": not options.v}
        kenlm_write.write_trie(Path(target), listing, bits, options.a, **said)
    else:
        kenlm_write.write_probing(Path(target), listing, options.p, spelled=not options.v)
    if target:
        print("SUCCESS", file=sys.stderr)
    return 0


def _show_sizes(counts: list[int], multiplier: float, bits: tuple[int, int], pointer_bits: int | None) -> None:
    """Bytes of a model in memory, of each kind."""
    from lmlab.models.ngram.kenlm_write import sizes

    print("Memory estimate for binary LM:", file=sys.stderr)
    for kind, size in sizes(counts, multiplier, bits, 22 if pointer_bits is None else pointer_bits).items():
        print(f"{size:>15,} B  {kind}", file=sys.stderr)
