"""Four small models, one of each family, behind one server."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lmlab
from tests import huggingface
from tests.texts import TEXT, TINY

pytest.importorskip("fastapi", reason="the extra serve is not installed")
MODELS = "kn3", "lstm", "lstm+kn3", "gpt2"


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with kn3, lstm and gpt2."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMLAB_CACHE", str(folder / "cache"))
        (folder / "poem.txt").write_text(TEXT, encoding="utf-8")
        for name, settings in {"kn3": {"model": "ngram", "order": 3}, "lstm": {"model": "lstm", **TINY}}.items():
            lmlab.train(folder / "poem.txt", tokenizer="char", out=folder / name, **settings)
        huggingface.save(folder / "gpt2")
        yield folder


@pytest.fixture(scope="package")
def house(runs: Path) -> Any:
    """The models, loaded when they are asked for."""
    from lmlab.server.bounds import Bounds
    from lmlab.server.house import House, entries_of

    spoken = [str(runs / "kn3"), str(runs / "lstm"), f"hf:{runs / 'gpt2'}"]
    entries = [*entries_of(spoken), *entries_of([str(runs / "lstm")], mix=[f"{runs / 'kn3'}:0.4"])[1:]]
    return House(entries, Bounds())


@pytest.fixture(scope="package")
def client(house: Any) -> Iterator[Any]:
    """A client within the process."""
    from fastapi.testclient import TestClient

    from lmlab.server.app import make_app

    with TestClient(make_app(house), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="package")
def address(house: Any) -> Iterator[str]:
    """Where a server listens, in a thread."""
    import uvicorn

    from lmlab.cli.serve import _listening
    from lmlab.server.app import make_app

    listening = _listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(make_app(house), log_level="warning", http="h11", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="package")
def library(runs: Path) -> dict[str, Any]:
    """The models as the library opens them."""
    lms = {name: lmlab.load(runs / name) for name in ("kn3", "lstm")}
    mixed = lms["lstm"].composed(mix=[f"{runs / 'kn3'}:0.4"])
    return {**lms, "gpt2": lmlab.load(f"hf:{runs / 'gpt2'}"), "lstm+kn3": mixed}
