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
.lmlab figure{margin:.3em 0}.lmlab svg,.lmlab img{max-width:100%;height:auto}
.lmlab .key{display:inline-block;margin-right:1.2em}.lmlab .key i{display:inline-block;width:1.4em;margin-right:.4em;
border-top:3px solid;vertical-align:middle}.lmlab .key i.level{border-top-style:dashed}
"""
_PAGE_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#222}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e8e8e8}}
body{margin:2.5em auto 5em;max-width:64em;padding:0 1em;background:var(--paper);color:var(--ink)}
.lmlab{max-width:none}.lmlab a{color:inherit}.lmlab h3,.lmlab h4{font-size:1em;margin:1em 0 .2em}
.lmlab h4{font-weight:400;margin:.3em 0 0}.lmlab pre+.note{margin:.2em 0 .6em}
.lmlab nav a{display:inline-block;margin-right:1em;padding:.25em 0}
.lmlab .wide{overflow-x:auto}.lmlab .wide th{white-space:nowrap}
.lmlab .side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,18em),1fr));gap:0 2em}
.lmlab .side>*{min-width:0}.lmlab summary{cursor:pointer;padding:.25em 0}
.lmlab .tokens .at{outline:2px solid}
.told{position:fixed;inset:auto 0 0;margin:0;padding:.6em 1em;background:var(--paper);color:var(--ink);
border-top:1px solid rgba(128,128,128,.5);font:14px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
.told:empty{padding:0;border:0}
.lmlab .white{background:#fff;padding:.5em;border-radius:4px;box-sizing:border-box}
@media(max-width:34em){.lmlab svg text{font-size:17px}.lmlab .ladder th{white-space:normal}.lmlab td.b{width:30%}}
@media print{.told{display:none}}
"""
_SCRIPT = """
const told = document.body.appendChild(document.createElement('p'));
told.className = 'told';
told.setAttribute('role', 'status');
for (const box of document.querySelectorAll('.tokens')) {
  const tokens = [...box.children];
  let at = -1;
  const show = to => {
    if (at >= 0) tokens[at].classList.remove('at');
    at = to;
    if (at >= 0) tokens[at].classList.add('at');
    told.textContent = at < 0 ? '' : JSON.stringify(tokens[at].textContent) + ' · ' + tokens[at].dataset.told;
  };
  for (const token of tokens) {
    token.dataset.told = token.title.replaceAll('\\n', ' · ');
    token.removeAttribute('title');
  }
  box.tabIndex = 0;
  box.setAttribute('role', 'group');
  box.setAttribute('aria-label', 'Surprisal of each token: walk with the arrow keys');
  box.onpointerover = box.onclick = event => show(tokens.indexOf(event.target));
  box.onpointerleave = box.onblur = () => show(-1);
  box.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10}[event.key];
    if (!step) return;
    event.preventDefault();
    show(Math.max(0, Math.min(tokens.length - 1, at + step)));
    tokens[at].scrollIntoView({block: 'nearest'});
  };
}
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
    """A whole page: light or dark as its reader's other pages, and narrow on a phone.

    A script, the only one, shows what is said of a token to those who tap, point, or walk with the arrow keys.
    """
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title>"
    body = f"<main>{fragment(*parts)}</main><style>{_PAGE_STYLE}</style><script>{_SCRIPT}</script>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """What is known of a thing, a line each."""
    heads = (f'<th scope="row">{escape(name)}</th>' if name else "<td></td>" for name, _ in rows)
    lines = (f"<tr>{head}<td>{escape(value)}</td></tr>" for head, (_, value) in zip(heads, rows, strict=True))
    return f"<table>{''.join(lines)}</table>"


def heat(bits: float) -> str:
    """The background of a token: the more surprising the redder; from 12 bits on it grows no more.

    Never so red that black text on a white page, or white text on a black one, is hard to read on it.
    """
    return f"rgba(209,96,61,{0.72 * min(1.0, max(0.0, bits) / 12):.2f})"


def coloured(tokens: Sequence[Mapping[str, Any]]) -> str:
    """Tokens on the colour of their surprisal; the mouse shows bits, probability, rank and what was likelier.

    Args:
        tokens: each with `text` and `bits`, and `rank` and `alternatives` (each `text` and `p`) where known.
    """
    spans = []
    for token in tokens:
        said = [f"{token['bits']:.2f} bits", f"probability {2.0 ** -token['bits']:.3g}"]
        said += [f"rank {token['rank']:,}"] if "rank" in token else []
        likelier = (f"\n{each['p']:.1%} {repr(each['text'])[1:-1]}" for each in token.get("alternatives", ()))
        title = ", ".join(said) + "".join(likelier)
        text = escape(token["text"]).replace("\n", "↵\n")
        spans.append(f'<span style="background:{heat(token["bits"])}" title="{escape(title)}">{text}</span>')
    return f'<div class="tokens">{"".join(spans)}</div>'
