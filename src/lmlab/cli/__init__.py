"""The command line: `lmlab VERB ...`, one file a verb.

Nothing heavy is imported to show help: a verb's module is loaded when the verb is called.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from lmlab.cli.parser import Parser, ToolParser
from lmlab.errors import LmlabError, MissingTorchError, UnknownNameError
from lmlab.seeing import INSPECTIONS, PLOTS, WORDS

VERBS = {
    "train": "train a model on a text",
    "eval": "score held-out text with trained models, on one ruler",
    "generate": "write: greedy, sampling, beam search",
    "score": "surprisal of every token of a text",
    "filter": "score many records, keep those that the model finds likely",
    "classify train": "train a text classifier on labelled records",
    "classify eval": "accuracy, F1, calibration and confusions of classifiers",
    "classify predict": "the class of every text, and its probability",
    "compare": "train several kinds of model on one text, one table",
    **{f"plot {name}": shows for name, shows in PLOTS.items()},
    **{f"inspect {name}": shows for name, shows in INSPECTIONS.items()},
    "compress": "any file in few bytes, by what a model expects; nothing to train",
    "decompress": "files again from what compress wrote",
    "serve": "trained models over HTTP, as OpenAI's server, and a page to play with",
    "report": "one page on several models, for any browser: figures, curves, samples, surprisal, beams",
    "export": "a trained network for transformers or ONNX",
    "encode": "text to a folder of ids that train takes for it, by shards, on any machines",
    "corpora": "the named corpora: where they are, their licences and splits",
    "info": "what a model directory holds, or what this machine has",
    "ngram estimate": "text straight to an n-gram model of its words, as KenLM's lmplz",
    "ngram count": "count one shard of a text, on any machine, to be merged with the others",
    "ngram merge": "the model of the counts of all shards",
    "ngram query": "score sentences from standard input, as KenLM's query",
    "ngram prune": "a smaller n-gram model: by entropy, to a threshold or a size",
    "ngram arpa": "write an n-gram model as an ARPA file",
    "ngram binary": "write an n-gram model as a binary file of KenLM's, as its build_binary",
    "ngram import": "an ARPA file of any tool as a model directory",
    "ngram stats": "what an n-gram model holds, length by length",
    "kenlm lmplz": "KenLM's lmplz: text to an ARPA file, with its options",
    "kenlm build_binary": "KenLM's build_binary: an ARPA file to its binary file, byte for byte",
    "kenlm query": "KenLM's query: score sentences from standard input, the same text comes out",
    "kenlm filter": "KenLM's filter: an ARPA file for the words of some sentences alone",
    "kenlm interpolate": "one ARPA file of several, log-linear or linear, with weights given or tuned",
    "demo": "two minutes, no download: a ladder of models, what they write, one page",
}
_TOOLS = "kenlm"
_NO_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "failed to map segment",
    "Could not find/load shared object",
)  # what libraries say of it
_REMEDIES = {errno.EMFILE: "allow more open files (ulimit -n 256)", errno.ENFILE: "close other programs"}
UNFORESEEN = "lmlab did not foresee this"


def verb_parser(verb: str) -> Parser:
    """The parser of one verb.

    Raises:
        UnknownNameError: there is no such verb.
    """
    if verb not in VERBS:
        raise UnknownNameError("verb", verb, VERBS)
    word, _, name = verb.partition(" ")
    module: Any = importlib.import_module("lmlab.cli.plot" if word in WORDS else f"lmlab.cli.{verb.replace(' ', '_')}")
    description, examples = module.describe(word, name) if word in WORDS else (module.__doc__, module.EXAMPLES)
    make = ToolParser if word == _TOOLS else Parser
    parser = make(prog=f"lmlab {verb}", description=description, examples=examples)
    module.add_arguments(parser, *((word, name) if word in WORDS else ()))
    parser.add_common()
    parser.set_defaults(run=module.run)
    return parser


def split_verb(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The verb that a command line begins with, one word or two, and what follows it.

    >>> split_verb(["ngram", "stats", "runs/kn5"])
    ('ngram stats', ['runs/kn5'])
    """
    length = 2 if any(verb.startswith(f"{words[0]} ") for verb in VERBS) else 1
    return " ".join(words[:length]), words[length:]


