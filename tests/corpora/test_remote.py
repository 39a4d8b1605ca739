"""Texts at addresses: what is read is what a file of the same bytes holds; what cannot be read is told in a line."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem

import lmlab
from lmlab.cli import main
from lmlab.corpora import DataSettings, open_corpus, remote
from lmlab.errors import DataError, LmlabError, MissingExtraError
from lmlab.progress import Silent
from tests.texts import some_text

TEXT = some_text(200)
PACKED = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
RECORDS = "".join(f'{{"text": "{line}"}}\n' for line in TEXT.splitlines()).encode()
FILES = {f"text.txt{end}": pack(TEXT.encode()) for end, pack in PACKED.items()}
FILES |= {f"records.jsonl{end}": pack(RECORDS) for end, pack in PACKED.items()}


class Short(MemoryFileSystem):
    """A store whose objects end before their size."""

    protocol = "short"
    store, pseudo_dirs = {}, [""]

    def info(self, path, **named):
        told = super().info(path, **named)
        return {**told, "size": told["size"] + 7}


class Refusing(MemoryFileSystem):
    """A store that fails as no other does, in several lines."""

    protocol = "refusing"

    def info(self, path, **named):
        raise RuntimeError("token expired\n  at line 7")


class Answer(BaseHTTPRequestHandler):
    """Serves FILES; under /cut/ half of each, under /open/ without saying how long they are, elsewhere nothing."""

    def do_GET(self):
        how, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        if name not in FILES or how == "gone":
            self.send_error(404)
            return
        data = FILES[name]
        self.send_response(200)
        if how != "open":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if how == "cut" else data)

    def log_message(self, *said):
        pass


@pytest.fixture(scope="module")
def served():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def stores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for system in (Short, Refusing):
        fsspec.register_implementation(system.protocol, system, clobber=True)
    fsspec.register_implementation("gone", "no_such_package.System", errtxt="Install no-such-package", clobber=True)
    for name, data in FILES.items():
        Path(name).write_bytes(data)
        for protocol in ("memory", "short"):
            fsspec.filesystem(protocol).pipe(f"{protocol}://there/{name}", data)


def addresses(served, name):
    return [
        f"memory://there/{name}",
        Path(name).resolve().as_uri(),
        f"{served}/whole/{name}",
        f"{served}/open/{name}?key=1",
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_corpus_is_that_of_the_file(served, name):
    settings = DataSettings(unit="line") if name.startswith("text") else DataSettings()
    expected = open_corpus(name, settings)
    for address in addresses(served, name):
        found = open_corpus(address, settings)
        assert (found.sha256, found.sizes, found.name) == (expected.sha256, expected.sizes, name)


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("text")])
def test_an_ngram_model_is_that_of_the_file(served, name):
    expected = lmlab.estimate(name, order=2, reporter=Silent())
    for address in addresses(served, name):
        found = lmlab.estimate(address, order=2, reporter=Silent())
        assert found.model.ngrams == expected.model.ngrams
        assert found.manifest["data"]["sha256"] == expected.manifest["data"]["sha256"]


def test_verbs_take_addresses(served, capsys):
    lmlab.estimate("text.txt", order=2, out="kn", reporter=Silent())
    said = []
    for source in ("text.txt.gz", f"{served}/whole/text.txt.gz"):
        assert main(["eval", "kn", "--on", source, "--json", "--quiet"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert main(["train", "memory://there/text.txt", "--model", "ngram", "--quiet", "-o", "run"]) == 0
    assert main(["eval", "run", "--quiet"]) == 0  # on its own text, which is read again


BAD = {
    "memory://there/none.txt": "there is none",
    "memory://there": "it is a folder: name its files",
    "gone://a/b.txt": "Install no-such-package",
    "nobody://a/b.txt": "Protocol not known",
    "short://there/text.txt": "is cut off: {size:,} of {more:,} bytes came",
    "short://there/text.txt.gz": "is cut off",
    "refusing://there/text.txt": "token expired at line 7",
    "SERVED/gone/text.txt": "Not Found",
    "SERVED/cut/text.txt": "is cut off",
    "SERVED/cut/text.txt.zst": "is cut off",
    "http://127.0.0.1:9/text.txt": "Connection refused",
    "http://user:secret@127.0.0.1:9/text.txt?token=secret": "cannot be read",
    "http://[half/text.txt": "cannot be read",
    "https://": "cannot be read",
    "file:///no/such/file.txt": "there is none",
    "://": "no",
}


@pytest.mark.parametrize("address", BAD)
def test_what_cannot_be_read_is_told_in_one_line(served, address, capsys):
    size = len(FILES["text.txt"])
    expected = BAD[address].format(size=size, more=size + 7)
    for verb in (["ngram", "estimate"], ["train", "--model", "ngram", "--unit", "line"]):
        assert main([*verb, address.replace("SERVED", served), "-o", "run", "--quiet"]) in (1, 2)
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert expected in said[0]
        assert "secret" not in said[0]
        assert "did not foresee" not in said[0]
        assert not Path("run").exists()


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lmlab\[fsspec\]'"):
        open_corpus("s3://bucket/text.txt")


def test_no_copy_is_kept_of_what_is_counted(served, monkeypatch):
    """The stream is taken chunk by chunk: no more than one at a time is asked for."""
    monkeypatch.setattr(remote, "_CHUNK", 100)
    chunks = list(remote.read("memory://there/text.txt"))
    assert {len(chunk) for chunk in chunks[:-1]} == {100}
    assert b"".join(chunks) == FILES["text.txt"]


def test_every_refusal_is_an_error_of_ours():
    with pytest.raises(LmlabError):
        list(remote.read("refusing://there/text.txt"))
    with pytest.raises(DataError, match="there is none"):
        remote.size_of("memory://none")
