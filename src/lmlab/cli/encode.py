"""Encode a text into a folder of ids, which `lmlab train FOLDER` takes for the text; by shards, on any machines.

The ids are those of one process, byte for byte. Lines and records (--unit line, .jsonl) are cut into shards anywhere;
any other file belongs to one shard whole. Shards that lie there already, whole, are left as they are.
"""

from __future__ import annotations

import argparse

from lmlab.cli.ngram_estimate import workers
from lmlab.cli.parser import Parser, named, reporter_of
from lmlab.cli.show import print_json, print_table

EXAMPLES = """\
  lmlab encode sample.txt --unit line --tokenizer bpe -o ids/sample            # the vocabulary, from a sample
  lmlab encode big.txt --unit line --like ids/sample --shards 64 --cluster tcp://10.0.0.1:8786 -o ids/big
  lmlab encode big.txt --unit line --like ids/sample --shard 2/4 -o part-2      # by hand; then join all:
  lmlab encode part-1 part-2 part-3 part-4 -o ids/big"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    help = "text files, a folder, addresses; or the folders of all shards, to be joined"
    parser.add_argument("texts", nargs="+", metavar="TEXT", help=help)
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="the folder to write")
    parser.add_overwrite()
    parser.add_argument("--tokenizer", dest="tokenizer.kind", metavar="KIND", help="what a token is")
    parser.add_argument("--like", metavar="RUN", help="take the tokenizer of encoded text, or of a model")
    parser.add_argument("--shard", metavar="I/N", help="encode this part of so many alone")
    parser.add_argument("--shards", type=int, metavar="N", help="encode N parts apart, a process a core, and join them")
    parser.add_cluster()
    parser.add_argument(
        "--set", action="append", default=[], metavar="GROUP.NAME=VALUE", help="of the tokenizer or text"
    )
    parser.add_data()


def run(options: argparse.Namespace) -> int:
    """Encode, show."""
    from lmlab.facade.encode import Encoded, encode
    from lmlab.facade.sharding import share

    shard = share(options.shard) if options.shard else None
    with workers(options.cluster) as executor:
        out = encode(
            *options.texts,
            out=options.out,
            like=options.like,
            shard=shard,
            shards=options.shards,
            executor=executor,
            overwrite=options.overwrite,
            reporter=reporter_of(options),
            settings=named(options),
        )
    found = Encoded.open(out)
    rows = [
        {"split": split, "documents": ids.documents, "tokens": ids.tokens, "bytes": ids.text_bytes}
        for split, ids in found.stores().items()
    ]
    if options.json:
        print_json({"encoded": str(out), "splits": {row.pop("split"): row for row in rows}})
        return 0
    print_table(rows, title=str(out))
    return 0
