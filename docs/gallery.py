"""Makes docs/gallery.md and its pictures on the shared corpora: `make gallery`, some minutes on two cores.

A picture is a line of `PICTURES`: its words on the command line, and what to see in it. A run is a line of `RUNS`;
those that are there already are taken as they are. Run it again after a picture has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
from pathlib import Path

from lmlab.cli import main

HERE = Path(__file__).parent
MOST_BYTES = 60_000
NEWS = "ag_news_test --template '{title} ; {description}'"
PLAYS = "tinyshakespeare --tokenizer char"
STEPS = "--steps 300 --set train.batch_size=4 --set train.threads=1 --set train.precision=fp32"
RUNS = {
    "kn6": f"{PLAYS} --model ngram --order 6",
    "words3": "tinyshakespeare --tokenizer word --model ngram --order 3",
    "lstm": f"{PLAYS} --model lstm {STEPS}",
    "rnn": f"{PLAYS} --model rnn {STEPS}",
    "cnn": f"{PLAYS} --model cnn {STEPS}",
    "gru": f"{PLAYS} --model gru {STEPS}",
    "transformer": f"{PLAYS} --model transformer {STEPS}",
    "news-kn6": f"{NEWS} --tokenizer char --model ngram --order 6",
    "news-words3": f"{NEWS} --tokenizer word --model ngram --order 3",
}
"""What `lmlab train` is told for each run."""
PICTURES = {
    "temperature": (
        "plot temperature runs/kn6 --prompt 'the ' --chain top_p=0.9",
        "Low temperatures sharpen, high ones flatten; top-p then cuts the tail (grey) and what is left is scaled up.",
    ),
    "curves": (
        "plot curves runs/lstm runs/rnn runs/words3 --against tokens",
        "After 300 steps no network beats the 6-gram of the same text: baselines first.",
    ),
    "context": (
        "plot context runs/lstm runs/rnn runs/cnn runs/transformer runs/kn6 --longest 64 --positions 100",
        "Where a curve is flat, more history does not help. The n-gram and the convolution end where they must.",
    ),
    "surprisal": (
        "plot surprisal runs/kn6",
        "Names and first letters of words cost most. Its HTML page tells rank and alternatives under the mouse.",
    ),
    "ngram": (
        "plot ngram runs/words3 --text 'My lord, I have not slept one quiet hour since this king died.'",
        "An n-gram model quotes: each word is predicted by a passage of the training text, which is shown.",
    ),
    "mixture": (
        "plot mixture runs/lstm --mix runs/kn6:0.7 --text 'KING RICHARD III: Now is the winter of our discontent'",
        "The line is what each weighs, the colours who was right: after a first letter the n-gram knows the rest.",
    ),
    "zipf": (
        "plot zipf runs/words3",
        "A slope near -1; one token in twenty of unseen text lies outside the vocabulary of all training words.",
    ),
    "calibration": (
        "plot calibration runs/lstm runs/kn6 runs/words3",
        "What is said to be likely comes about as often as it should.",
    ),
    "compare": (
        "plot compare runs/news-words3 runs/news-kn6",
        "Characters beat words on short news, by how much, and how certain that is: one ruler, bits per byte.",
    ),
    "beams": (
        "plot beams runs/kn6 --prompt 'KING RICHARD' --width 4 --max-tokens 10",
        "What a beam of four keeps at each token, what it drops, and where greedy choice goes.",
    ),
    "gates": (
        "inspect gates runs/lstm --text 'First Citizen: We are accounted poor citizens'",
        "An LSTM from inside: what its gates let in, keep and show, unit by unit.",
    ),
    "cells": (
        "inspect cells runs/lstm --feature line",
        "The unit that follows the position in the line best, and a text on its colour.",
    ),
    "gradients": (
        "inspect gradients runs/rnn runs/lstm runs/gru",
        "How much of a loss reaches the hidden state k tokens before: the plain RNN forgets first.",
    ),
    "attention": (
        "inspect attention runs/transformer --layer 1 --text 'First Citizen: Speak, speak.'",
        "Where each token looks, head by head.",
    ),
}
"""Of each picture: the words after `lmlab`, with runs by their names, and what to see in it."""


def gallery(folder: Path, only: list[str]) -> None:
    """Train what is missing in a folder, draw, and write the page."""
    for name in only or PICTURES:
        words = shlex.split(PICTURES[name][0])
        for run in {word.removeprefix("runs/").partition(":")[0] for word in words if word.startswith("runs/")}:
            if not (folder / run / "manifest.json").is_file():
                say(["train", *shlex.split(RUNS[run]), "-o", str(folder / run), "--overwrite", "--quiet"])
        path = HERE / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        say([str(folder / word[5:]) if word.startswith("runs/") else word for word in words] + ["-o", str(path)])
        shrink(path)
    drawn = {name: each for name, each in PICTURES.items() if (HERE / "pictures" / f"{name}.png").is_file()}
    (HERE / "gallery.md").write_text(page(drawn), encoding="utf-8")


def say(words: list[str]) -> None:
    """Run a command of lmlab; its output is shown where it fails."""
    print("lmlab", *words, flush=True)
    with contextlib.redirect_stdout(io.StringIO()) as told:
        code = main(words)
    if code:
        raise SystemExit(f"{told.getvalue()}exit code {code}")


def shrink(path: Path) -> None:
    """Fewer colours, a quarter of the bytes; refuse what is still too large for a repository."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
    if path.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes, and {MOST_BYTES:,} at most are wanted")


def page(drawn: dict[str, tuple[str, str]]) -> str:
    """The page, a section a picture."""
    trained = "\n".join(f"lmlab train {words} -o runs/{run}" for run, words in RUNS.items())
    parts = [
        "# Gallery\n\nGenerated by `docs/gallery.py` (`make gallery`); do not edit. Each picture is a command, and in "
        "Python a method:\n`lm.plot.surprisal(text)`. `--json` prints its figures; `-o` takes .png, .svg, .pdf and, "
        "where there is one, .html.\n"
    ]
    for name, (words, seen) in drawn.items():
        parts.append(f"## {name}\n\n```bash\nlmlab {words}\n```\n\n{seen}\n\n![{name}](pictures/{name}.png)\n")
    parts.append(f"## The runs\n\nSmall on purpose: seconds to a few minutes each.\n\n```bash\n{trained}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help="pictures to draw again; none: all")
    parser.add_argument("--runs", type=Path, default=Path("runs/gallery"), help="where runs are kept (%(default)s)")
    asked = parser.parse_args()
    gallery(asked.runs, asked.only)
