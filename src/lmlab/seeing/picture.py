"""A picture: the figures that it shows as rows of a table, and how it is drawn.

matplotlib is imported when a picture is drawn, and used through its objects: no global state, no display.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from lmlab.corpora.document import Document
from lmlab.corpora.records import clean
from lmlab.disk import write_file
from lmlab.errors import DataError, EmptyDataError, UsageError
from lmlab.report.html import escape, page
from lmlab.seeing.style import plain, wrapped
from lmlab.tokens.base import Tokenizer
from lmlab.tokens.id_store import TokenStore

_FORMS = (".png", ".svg", ".pdf", ".html")
_DPI = 120
_TITLE_POINTS = 11


class Seen(Protocol):
    """What pictures see of a text model: `lmlab.TextModel` is one, and its docstrings say more."""

    model: Any
    tokenizer: Tokenizer
    config: Any
    manifest: Mapping[str, Any]
    folder: Path | None
    composition: Mapping[str, Any]

    def ids(self, prompt: str, allow_unknown: bool = False) -> list[int]:
        """The ids of a prompt."""
        ...

    def composed(self, adapt: str | None = None, mix: Sequence[str] = ()) -> Any:
        """The text model mixed with others."""
        ...

    def score(self, text: Any = None, *, on: Any = None, alternatives: int = 0) -> Any:
        """Surprisal and rank of every token."""
        ...

    def held_out(self, split: str, reporter: Any = None, chars: float = ...) -> Any:
        """An encoded split of the run's own text, or None."""
        ...

    def texts(self, on: Any = None, *, split: str | None = None, chars: float = ...) -> tuple[str, list[str]]:
        """The name of a text, or of the run's own held-out one, and its documents."""
        ...


@dataclass(frozen=True, eq=False)
class Picture:
    """What a command draws and a notebook shows.

    Attributes:
        title: what is seen, of which model, on which text, in which unit.
        rows: the figures, a dict a row: the table in a terminal, and what `--json` prints.
        draw: draws onto an empty matplotlib figure.
        size: width and height, in inches.
        note: what else is to be known of the figures: how they were taken.
        body: of an HTML page, for pictures that are more than their drawing; empty where there is no such form.
        text: what a terminal shows in place of the table; empty where the table serves.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[Any], None]
    size: tuple[float, float] = (8, 4.5)
    note: str = ""
    body: str = ""
    text: str = ""

    @property
    def figure(self) -> Any:
        """The drawing, a new matplotlib `Figure`."""
        from matplotlib.figure import Figure

        with _boxes_for_unknown_letters():
            lines = wrapped(self.title, 0.97 * self.size[0], _TITLE_POINTS)
        height = self.size[1] + max(0, len(lines) - 1) * 1.25 * _TITLE_POINTS / 72
        figure = Figure(figsize=(self.size[0], height), dpi=_DPI, layout="constrained")
        self.draw(figure)
        if lines:
            figure.suptitle(plain("\n".join(lines)), fontsize=_TITLE_POINTS, x=0.01, ha="left")
        return figure

    def save(self, path: str | Path) -> Path:
        """Write the picture in the form that the path's ending names.

        Raises:
            UsageError: it names none.
        """
        path = check_path(path)
        form = path.suffix.lower().removeprefix(".")
        if form == "html" and not self.body:
            raise UsageError(f"this picture has no page for {path}", "end it in .png, .svg or .pdf")
        head = f"<h1>{escape(self.title)}</h1>"
        write_file(path, page(self.title, head, self.body) if form == "html" else self.drawn(form))
        return path

    def drawn(self, form: str) -> bytes:
        """The drawing as png, svg or pdf."""
        import matplotlib

        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
        drawn = BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "lmlab", "pdf.fonttype": 42}), _boxes_for_unknown_letters():
            self.figure.savefig(drawn, format=form, metadata=undated)
        return drawn.getvalue()

    def __repr__(self) -> str:
        return f"Picture({self.title!r}, {len(self.rows)} rows)"

    def _repr_png_(self) -> bytes:
        return self.drawn("png")


@contextmanager
def _boxes_for_unknown_letters() -> Iterator[None]:
    """Draw letters that the font lacks as boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def check_path(path: str | Path) -> Path:
    """A path that a picture can be written to.

    Raises:
        UsageError: its ending names no form of a picture.
    """
    if Path(path).suffix.lower() not in _FORMS:
        raise UsageError(f"{path} names no form of a picture", f"end it in {', '.join(_FORMS)}")
    return Path(path)


def subject(lm: Seen) -> str:
    """Which model on which text, in which unit: the end of a picture's title."""
    kind, data = lm.config.model.kind, lm.manifest["data"]["name"]
    return kind if kind.startswith("hf:") else f"{kind} on {data}, {lm.config.tokenizer.kind} tokens"


def names(lms: Sequence[Seen]) -> list[str]:
    """A short name for each of several runs: its folder's, else its kind; numbered where two would be alike."""
    short = [lm.folder.name if lm.folder else lm.config.model.kind for lm in lms]
    return [
        f"{name} ({1 + short[:at].count(name)})" if short.count(name) > 1 else name for at, name in enumerate(short)
    ]


def shown_text(lm: Seen, text: str, on: Any, most: int, beginning: int) -> tuple[str, list[str]]:
    """The name and the documents of what a picture shows: a text, a source, or the beginning of the held-out split.

    Args:
        lm: the run that holds a split out.
        text: in hand.
        on: a source in its place.
        most: characters that the picture has room for.
        beginning: characters of the held-out split where neither is given.

    Raises:
        UsageError: both are given.
        EmptyDataError: the source holds no text.
        DataError: the text is longer.
    """
    if text and on is not None:
        raise UsageError("a text and a source are given", "leave one of them out")
    if text:
        name, texts = "a text", [clean(text.removeprefix("\ufeff"), "the text", "strict")]
    else:
        name, texts = lm.texts(on, chars=beginning if on is None else most + 1)
        if on is None and sum(map(len, texts)) == beginning:
            texts[-1] = "".join(re.findall(r".*(?=\s)", texts[-1], re.DOTALL)[:1]) or texts[-1]  # no word in halves
    if sum(map(len, texts)) > most:
        remedy = "show less of it (head -c 1000 FILE | lmlab plot ... --on -); lmlab score -o writes any length"
        raise DataError(f"{name} has more than the {most:,} characters that this picture has room for", remedy)
    if not any(texts):
        raise EmptyDataError(f"{name} holds no text", "give at least one character")
    return name, texts


def encoded(lm: Seen, texts: Sequence[str]) -> TokenStore:
    """Documents as the run's tokenizer reads them."""
    return TokenStore.from_documents(lm.tokenizer, map(Document, texts))
