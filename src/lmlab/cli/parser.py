"""argparse, with one-line errors, examples in the help, and the options that verbs share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from lmlab.errors import UsageError


class _Unseen(argparse.HelpFormatter):
    """What argparse tries every argument on; it need not load what measures the terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=80)


class Parser(argparse.ArgumentParser):
    """A verb's parser."""

    def __init__(self, prog: str, description: str | None, examples: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog="examples:\n" + examples,
            formatter_class=_Unseen,
            allow_abbrev=False,
        )

    def format_help(self) -> str:
        """As wide as the terminal."""
        self.formatter_class = argparse.RawDescriptionHelpFormatter
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """One clear line, exit code 2."""
        raise UsageError(f"{self.prog.removeprefix('lmlab ')}: {message}", f"see {self.prog} --help")

    def add_common(self) -> None:
        """What every verb has."""
        group = self.add_argument_group("output")
        group.add_argument("--json", action="store_true", help="the result as JSON on standard output")
        group.add_argument("--quiet", action="store_true", help="no progress on standard error")
        group.add_argument("--debug", action="store_true", help="a traceback where something fails")

    def add_data(self, *, shares: bool = True) -> None:
        """How a source of text is read, and in which shares it is split."""
        group = self.add_argument_group("text")
        group.add_argument("--unit", metavar="UNIT", help="what a document is: auto, document, line or record")
        group.add_argument("--text-field", metavar="NAME", help="the field of a record that holds its text")
        group.add_argument("--template", metavar="TEXT", help='a text made of fields: "{title} ; {summary}"')
        group.add_argument("--columns", metavar="A,B,C", help="names of the columns of a CSV without header")
        group.add_argument("--max-chars", metavar="N", help="cut each document after N characters")
        if shares:
            group.add_argument(
                "--split", metavar="SHARES", help="none, or shares of train, valid and test: 0.9,0.05,0.05"
            )
        group.add_argument("--errors", metavar="HOW", help="bytes that are no UTF-8: strict or replace")
        group.add_argument("--limit", metavar="N", help="read at most N documents")

    def add_composition(self) -> None:
        """A model that adapts to what it reads, or is mixed with others."""
        group = self.add_argument_group("adaptation and mixture")
        group.add_argument(
            "--adapt",
            metavar="NAME[:K=V,...]",
            help="learn from the text as it is read: dynamic, cache, counts, or several joined by +",
        )
        group.add_argument(
            "--mix",
            action="append",
            default=[],
            metavar="RUN[:WEIGHT]",
            help="mix another run's model in; without a weight one is fitted on the validation split",
        )

    def add_ngram(self, group: argparse._ArgumentGroup) -> None:
        """How an n-gram is counted and smoothed."""
        group.add_argument("--order", metavar="N", help="order of an n-gram")
        group.add_argument("--smoothing", metavar="NAME", help="of an n-gram: kneser-ney, witten-bell, absolute...")
        group.add_argument("--prune", metavar="A,B,C", help="drop n-grams that occur so often at most: 0,0,1")
        group.add_argument("--layout", metavar="NAME", help="of an n-gram: fast, or compact: a tenth of the size")
        group.add_argument("--memory", metavar="SIZE", help="what counting may take, the rest goes to disk: 1G")

    def add_learning(self) -> None:
        """What is trained, how long, on what."""
        group = self.add_argument_group("model and training")
        group.add_argument("--tokenizer", metavar="KIND", help="tokens: char, byte, word, code or bpe")
        group.add_argument("--minutes", metavar="M", help="budget of training in minutes")
        group.add_argument("--steps", metavar="N", help="budget in steps")
        group.add_argument("--epochs", metavar="N", help="budget in passes over the text")
        self.add_ngram(group)
        group.add_argument("--seed", type=int, default=None, metavar="N", help="of everything random (default 0)")
        group.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="GROUP.NAME=VALUE",
            help="any other setting: --set model.layers=2 --set train.lr=1e-3 (see docs/settings.md)",
        )


NGRAM_OPTIONS = ("order", "smoothing", "prune", "memory", "layout")
DATA_OPTIONS = ("unit", "text_field", "template", "columns", "max_chars", "split", "errors", "limit")


def data_named(options: argparse.Namespace, *, shares: bool = True) -> dict[str, Any]:
    """The text options that were given, as the group `data`."""
    names = [name for name in DATA_OPTIONS if shares or name != "split"]
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def reporter_of(options: argparse.Namespace) -> Any:
    """Who is told of progress: the console, unless --quiet."""
    from lmlab.progress import Console, Silent

    return Silent() if options.quiet else Console()


def read_text(path: str, errors: str = "strict") -> str:
    """A text file, or standard input for "-", under the same rules as a corpus.

    Raises:
        DataError: missing, binary, or not UTF-8.
        EmptyDataError: there is not one character in it.
    """
    from lmlab.corpora import DataSettings
    from lmlab.corpora.raw import decode, file_origin, inflate, stdin_origin
    from lmlab.errors import DataError, EmptyDataError

    DataSettings(errors=errors)
    if path != "-" and not Path(path).exists():
        raise DataError(f"{path!r} is not there", "name a text file, or - for standard input")
    origin = stdin_origin() if path == "-" else file_origin(Path(path))
    text = "".join(decode(inflate(origin.read(), origin.name), origin.name, errors))
    if not text:
        raise EmptyDataError(f"{origin.name} holds no text", "give at least one character")
    return text
