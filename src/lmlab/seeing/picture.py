"""A picture: the figures that it shows as rows of a table, and how it is drawn.

matplotlib is imported when a picture is drawn, and used through its objects: no global state, no display.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from lmlab.corpora.document import Document
from lmlab.disk import write_file
from lmlab.errors import UsageError
from lmlab.models.base import LanguageModel
from lmlab.report.html import escape, page
from lmlab.seeing.style import plain
from lmlab.tokens.base import Tokenizer
from lmlab.tokens.id_store import TokenStore

_FORMS = (".png", ".svg", ".pdf", ".html")
_DPI = 120


class Seen(Protocol):
    """What pictures see of a text model: `lmlab.TextModel` is one, and its docstrings say more."""

    model: Any
    tokenizer: Tokenizer
    config: Any
    manifest: Mapping[str, Any]
    folder: Path | None

    def ids(self, prompt: str, allow_unknown: bool = False) -> list[int]:
        """The ids of a prompt."""
        ...

    def score(self, text: Any = None, *, on: Any = None) -> Any:
        """Surprisal and rank of every token."""
        ...

    def held_out(self, split: str, reporter: Any = None, chars: float = ...) -> Any:
        """An encoded split of the run's own text, or None."""
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

        figure = Figure(figsize=self.size, dpi=_DPI, layout="constrained")
        self.draw(figure)
        if self.title:
            figure.suptitle(plain(self.title), fontsize=11, x=0.01, ha="left")
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
        with matplotlib.rc_context({"svg.hashsalt": "lmlab", "pdf.fonttype": 42}):
            self.figure.savefig(drawn, format=form, metadata=undated)
        return drawn.getvalue()

    def __repr__(self) -> str:
        return f"Picture({self.title!r}, {len(self.rows)} rows)"

    def _repr_png_(self) -> bytes:
        return self.drawn("png")


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


def encoded(lm: Seen, texts: Sequence[str]) -> TokenStore:
    """Documents as the run's tokenizer reads them."""
    return TokenStore.from_documents(lm.tokenizer, map(Document, texts))


def next_logp(model: LanguageModel, ids: Sequence[int]) -> Any:
    """Natural log-probabilities of what follows `<bos>` and some ids, as a NumPy vector over the vocabulary."""
    return model.start([list(ids)])[0][0].double().cpu().numpy()
