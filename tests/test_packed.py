"""A model in one file: what a folder is, byte for byte of every answer; damaged, it is refused in a line."""

import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lmlab
from lmlab import packed, store
from lmlab.cli import main
from lmlab.compat import kenlm
from lmlab.errors import ArtifactError, LmlabError, RunExistsError, UsageError
from lmlab.progress import Silent
from tests.texts import some_text

TEXT = some_text(30)
IDS = np.arange(2, 28, dtype=np.uint32)
ASKED = "the cat sat on a mat\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("asked.txt").write_text(ASKED + TEXT[:200], encoding="utf-8")
    return tmp_path


def estimate(out, **named):
    return lmlab.estimate("text.txt", out=out, reporter=Silent(), order=3, **named)


def bits(lm):
    return lm.score(ASKED).columns["cumulative_bits"].tolist()


def answer(capsys, *words):
    assert main([*words, "--quiet"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("layout", ["fast", "compact"])
def test_every_verb_answers_as_from_a_folder(here, capsys, layout):
    estimate("kn", layout=layout)
    estimate("kn.lm", layout=layout)
    assert Path("kn.lm").is_file()
    verbs = [
        ("eval", "{}", "--on", "asked.txt"),
        ("score", "{}", "asked.txt", "--json"),
        ("generate", "{}", "--seed", "3", "--max-tokens", "9"),
        ("eval", "{}", "--mix", "kn:0.5", "--on", "asked.txt"),
        ("ngram", "stats", "{}", "--json"),
        ("info", "{}"),
    ]
    if layout == "fast":
        verbs += [
            ("ngram", "prune", "{}", "--ngrams", "200", "-o", "small-{}"),
            ("ngram", "stats", "small-{}", "--json"),
            ("ngram", "arpa", "{}", "{}.arpa"),
            ("ngram", "binary", "{}", "{}.bin"),
        ]
    for verb in verbs:
        said = [answer(capsys, *(word.format(run) for word in verb)) for run in ("kn", "kn.lm")]
        if verb[0] not in ("info",):
            assert said[0].replace("kn.lm", "kn").split() == said[1].replace("kn.lm", "kn").split(), verb
    if layout == "fast":
        assert Path("small-kn.lm").is_file()
        for made in ("{}.arpa", "{}.bin"):
            assert Path(made.format("kn")).read_bytes() == Path(made.format("kn.lm")).read_bytes()


def test_kenlms_module_takes_it_and_its_path_is_copied(here):
    """What pyctcdecode does to keep a model: it copies `Model.path`."""
    estimate("kn")
    estimate("kn.lm")
    model = kenlm.Model("kn.lm")
    shutil.copy2(model.path, "copy.lm")
    told = [list(kenlm.Model(name).full_scores(ASKED)) for name in ("kn", "kn.lm", "copy.lm")]
    assert told[0] == told[1] == told[2] == list(pickle.loads(pickle.dumps(model)).full_scores(ASKED))  # noqa: S301


def test_the_same_model_is_the_same_bytes_and_unzip_makes_the_folder(here):
    lm = estimate("kn")
    lm.save("a.lm")
    lmlab.load("a.lm").save("b.lm")
    lmlab.load("b.lm").save("again")
    zipfile.ZipFile("a.lm").extractall("unzipped")
    for name in (path.name for path in Path("kn").iterdir()):
        content = Path("kn", name).read_bytes()
        assert content == Path("unzipped", name).read_bytes() == Path("again", name).read_bytes(), name
    assert Path("a.lm").read_bytes() == Path("b.lm").read_bytes()
    assert bits(lmlab.load("unzipped")) == bits(lm)
    assert {where.start % 64 for where in packed.members(Path("a.lm")).values()} == {0}
    assert sorted(path.name for path in here.iterdir() if path.name.startswith(".")) == []


def test_it_is_mapped_not_read(here):
    model = lmlab.load(estimate("kn.lm").folder).model
    array = model.trie.levels[1].key_G
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert isinstance(array, np.memmap)
    assert Path(array.filename) == Path("kn.lm").resolve()


def test_training_an_ngram_and_repeating_it_as_a_recipe(here, capsys):
    answer(capsys, "train", "text.txt", "--tokenizer", "word", "--model", "ngram", "-o", "tr.lm")
    assert "nats" in answer(capsys, "eval", "tr.lm")
    answer(capsys, "train", "--recipe", "tr.lm", "-o", "again")
    assert bits(lmlab.load("again")) == bits(lmlab.load("tr.lm"))


def test_it_is_replaced_only_when_asked(here):
    lm = estimate("kn.lm")
    with pytest.raises(RunExistsError):
        estimate("kn.lm")
    assert estimate("kn.lm", overwrite=True).folder == lm.folder
    Path("mine.lm").write_text("a diary")
    with pytest.raises(UsageError, match="more than runs"):
        estimate("mine.lm", overwrite=True)
    Path("moved").write_bytes(Path("kn.lm").read_bytes())  # the name asks for a folder where a file stands
    with pytest.raises(UsageError, match="more than runs"):
        estimate("moved", overwrite=True)
    assert bits(lmlab.load("moved")) == bits(lm)


def test_networks_are_kept_in_folders_and_told_so_before_training(here):
    with pytest.raises(UsageError, match=r"x\.lm would be one file, but a model of kind lstm is kept in a folder"):
        lmlab.train("text.txt", model="lstm", out="x.lm", reporter=Silent())
    assert not Path("x.lm").exists()


def test_a_full_disk_leaves_what_was_there(here):
    """A limit on the size of files stands for a full disk: the old model stays, and nothing beside it."""
    estimate("kn.lm")
    before = Path("kn.lm").read_bytes()
    code = (
        "import resource, signal, lmlab; lm = lmlab.load('kn.lm'); signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) - 200},) * 2); lm.save('kn.lm', overwrite=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StorageError: kn.lm cannot be written" in done.stderr
    assert Path("kn.lm").read_bytes() == before
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


# -- damage


def refused(path, sound):
    """A line that says so; or the sound answer, where what is damaged says nothing."""
    try:
        lm = store.load(path)
    except LmlabError as error:
        return str(path) in str(error) and "\n" not in str(error)
    assert np.array_equal(lm.model.logp_array(IDS), sound)
    return False


def test_whatever_is_damaged_is_refused_or_does_not_matter(here):
    lm = estimate("kn.lm")
    sound, content = lm.model.logp_array(IDS), Path("kn.lm").read_bytes()
    chance, bad = random.Random(1), Path("bad.lm")
    directory = content.rindex(b"PK\1\2") - 1500  # where what zipfile reads begins, or shortly before its end
    places = [*range(120), *range(directory, len(content), 3), *(chance.randrange(len(content)) for _ in range(100))]
    found = []
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        bad.write_bytes(damaged)
        found.append(refused(bad, sound))
    assert 0.3 < sum(found) / len(found) < 1
    for length in [*range(64), *(chance.randrange(len(content)) for _ in range(40)), len(content) - 1]:
        bad.write_bytes(content[:length])
        assert refused(bad, sound), length
    for length in (1, 70):
        bad.write_bytes(content + b"\0" * length)
        refused(bad, sound)
    for _ in range(60):  # a piece gone, doubled, or of another file
        start, stop = sorted(chance.sample(range(len(content)), 2))
        middle = chance.choice([b"", content[start:stop] * 2, chance.randbytes(min(stop - start, 5000))])
        bad.write_bytes(content[:start] + middle + content[stop:])
        refused(bad, sound)


def zipped(path, method=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


FOREIGN = {
    "a text": lambda path: path.write_text("PK it is not"),
    "a magic alone": lambda path: path.write_bytes(b"PK\3\4"),
    "empty": lambda path: path.write_bytes(b""),
    "a spreadsheet": lambda path: zipped(path, sheet="1,2"),
    "packed": lambda path: zipped(path, zipfile.ZIP_DEFLATED, **{"manifest.json": "{}" * 999}),
    "no manifest": lambda path: packed.pack(made(path, **{"config.json": "{}"}), path),
    "a manifest of lists": lambda path: packed.pack(made(path, **{"manifest.json": "[]"}), path),
    "a hollow manifest": lambda path: packed.pack(made(path, **{"manifest.json": "{}"}), path),
    "a size beyond the file": lambda path: grown(path),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def made(path, **files):
    folder = path.with_name("made")
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def grown(path):
    zipped(path, **{"manifest.json": "{}"})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2")
    content[at + 20 : at + 28] = struct.pack("<LL", 1 << 30, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("verb", ["eval", "info", "ngram stats", "serve", "ngram prune"])
def test_foreign_files_are_told_in_one_line(here, capsys, what, verb):
    FOREIGN[what](Path("odd.lm"))
    more = {"eval": ["--on", "asked.txt"], "ngram prune": ["--ngrams", "9", "-o", "out.lm"]}.get(verb, [])
    assert main([*verb.split(), "odd.lm", *more]) in (1, 2)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "odd.lm" in said[0]
    assert "did not foresee" not in said[0]


def test_a_forged_file_under_a_sound_zip_is_refused(here):
    """Sums of the manifest, not the zip's, tell whether the arrays are as they were written."""
    estimate("kn")
    array = bytearray(Path("kn/key_2.npy").read_bytes())
    array[-3] ^= 1
    Path("kn/key_2.npy").write_bytes(array)
    packed.pack(Path("kn"), Path("kn.lm"))
    with pytest.raises(ArtifactError, match=r"kn\.lm/key_2\.npy is damaged"):
        store.load(Path("kn.lm"))
