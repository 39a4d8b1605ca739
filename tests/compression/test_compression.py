import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lmlab
from lmlab.cli import main
from lmlab.compression import Packing, container, pack, unpack
from lmlab.errors import ArtifactError, LmlabError, SettingError, UsageError
from lmlab.kernels import engine
from lmlab.kernels.cm import coding
from tests.compression import generated
from tests.texts import QUICK, some_text

TEXT = some_text(100)
GOLDEN = bytes.fromhex(
    "896c6d7a010c0000007b226c696e6573223a31357d178c04d78e0200007a0000008738ff9e009e31681d93479ad28aecc2d8af56e09a00"
    "42e2074645f12e803bdb53d82aad0d17841dd8efb9c59563b34c1d609c0f3f33712d82c817c3a4938505f5416bcc6158b1a0640616d2e4"
    "cf03d656a8e9d8bd753bf6b6e368a6c58ddce5845dc7e0c8f279742ecf4ab72dd76662e0f2afa2aa5722e053bc494b5fc4000000000000"
    "000000000000a9edad9a52c0f1faee22609f9e1f949b34a7f18145ba39b7e6312abab7bb555f"
)


def small(data, **options):
    return lmlab.compress(data, memory="1M", **options)


def test_files_of_every_kind_come_back():
    for number, data in enumerate(generated.files(60)):
        packed = small(data)
        assert lmlab.decompress(packed) == data, number
        assert len(packed) <= len(data) + 110, "what cannot be made smaller is kept as it is"


@pytest.mark.slow
def test_ten_thousand_files_come_back_in_another_process():
    assert generated.campaign(10_000) == 10_000


