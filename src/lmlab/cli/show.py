"""Results on standard output: tables for people, JSON for machines."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_LONGEST_WORD = 24  # longer ones, paths for example, may be broken
_HEADER = 12  # longer headers take several lines
_LARGE = 1e7  # from here on only the first digits are shown
_PADDING = 3  # columns of a terminal around a column of a table


PROTOCOL = "documents read after <bos>, <eos> counted, context reset between documents, unknown tokens charged"
"""How the figures of a table are taken."""


def print_json(value: Any) -> None:
    """Indented JSON; what is infinite becomes null, since JSON has no infinity."""
    print(json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


class _Text:
    """Standard output that takes text alone, as in a notebook."""

    def write(self, content: bytes) -> int:
        return sys.stdout.write(bytes(content).decode("utf-8", "replace"))

    def flush(self) -> None:
        sys.stdout.flush()


def byte_output() -> Any:
    """Standard output for bytes."""
    return getattr(sys.stdout, "buffer", None) or _Text()


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "", note: str = "") -> None:
    """One table; the columns are the keys of the first row, numbers stand right and are never broken."""
    import shutil

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, caption=note or None, box=box.SIMPLE_HEAD, title_justify="left")
    table.title_style, table.caption_style, table.caption_justify = "bold", "dim", "left"
    needed = _PADDING
    for column in rows[0] if rows else ():
        numeric = all(isinstance(row.get(column), (int, float, type(None))) for row in rows)
        header = textwrap.fill(column, _HEADER, break_long_words=False)
        least = max(_longest_word([_cell(column, row.get(column)) for row in rows]), *map(len, header.split("\n")), 0)
        if numeric:
            table.add_column(header, justify="right", no_wrap=True)
        else:
            table.add_column(header, overflow="fold")
        needed += _PADDING + (least if numeric else min(least, _LONGEST_WORD))
    for row in rows:
        table.add_row(*(_cell(column, row.get(column)) for column in rows[0]))
    width = shutil.get_terminal_size((160, 24)).columns  # where there is no terminal, and COLUMNS names no number
    console = Console(width=max(width, needed), highlight=False, emoji=False, markup=False)
    with console.capture() as drawn:
        console.print(table)
    print(drawn.get(), end="")  # not by rich, which leaves without a word where the pipe is closed


def _longest_word(texts: Sequence[str]) -> int:
    return max(len(word) for text in texts for word in text.split() or [""])


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and abs(value) >= _LARGE:
        return f"{value:.4g}"
    if isinstance(value, float):
        digits = 1 if column in ("seconds", "MB") else 2 if abs(value) >= 100 else 4
        return f"{value:,.{digits}f}"
    return str(value)


def in_words(value: Any) -> Any:
    """A token with what cannot be seen spelled out; likely tokens with their probabilities; else the value itself."""
    if isinstance(value, list):
        return "  ".join(f"{each['text']!r} {each['p']:.3f}" for each in value)
    return repr(value)[1:-1] if isinstance(value, str) else value


def figures_row(name: str, figures: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The columns that every table of figures has."""
    return {
        "model": name,
        "nats/token": figures.get("nats_per_token"),
        "perplexity/token": figures.get("perplexity"),
        "bits/char": figures.get("bits_per_char"),
        "bits/byte": figures.get("bits_per_byte"),
        "unk": figures.get("unk_tokens"),
        "perplexity, unk as class": figures.get("perplexity_unk_as_class"),
        **more,
    }


def unknown_lines(figures: Mapping[str, Any]) -> list[str]:
    """What the spelling of unknown tokens does to the figures, where it is charged: a line, or none."""
    if not figures.get("unk_spelling_nats"):
        return []
    share = 100 * figures["unk_spelling_nats"] / figures["total_nats"]
    return [
        f"{share:.0f} % of the bits spell {figures['unk_tokens']:,} unknown of {figures['tokens']:,} tokens, so that "
        f"figures compare between vocabularies; perplexity with [UNK] as a class, which does not compare: "
        f"{figures['perplexity_unk_as_class']:.4g}"
    ]


def composition_lines(protocol: Mapping[str, Any]) -> list[str]:
    """What a protocol says of adaptation and mixture, a line each."""
    lines = []
    for kind, settings in protocol.get("adaptation", {}).items():
        values = ", ".join(f"{name} {value:.4g}" for name, value in settings.items() if isinstance(value, (int, float)))
        lines.append(f"adapted by {kind} ({values}); {protocol['adapted']}")
    if "mixture" in protocol:
        lines.append(
            "mixed: " + " + ".join(f"{each['weight']:.3f} {each['component']}" for each in protocol["mixture"])
        )
    return lines