def overview() -> str:
    """What `lmlab --help` prints."""
    told = {verb: help for verb, help in VERBS.items() if verb.partition(" ")[0] not in WORDS}
    told |= {f"{word} NAME": f"pictures: {', '.join(names)}" for word, names in WORDS.items() if names}
    width = max(map(len, told))
    verbs = "\n".join(f"  {verb:<{width}}  {help}" for verb, help in told.items())
    return (
        "usage: lmlab VERB ...\n\n"
        "From any text to an honest language model, in minutes, on the machine you have.\n\n"
        f"verbs (`lmlab VERB --help` has examples):\n{verbs}\n\n"
        "exit codes: 0 well, 1 failure, 2 wrong usage, 128 + N ended by signal N (130 Ctrl-C; saved where it can be)\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code.

    Args:
        arguments: the words after `lmlab`; None are those of this process, which is then tuned for the work and ended.
    """
    if arguments is not None:
        return _answer(list(arguments))
    from lmlab.training.machine import ENDING, tune_process

    tune_process(keep_memory=sys.argv[1:2] not in (["ngram"], [_TOOLS]))
    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores hangups
            signal.signal(number, _end)
    unread = sys.stdout is None
    _open_streams()
    _print_whatever()
    code = _answer(sys.argv[1:])
    return _leave(_fail("nobody reads the output (it is closed)", 1) if unread and not code else code)


def tool() -> int:
    """Run as that program of KenLM's by whose name this process was called; `packages/kenlm-tools` installs them."""
    sys.argv[1:1] = [_TOOLS, os.path.basename(sys.argv[0]).removesuffix(".exe")]
    return main()


def _end(number: int, frame: Any) -> NoReturn:
    """As Ctrl-C ends a program: what is open is closed, what is half-written removed."""
    raise KeyboardInterrupt(number)


def _open_streams() -> None:
    """Put the null device where a standard stream is closed, lest the next file that is opened take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _answer(words: list[str]) -> int:
    try:
        return _run(words)
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        return _fail("interrupted" if number == signal.SIGINT else f"ended by signal {number}", 128 + number)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        return _fail("nobody reads the output any more (closed pipe)", 1)
    except Exception as error:  # one line, whatever it is
        if "--debug" in words:
            raise
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            error = MissingTorchError("this")
        return _fail(" ".join(_told(error).split()), _exit_code(error, words))


def _exit_code(error: Exception, words: list[str]) -> int:
    """KenLM's programs know 1 alone."""
    return error.exit_code if isinstance(error, LmlabError) and words[0] != _TOOLS else 1


def _told(error: Exception) -> str:
    """What went wrong, and what to do."""
    if isinstance(error, LmlabError):
        return str(error)
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
        return "out of memory: use a smaller model, vocabulary or batch"
    if isinstance(error, OSError):
        remedy = _REMEDIES.get(error.errno or 0, "see that it is there, allowed, and has room")
        return f"{error.filename or 'the output'} is not usable ({error.strerror or error}): {remedy}"
    return f"{UNFORESEEN} ({type(error).__name__}: {error}): --debug shows where; please report it"


def _leave(code: int) -> NoReturn:
    """End the process, without taking apart all that it holds: that would take longer than a small job."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # it was told already, where somebody could hear it
            stream.flush()
    os._exit(code)


def _print_whatever() -> None:
    """Let no character fail to print: a path or a prompt may hold bytes that are no text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(words: list[str]) -> int:
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(overview(), end="")
            return 0 if words else 2
        if words[0] in ("-V", "--version"):
            from lmlab import __version__

            print(f"lmlab {__version__}")
            return 0
        if words[0] in WORDS and words[1:2] in ([], ["-h"], ["--help"]):
            print("\n".join(f"lmlab {words[0]} {name:<14} {shows}" for name, shows in WORDS[words[0]].items()))
            return 0 if words[1:] else 2
        began, (verb, rest) = time.perf_counter(), split_verb(words)
        options = verb_parser(verb).parse_args(rest)
        options.began = began
        code: int = options.run(options)
        return code
    finally:
        if sys.stdout is not None:  # closed by who called
            sys.stdout.flush()  # here, where a closed pipe can still be told


def _fail(message: str, code: int) -> int:
    print(f"lmlab: {message}", file=sys.stderr)
    return code