@pytest.mark.slow
def test_a_hundred_megabytes_come_back_in_bounded_memory(tmp_path):
    import resource

    source, packed, back = (tmp_path / name for name in ("a", "a.lmz", "b"))
    text = some_text(2000).encode()
    with source.open("wb") as file:
        for number in range(100_000_000 // len(text) + 1):
            file.write(text if number % 50 else os.urandom(len(text)))
    assert main(["compress", str(source), "--quiet"]) == 0
    assert main(["decompress", str(packed), "-o", str(back), "--quiet"]) == 0
    assert source.stat().st_size == back.stat().st_size > 100_000_000
    assert subprocess.run(["cmp", source, back], check=False).returncode == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1_000_000  # KB


def test_what_an_earlier_lmlab_wrote_is_read():
    assert lmlab.decompress(GOLDEN) == some_text(60)[:600].encode()


def test_the_size_is_what_the_model_says():
    data, out = some_text(1500).encode(), io.BytesIO()
    told = pack(io.BytesIO(data), out, Packing("16M"))
    assert told["bytes"] == len(data)
    assert told["packed_bytes"] == len(out.getvalue())
    tree = 150  # bytes, at most
    assert (
        0 <= told["packed_bytes"] - told["header_bytes"] - told["model_bits"] / 8 < 0.001 * told["packed_bytes"] + tree
    )
    assert told["packed_bytes"] < 0.2 * len(data)


def test_compiled_loops_are_the_plain_ones():
    data = np.frombuffer(b"to be or not to be: To be\n" * 2, np.uint8)
    found = []
    for compiled in (True, False):
        with engine.only(compiled):
            model, packed_C = coding.fresh([8] * 256, 1 << 10), np.zeros(99, np.uint8)
            size = coding.coder(len(data))(data[:30].copy(), packed_C, False, model)
            again, back_N = coding.fresh([8] * 256, 1 << 10), np.zeros(30, np.uint8)
            coding.coder(len(data))(back_N, packed_C[:size].copy(), True, again)
            assert back_N.tobytes() == data[:30].tobytes()
            found.append((size, packed_C, *model))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_tables_do_not_hang_on_the_last_bit_of_exp_and_log():
    """Every library rounds them to the same integers."""
    exact = 65536 / (1 + np.exp(-np.arange(-2047, 2048) / 256))
    logs = 256 * np.log((np.arange(4096) + 0.5) / (4095.5 - np.arange(4096)))
    for numbers, table in ((exact, coding.SQUASH), (logs.clip(-2047, 2047), coding.STRETCH)):
        assert np.abs(np.abs(numbers % 1) - 0.5).min() > 1e-6
        np.testing.assert_array_equal(np.round(numbers), table)


def test_damage_is_told_in_one_line_and_nothing_is_left(tmp_path):
    data = some_text(40).encode() + os.urandom(50)
    packed = small(data)
    path, out = tmp_path / "a.lmz", tmp_path / "a"
    rng = np.random.default_rng(0)
    damaged = [packed[:cut] for cut in (0, 3, 5, 8, 20, len(packed) // 2, len(packed) - 1)] + [packed + b"x", b"GIF89a"]
    for at in rng.choice(len(packed), 40, replace=False):
        damaged.append(packed[:at] + bytes([packed[at] ^ 1 << rng.integers(8)]) + packed[at + 1 :])
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(LmlabError) as told:
            lmlab.decompress(path)
        assert "\n" not in str(told.value)
        assert main(["decompress", str(path)]) in (1, 2)
        assert os.listdir(tmp_path) == ["a.lmz"]
    assert not out.exists()


def test_another_version_is_refused():
    packed = small(b"to be")
    with pytest.raises(ArtifactError, match="of format 9, and this lmlab reads format 1"):
        lmlab.decompress(packed[:4] + b"\x09" + packed[5:])


def test_hostile_headers_are_refused():
    for header in ({"lines": 60}, {"lines": 12, "block": 1 << 40}, {"lines": "12"}, [], {"model": 3}):
        told = json.dumps(header).encode()
        number = container._NUMBER
        file = b"\x89lmz\x01" + number.pack(len(told)) + told + number.pack(container.zlib.crc32(told)) + bytes(44)
        with pytest.raises(LmlabError, match=r"damaged|model"):
            lmlab.decompress(file)


@pytest.mark.parametrize("said", [5, None, "here", ["here"]])
def test_a_forged_machine_is_told_in_a_line(said):
    lm = lmlab.train(text=TEXT, tokenizer="char", model="ngram", order=2, baseline=False)
    packed, number = lmlab.compress(b"the cat", model=lm), container._NUMBER
    (size,) = number.unpack(packed[5:9])
    told = json.dumps(json.loads(packed[9 : 9 + size]) | {"made_by": said}).encode()
    pieces = bytearray(packed[9 + size + number.size :])
    pieces[8] ^= 1  # the sum of the first piece
    forged = packed[:5] + number.pack(len(told)) + told + number.pack(container.zlib.crc32(told)) + bytes(pieces)
    with pytest.raises(ArtifactError, match="damaged"):
        lmlab.decompress(forged, model=lm)


def test_blocks_side_by_side_are_those_one_after_the_other():
    data = some_text(400).encode()
    one, two = (small(data, block="4K", jobs=jobs) for jobs in (1, 3))
    assert one == two
    assert len(one) > len(small(data))
    assert lmlab.decompress(one, jobs=3) == data


def test_options_that_cannot_be():
    for options, message in (
        ({"jobs": 2}, "give --block"),
        ({"jobs": 0}, "jobs is 0"),
        ({"block": "7"}, "block is 7"),
        ({"memory": "1"}, "memory is '1'"),
        ({"adapt": "online"}, "model is None"),
    ):
        with pytest.raises(UsageError, match=message):
            lmlab.compress(b"abc", **options)
    with pytest.raises(SettingError, match="the source is 3"):
        lmlab.compress(3)


def test_the_command_line(tmp_path, capsys):
    source = tmp_path / "a.txt"
    source.write_bytes(TEXT.encode())
    assert main(["compress", str(source), "--json", "--memory", "1M"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["packed_bytes"] == (tmp_path / "a.txt.lmz").stat().st_size
    source.write_text("another")
    assert main(["decompress", str(source) + ".lmz"]) == 2
    assert source.read_text() == "another", "what is there is not lost"
    assert main(["decompress", str(source) + ".lmz", "--overwrite"]) == 0
    assert source.read_bytes() == TEXT.encode()
    assert main(["compress", str(source), str(source), "-o", "x"]) == 2
    assert main(["compress", str(tmp_path / "none")]) == 1
    assert main(["compress", str(tmp_path)]) == 1
    assert main(["decompress", str(source)]) == 2
    capsys.readouterr()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file that opens and cannot be read")
def test_what_cannot_be_read_is_told_by_its_own_name(tmp_path, capsys):
    assert main(["compress", "/proc/self/mem", "-o", str(tmp_path / "a.lmz")]) == 1
    assert "/proc/self/mem cannot be read (Input/output error)" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_standard_streams():
    data, command = TEXT.encode(), [sys.executable, "-m", "lmlab.cli"]
    packed = subprocess.run([*command, "compress", "-", "--memory", "1M"], input=data, capture_output=True, check=True)
    back = subprocess.run([*command, "decompress", "-"], input=packed.stdout, capture_output=True, check=True)
    assert back.stdout == data
    assert not packed.stderr


# -- by a model of one's own ------------------------------------------------------------------------------------------

LEARNT = {
    "ngram": {"model": "ngram", "order": 3},
    "words": {"model": "ngram", "order": 2, "tokenizer": "word"},
    "bpe": {"model": "ngram", "order": 2, "tokenizer": "bpe", "vocab_size": 300},
    "cm": {"model": "cm", "memory": "16M"},
    "lstm": {"model": "lstm", "hidden": 16, "embedding": 8, "tokenizer": "byte", **QUICK, "steps": 60},
    "cnn": {"model": "cnn", "tokenizer": "char", **QUICK},
    "transformer": {"model": "transformer", "tokenizer": "char", **QUICK},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    pytest.importorskip("constriction", reason="the extra compress is not installed")
    folder = tmp_path_factory.mktemp("runs")
    for name, options in LEARNT.items():
        lmlab.train(text=TEXT, seed=0, **options).save(folder / name)
    return folder


@pytest.mark.parametrize("name", LEARNT)
def test_any_model_compresses_any_file(runs, name):
    run = runs / name
    for data in (
        TEXT[:500].encode(),
        b"",
        "Ω <bos> [UNK]\tTHE  cat\r\n".encode(),
        bytes(range(256)),
        b"the cat\xff\xfe saw",
    ):
        packed = lmlab.compress(data, model=run)
        assert lmlab.decompress(packed, model=run) == data


@pytest.mark.parametrize(("name", "adapt"), [("cm", "online"), ("lstm", "dynamic:rule=sgd,lr=0.5,decay=0.001")])
def test_adaptive_models_learn_from_what_they_code(runs, name, adapt):
    data = b"nobody said such a thing before. " * 12
    packed = lmlab.compress(data, model=runs / name, adapt=adapt)
    assert lmlab.decompress(packed, model=runs / name, adapt=adapt) == data
    assert len(packed) < len(lmlab.compress(data, model=runs / name))


def test_a_mixture_compresses(runs):
    data, options = TEXT[:300].encode(), {"model": runs / "ngram", "mix": [f"{runs / 'cnn'}:0.3"]}
    packed = lmlab.compress(data, **options)
    assert lmlab.decompress(packed, **options) == data
    with pytest.raises(ArtifactError, match="composed otherwise"):
        lmlab.decompress(packed, model=runs / "ngram")


@pytest.mark.parametrize("name", ["ngram", "words", "lstm"])
def test_the_size_is_the_reported_bits(runs, name):
    lm, text = lmlab.load(runs / name), TEXT[:3000] + "Zyx!"
    out = io.BytesIO()
    told = pack(io.BytesIO(text.encode()), out, None, lm)
    bits = float(lm.score(text).columns["cumulative_bits"][-2])  # without `<eos>`
    assert told["model_bits"] == pytest.approx(bits, rel=1e-3)
    assert told["packed_bytes"] - told["header_bytes"] == pytest.approx(bits / 8, rel=1e-3, abs=8)


def test_the_model_must_be_the_same(runs):
    packed = lmlab.compress(TEXT.encode(), model=runs / "ngram")
    with pytest.raises(UsageError, match="name its directory with --model"):
        lmlab.decompress(packed)
    with pytest.raises(ArtifactError, match="another model"):
        lmlab.decompress(packed, model=runs / "words")
    with pytest.raises(UsageError, match="leave out --model"):
        lmlab.decompress(small(b"abc"), model=runs / "ngram")
    with pytest.raises(UsageError, match="no blocks"):
        lmlab.compress(b"abc", model=runs / "ngram", block="1M")


def test_another_machine_is_named_where_its_numbers_differ(runs, monkeypatch):
    lm = lmlab.load(runs / "ngram")
    packed = bytearray(lmlab.compress(TEXT.encode(), model=lm))
    packed[-200] ^= 1
    monkeypatch.setattr(container, "_machine", lambda: {"processor": "another"})
    with pytest.raises(ArtifactError, match=r"was compressed with .*processor .* \(here another\)"):
        lmlab.decompress(bytes(packed), model=lm)


def test_without_constriction_the_install_line(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(UsageError, match=r"pip install 'lmlab\[compress\]'"):
        lmlab.compress(b"abc", model=Path(runs / "ngram"))


def test_a_stream_is_read_piece_by_piece():
    data, out, back = some_text(100).encode() * 3, io.BytesIO(), io.BytesIO()
    seen = []
    pack(io.BytesIO(data), out, Packing("1M", block="4K"), None, seen.append)
    unpack(io.BytesIO(out.getvalue()), back)
    assert back.getvalue() == data
    assert seen == [*range(4096, len(data), 4096), len(data)]
