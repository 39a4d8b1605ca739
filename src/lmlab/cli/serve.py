"""Serve trained models over HTTP: completions as OpenAI's server, exact log-probabilities, and a page to play with.

docs/guide/server.md tells what can be asked, and how to put the server behind a reverse proxy.
"""

from __future__ import annotations

import argparse
import os

from lmlab.cli.parser import Parser
from lmlab.errors import MissingExtraError

EXAMPLES = """\
  lmlab serve runs/lstm
  lmlab serve runs/lstm runs/kn6 hf:gpt2 --port 8080 --open
  LMLAB_API_KEY=secret lmlab serve runs/lstm --host 0.0.0.0 --origin https://example.org"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a model directory, or hf:PATH_OR_NAME")
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where to listen (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0 is any that is free")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--origin", action="append", default=[], metavar="URL", help="a page elsewhere that may ask (CORS); * is any"
    )
    parser.add_composition()


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    try:
        import uvicorn

        from lmlab.server.app import make_app
    except ImportError as error:
        raise MissingExtraError("lmlab serve", "serve") from error
    from lmlab.server.house import Bounds, House, entries_of

    house = House(entries_of(options.runs, options.adapt, options.mix), Bounds())
    app = make_app(house, key=os.environ.get("LMLAB_API_KEY") or None, origins=options.origin)
    config = uvicorn.Config(app, options.host, options.port, log_level="warning")
    uvicorn.Server(config).run()
    return 0
