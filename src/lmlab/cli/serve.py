"""Serve trained models over HTTP: completions as OpenAI's server, exact log-probabilities, and a page to play with.

Each RUN is a model, loaded when it is first asked for. --mix and --adapt add one more: the first run so composed. Where
the environment has LMLAB_API_KEY, clients must send that key. Ctrl-C or SIGTERM ends the server once the requests in
flight are answered. docs/guide/server.md tells what can be asked, and how to stand behind a reverse proxy.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

from lmlab.cli.parser import Parser, in_group, reporter_of
from lmlab.cli.show import print_json
from lmlab.errors import MissingExtraError, UsageError

EXAMPLES = """\
  lmlab serve runs/lstm --open
  lmlab serve runs/lstm runs/kn6 hf:gpt2 --port 8080
  lmlab serve runs/lstm --mix runs/kn6:0.3 --loaded 2
  lmlab serve runs/lstm --host 0.0.0.0 --origin https://example.org"""

_SWITCH_SECONDS = 2e-4  # a model's thread lets answers leave so often; Python's own 5 ms would delay each token


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a model directory, or hf:PATH_OR_NAME")
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where to listen (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default 8000; 0 is any that is free")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--origin", action="append", default=[], metavar="URL", help="a page elsewhere that may ask (CORS); * is any"
    )
    from lmlab.server.bounds import Bounds

    parser.add_settings("bounds", "serve", Bounds)
    parser.add_composition()


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    try:
        import uvicorn

        from lmlab.server.app import make_app
    except ImportError as error:
        raise MissingExtraError("lmlab serve", "serve") from error
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import House, entries_of

    bounds = Bounds.make(in_group(options, "serve"), "serve")
    house = House(entries_of(options.runs, options.adapt, options.mix), bounds)
    app = make_app(house, key=os.environ.get("LMLAB_API_KEY") or None, origins=options.origin)
    listening = _listening(options.host, options.port)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    if options.json:
        print_json({"address": address, "models": [*house.entries]})
        sys.stdout.flush()
    elif not options.quiet:
        models = ", ".join(house.entries)
        print(f"serving {models} at {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if options.open:
        import webbrowser

        webbrowser.open(address)
    sys.setswitchinterval(_SWITCH_SECONDS)
    config = uvicorn.Config(app, log_level="warning", http="h11", server_header=False)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # raised again once all is answered
        reporter_of(options).say("ended")
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """A socket that clients may connect to at once.

    Raises:
        UsageError: the address is in use, not this machine's, or not allowed.
    """
    if not 0 <= port < 65536:
        raise UsageError(f"--port is {port}, but must be 0 to 65535", "0 is any that is free")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, ValueError) as error:  # a name that is none is a UnicodeError, or has a NUL
        problem = f"{host!r}:{port} cannot be listened at ({getattr(error, 'strerror', None) or error})"
        raise UsageError(problem, "name another --host or --port") from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # no connection waits 40 ms for an ACK
    return listening
