"""Programs from the registry that import kenlm give with our module what they give with KenLM's own."""

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmlab.compat import kenlm
from lmlab.models.ngram import listing
from lmlab.models.ngram.kenlm_write import write_trie

HERE = Path(__file__).parent
GOLDEN, MODULE = HERE.parent / "golden", HERE.parents[1] / "packages" / "kenlm-module"
PROGRAMS = {"cc_net": "sentencepiece"} | {
    name: name for name in ("datatrove", "pyctcdecode", "data_juicer", "monocleaner")
}


def theirs() -> Path:
    """The folder of KenLM's own module, which is compiled."""
    found = importlib.util.find_spec("kenlm")
    if found is None or not (found.origin or "").endswith(".so"):
        pytest.skip("KenLM's own module is not installed")
    return Path(found.origin)


def run(name: str, first: Path, arguments: list[str], folder: Path) -> object:
    folder.mkdir()
    path = os.pathsep.join([str(first), str(HERE), *filter(None, sys.path)])
    command = [sys.executable, str(HERE / "kenlm_programs.py"), name, *arguments, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    if "KENLM_MAX_ORDER" in done.stderr:
        pytest.skip("KenLM's own module was built for lower orders: MAX_ORDER=10 pip install kenlm")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    library = pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    prefix = tmp_path_factory.mktemp("pieces") / "en.sp"
    text = str(GOLDEN / "text.txt")
    library.SentencePieceTrainer.train(input=text, model_prefix=str(prefix), vocab_size=200, minloglevel=2)
    return prefix.with_name("en.sp.model")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_what_it_gives_with_kenlm(name, pieces, tmp_path):
    pytest.importorskip(PROGRAMS[name], reason=f"{PROGRAMS[name]} is not installed")
    real = tmp_path / "real"
    real.mkdir()
    (real / theirs().name).symlink_to(theirs())
    arpa, model = tmp_path / "en.arpa", tmp_path / "en.arpa.bin"
    arpa.write_bytes(gzip.decompress((GOLDEN / "words_o5.arpa.gz").read_bytes()))
    write_trie(model, listing.read(arpa), (8, 8), 22)
    asked = [str(model), str(pieces)]
    assert run(name, MODULE, asked, tmp_path / "ours") == run(name, real, asked, tmp_path / "theirs")


def test_the_module_is_the_interface():
    code = (
        "import kenlm, lmlab.compat.kenlm as ours; print(all(vars(kenlm)[n] is vars(ours)[n] for n in kenlm.__all__))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(MODULE), *filter(None, sys.path)])}
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout == "True\n"


def test_a_models_file_is_copied_as_a_file_is(tmp_path):
    """What pyctcdecode does with `Model.path` when it is saved."""
    (tmp_path / "a.bin").write_bytes(
        gzip.decompress((GOLDEN / "binary" / "words_o3_prune012.trie.bin.gz").read_bytes())
    )
    model = kenlm.Model(str(tmp_path / "a.bin"))
    shutil.copy2(model.path, tmp_path / "b.bin")
    assert kenlm.Model(tmp_path / "b.bin").score("the dog") == model.score("the dog")
