"""HTML that stands alone: its style within, nothing loaded, every text escaped; for notebooks and for pages."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

_STYLE = """
.lmlab{font:14px/1.45 system-ui,sans-serif;max-width:60em}
.lmlab h1{font-size:1.7em;margin:0 0 .2em}.lmlab h2{font-size:1.15em;margin:1.6em 0 .4em}
.lmlab .dim,.lmlab .note{opacity:.7;font-size:.92em}
.lmlab table{border-collapse:collapse;margin:.3em 0}.lmlab th{text-align:left;font-weight:600}
.lmlab th,.lmlab td{padding:.15em .8em .15em 0;vertical-align:top;text-align:left;border:0;background:none}
.lmlab td.n{text-align:right;font-variant-numeric:tabular-nums}
.lmlab .ladder{width:100%}.lmlab .ladder th{white-space:nowrap}.lmlab td.b{width:45%}
.lmlab td.b i{display:block;height:1.1em;background:#3b6fb6;border-radius:2px}
.lmlab .base td.b i{background:#9aa5ad}.lmlab .best td.b i{background:#4c9a6a}.lmlab .best{font-weight:600}
.lmlab pre,.lmlab code{font:13px/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.lmlab pre{background:rgba(128,128,128,.12);padding:.6em .8em;border-radius:4px;margin:.3em 0}
.lmlab .tokens{font:14px/1.9 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.lmlab .tokens span{border-radius:2px;padding:.1em 0}
.lmlab .progress{height:.5em;background:rgba(128,128,128,.2);border-radius:3px;max-width:40em}
.lmlab .progress i{display:block;height:100%;background:#3b6fb6;border-radius:3px}
"""


def escape(text: object) -> str:
    """A text in HTML; what is no text in UTF-8 becomes a question mark.

    >>> escape('a<b & "c"')
    'a&lt;b &amp; &quot;c&quot;'
    """
    return html.escape(str(text).encode("utf-8", "replace").decode())


def fragment(*parts: str) -> str:
    """Parts of HTML as one, with the style: what `_repr_html_` returns."""
    return f'<div class="lmlab"><style>{_STYLE}</style>{"".join(parts)}</div>'


def page(title: str, *parts: str) -> str:
    """A whole page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "margin:2.5em auto;max-width:60em;padding:0 1em;background:#fff;color:#222"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body style="{body}">{fragment(*parts)}</body></html>\n'
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """What is known of a thing, a line each."""
    lines = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(lines)}</table>"


def heat(bits: float) -> str:
    """The background of a token: the more surprising the redder; from 12 bits on it grows no more."""
    return f"rgba(209,96,61,{min(1.0, max(0.0, bits) / 12):.2f})"


def coloured(tokens: Sequence[Mapping[str, Any]]) -> str:
    """Tokens on the colour of their surprisal; the mouse shows bits, rank and what was likelier.

    Args:
        tokens: each with `text` and `bits`, and `rank` and `alternatives` (each `text` and `p`) where known.
    """
    spans = []
    for token in tokens:
        rank = f", rank {token['rank']:,}" if "rank" in token else ""
        likelier = (
            f"&#10;{each['p']:.1%} {escape(repr(each['text'])[1:-1])}" for each in token.get("alternatives", ())
        )
        style, title = f"background:{heat(token['bits'])}", f"{token['bits']:.2f} bits{rank}{''.join(likelier)}"
        text = escape(token["text"]).replace("\n", "↵\n")
        spans.append(f'<span style="{style}" title="{title}">{text}</span>')
    return f'<div class="tokens">{"".join(spans)}</div>'
