"""argparse, with one-line errors, examples in the help, and the options that verbs share.

A flag of a setting has its name, its help and its place from the setting's own description, and keeps what is given
under the setting's path; `named` collects them.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from lmlab.config import Field, Named, described, parse_assignments
from lmlab.errors import UsageError

DATA = ("unit", "text_field", "template", "columns", "max_chars", "split", "errors", "limit", "delimiter", "quote")
NGRAM = ("order", "smoothing", "prune", "layout", "memory")
_METAVARS = {"int": "N", "float": "X", "str": "TEXT", "tuple": "A,B,C"}
_KINDS = {"model.kind": "model", "tokenizer.kind": "tokenizer"}  # of these the help lists what is registered


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
        """As wide as the terminal, with the registered kinds of models and tokenizers."""
        from lmlab import registry

        self.formatter_class = argparse.RawDescriptionHelpFormatter
        for action in self._actions:
            if action.dest in _KINDS:
                action.help = ", ".join(registry.names(_KINDS[action.dest]))
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """One clear line, exit code 2."""
        raise UsageError(f"{self.prog.removeprefix('lmlab ')}: {message}", f"see {self.prog} --help")

    def add_common(self) -> None:
        """What every verb has."""
        group = self.add_argument_group("output")
        self._add_json(group)
        group.add_argument("--quiet", action="store_true", help="no progress on standard error")
        group.add_argument("--debug", action="store_true", help="a traceback where something fails")

    def _add_json(self, group: Any) -> None:
        group.add_argument("--json", action="store_true", help="the result as JSON on standard output")

    def add_data(self, *, shares: bool = True) -> None:
        """How a source of text is read, and in which shares it is split."""
        from lmlab.corpora import DataSettings

        names = [name for name in DATA if shares or name != "split"]
        _add_settings(self.add_argument_group("text"), "data", DataSettings, names)

    def add_model_out(self) -> None:
        """Where an n-gram model is written."""
        help = "the model to write: a folder, or where it ends with .lm one file"
        self.add_argument("-o", "--out", metavar="RUN", required=True, help=help)

    def add_overwrite(self) -> None:
        """Whether what `--out` names is replaced."""
        self.add_argument("--overwrite", action="store_true", help="replace the runs that are there already")

    def add_errors(self) -> None:
        """What to do with bytes that are no text."""
        self.add_argument(
            "--errors", metavar="HOW", default="strict", help="bytes that are no UTF-8: strict or replace"
        )

    def add_ngram(self, *names: str) -> None:
        """How an n-gram is counted and smoothed."""
        from lmlab.models.ngram import Ngram

        _add_settings(self.add_argument_group("n-gram"), "model", Ngram.Settings, (*NGRAM, *names))

    def add_learning(self) -> None:
        """What is trained, how long, on what."""
        from lmlab.train_settings import TrainSettings

        group = self.add_argument_group("model and training")
        group.add_argument("--tokenizer", dest="tokenizer.kind", metavar="KIND", help="what a token is")
        _add_settings(group, "train", TrainSettings, ("minutes", "steps", "epochs"))
        group.add_argument("--seed", type=int, metavar="N", help="of everything random (default 0)")
        group.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="GROUP.NAME=VALUE",
            help="any other setting: --set model.layers=2 --set train.lr=1e-3 (docs/settings.md lists them)",
        )
        self.add_ngram()

    def add_classifier(self) -> None:
        """How classes are told apart."""
        from lmlab.classify.settings import ClassifierSettings

        group = self.add_argument_group("classifier")
        _add_settings(group, "classify", ClassifierSettings, ("start", "pool", "frozen", "decay", "max_tokens"))
        help = next(_help(field) for field in described(ClassifierSettings) if field.name == "bayes")
        group.add_argument("--bayes", dest="classify.bayes", action="store_const", const=True, help=help)

    def add_settings(self, title: str, group: str, settings: Any, *names: str) -> None:
        """All settings of a group, or those of these names."""
        names = names or tuple(field.name for field in described(settings))
        _add_settings(self.add_argument_group(title), group, settings, names)

    def add_vocabulary(self) -> None:
        """Which words of a text are kept."""
        group = self.add_argument_group("vocabulary")
        group.add_argument("--vocab-size", type=int, metavar="V", help="keep only the commonest words, V ids in all")
        group.add_argument("--min-count", type=int, default=1, metavar="N", help="a word seen less often is unknown")

    def add_symbols(self) -> None:
        """What to do with words that models have for their own."""
        self.add_argument("--skip-symbols", action="store_true", help="<s>, </s> and <unk> in the text are white space")

    def add_cluster(self) -> None:
        """Where tasks run."""
        self.add_argument(
            "--cluster", metavar="URL", help="work on Dask, as tcp://HOST:8786, or Ray, as ray://HOST:10001"
        )

    def add_spelling(self) -> None:
        """Whether the spelling of unknown tokens is charged."""
        self.add_argument(
            "--no-spelling",
            dest="spelling",
            action="store_false",
            help="take [UNK] as a class, its spelling for free: does not compare between vocabularies",
        )

    def add_composition(self) -> None:
        """A model that adapts to what it reads, or is mixed with others."""
        group = self.add_argument_group("adaptation and mixture")
        group.add_argument(
            "--adapt",
            metavar="NAME[:K=V,...]",
            help="learn from the text as it is read: dynamic, cache, online, counts, or several joined by +",
        )
        group.add_argument(
            "--mix",
            action="append",
            default=[],
            metavar="RUN[:WEIGHT]",
            help="mix another run's model in; without a weight one is fitted on the validation split",
        )


class ToolParser(Parser):
    """The parser of a program of KenLM's: options may be cut short, and stand among what is no option; no JSON."""

    def __init__(self, prog: str, description: str | None, examples: str) -> None:
        super().__init__(prog, description, examples)
        self.allow_abbrev = True

    def _add_json(self, group: Any) -> None:
        self.set_defaults(json=False)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What is no option may stand anywhere."""
        return self.parse_intermixed_args(args, namespace)


def _add_settings(group: Any, of: str, settings: Any, names: Any) -> None:
    fields = {field.name: field for field in described(settings)}
    for name in names:
        field = fields[name]
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, dest=f"{of}.{name}", metavar=_metavar(field), help=_help(field))


def _metavar(field: Field) -> str:
    return "NAME" if field.choices else next(m for kind, m in _METAVARS.items() if kind in str(field.type))


def _help(field: Field) -> str:
    choices = f" ({', '.join(field.choices)})" if field.choices else ""
    return f"{field.help}{choices}".replace("%", "%%")


def named(options: argparse.Namespace) -> Named:
    """The settings that were given, by path, and the source and the seed where a verb has them."""
    given = {path: value for path, value in vars(options).items() if "." in path and value is not None}
    given |= parse_assignments(getattr(options, "set", []))
    run = {name: getattr(options, name, None) for name in ("source", "seed")}
    return given | {name: value for name, value in run.items() if value is not None}


def in_group(options: argparse.Namespace, group: str) -> dict[str, Any]:
    """The settings of one group that were given, by name."""
    start = f"{group}."
    return {path.removeprefix(start): value for path, value in named(options).items() if path.startswith(start)}


def reporter_of(options: argparse.Namespace) -> Any:
    """Where progress is shown: the console, unless --quiet."""
    from lmlab.progress import Console, Silent

    return Silent() if options.quiet else Console()
