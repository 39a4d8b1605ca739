from pathlib import Path

from lmlab.corpora import cache


def test_the_users_folder_comes_before_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMLAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LMLAB_CACHE", str(tmp_path / "cache"))
    assert cache.find("a") is None
    for folder in (tmp_path / "cache", tmp_path / "data"):
        folder.mkdir()
        (folder / "a").write_text("x")
        assert cache.find("a") == folder / "a"


def test_the_cache_lies_in_the_home_folder_unless_named(monkeypatch):
    monkeypatch.delenv("LMLAB_CACHE", raising=False)
    assert cache.cache_dir() == Path.home() / ".cache" / "lmlab"
