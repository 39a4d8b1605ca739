import sysconfig
from pathlib import Path

import pytest

from lmlab.corpora import open_corpus, stdlib

FIELDS = """
    repo path func_name original_string language code code_tokens docstring docstring_tokens sha url partition
"""
MODULE = '''
"""A module."""
import os
if os.name:
    def outer(a):
        """Says: a.

        More."""
        # a comment
        def inner():
            return 1
        return f"{a!r} b" + \\
            'c'

class C:
    class D:
        async def method(self): "doc"; await self; \\
            x = 1; \\
            return x

def short(): return 1
def two():
    # not code
    return 2
'''


def test_functions_become_records_in_the_schema_of_codesearchnet():
    outer, method = stdlib.module_records(MODULE.encode(), "a/b.py")
    assert list(outer) == FIELDS.split()
    assert (outer["func_name"], method["func_name"]) == ("outer", "C.D.method")
    inner = ["def", "inner", "(", ")", ":", "return", "1"]
    head = ["def", "outer", "(", "a", ")", ":"]
    assert outer["code_tokens"] == [*head, *inner, "return", 'f"{a!r} b"', "+", "'c'"]
    assert outer["docstring"] == "Says: a.\n\nMore."
    assert outer["docstring_tokens"] == ["Says", ":", "a", ".", "More", "."]
    assert outer["code"].startswith('def outer(a):\n        """Says')
    assert outer["code"].endswith("'c'")
    assert '"doc"' not in method["code_tokens"]
    assert method["code_tokens"][:2] == ["async", "def"]
    assert (outer["sha"], outer["partition"]) == (method["sha"], method["partition"])


@pytest.mark.parametrize("source", [b"def f(:\n pass", b"\xff", b"x = '\0'", b""])
def test_a_module_that_cannot_be_parsed_has_no_functions(source):
    assert list(stdlib.module_records(source, "a.py")) == []


def test_folders_of_tests_and_installed_packages_are_left_out(tmp_path):
    function = "def f():\n    a = 1\n    return a\n"
    for name in ("a.py", "pkg/b.py", "test/c.py", "site-packages/d.py", "lib2to3/e.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(function)
    assert [record["path"] for record in stdlib.records(tmp_path)] == ["a.py", "pkg/b.py"]


def test_the_corpus_is_made_once_and_split_by_module(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path))
    library = tmp_path / "library"
    library.mkdir()
    source = (Path(sysconfig.get_path("stdlib")) / "bisect.py").read_text()
    for i in range(40):
        (library / f"m{i}.py").write_text(source + f"\n# {i}\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(library))
    corpus = open_corpus("python-stdlib")
    assert corpus.pretokenised
    assert corpus.rule == "by hash of the module: 0.8 train, 0.1 valid, 0.1 test"
    assert corpus.sizes["all"].documents == 40 * 4
    assert all(corpus.sizes[split].documents % 4 == 0 for split in ("train", "valid", "test"))  # whole modules
    made = stdlib.made_path().read_bytes()
    monkeypatch.setattr(stdlib, "records", None)  # not again
    assert open_corpus("python-stdlib").sha256 == corpus.sha256
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [stdlib.made_path().name]
    assert stdlib.made_path().read_bytes() == made
