"""What only a process of its own shows: what is imported, signals, closed pipes, exit codes."""

import functools
import json
import os
import signal
import subprocess
import sys

import pytest

from lmlab.cli import main

LMLAB = [sys.executable, "-m", "lmlab.cli"]


def python(code, *words, cwd=None):
    """As from a terminal, where nothing ignores hangups, however these tests were started."""
    signal_as_usual = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, preexec_fn=signal_as_usual)


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from lmlab.cli import main; main(['--help'])\n"
        "print([name for name in ('torch', 'numpy', 'rich', 'matplotlib', 'tokenizers') if name in sys.modules])"
    )
    done = python(code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_an_ngram_is_trained_and_measured_without_torch(here):
    code = (
        "import sys; from lmlab.cli import main\n"
        "assert main(['train', 'poem.txt', '--model', 'ngram', '-o', 'runs/n', '--quiet']) == 0\n"
        "assert main(['eval', 'runs/n', '--on', 'held-out.txt', '--json']) == 0\n"
        "assert main(['info', 'runs/n']) == 0\n"
        "print('torch' in sys.modules)"
    )
    done = python(code, cwd=here)
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr


def test_a_cold_megabyte_loads_nothing_it_does_not_need(here):
    code = (
        "import sys; from lmlab.cli import main\n"
        "assert main(['ngram', 'estimate', 'poem.txt', '-o', 'runs/cold', '--quiet']) == 0\n"
        "print([name for name in ('torch', 'numba', 'tokenizers', 'rich', 'shutil') if name in sys.modules])"
    )
    done = python(code, cwd=here)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_training_does_not_load_torchs_compiler(here):
    """It takes a second, a sixth of a short run's budget."""
    code = (
        "import sys; from lmlab.cli import main\n"
        "assert main(['train', 'poem.txt', '--steps', '2', '-o', 'runs/short', '--quiet']) == 0\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = python(code, cwd=here)
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr


def test_what_waits_for_the_end_of_the_process_is_done():
    code = "import atexit, sys; from lmlab.cli import main; atexit.register(print, 'done'); main()"
    done = python(code, "--version")
    assert (done.returncode, done.stdout.splitlines()[1:], done.stderr) == (0, ["done"], "")


def test_exit_codes_reach_the_shell(here):
    codes = [subprocess.run([*LMLAB, *words], capture_output=True, check=False).returncode
             for words in (["--version"], ["info", "nowhere"], ["nope"])]  # fmt: skip
    assert codes == [0, 1, 2]


def test_a_closed_pipe_is_told_in_one_line(here):
    process = subprocess.Popen([*LMLAB, "corpora"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert err == "lmlab: nobody reads the output any more (closed pipe)\n"


def test_a_full_device_is_told_in_one_line(here):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*LMLAB, "info", "runs/kn3"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("lmlab: the output is not usable (No space left on device)")
    assert done.stderr.count("\n") == 1


def test_what_is_no_text_can_still_be_printed(here):
    words = ["generate", "runs/kn3", "--prompt", b"the \xff", "--allow-unknown", "--max-tokens", "2"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([*LMLAB, *words], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"the \\udcff")


# Interrupts its own process from within the fourth step, so that no test has to wait for the moment.
INTERRUPTED = """
import os, signal, sys
from lmlab.cli import main
from lmlab.training import events

record = events.MetricsFile.__call__

def recorded(self, event):
    record(self, event)
    if isinstance(event, events.Stepped) and event.step == 4:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))

events.MetricsFile.__call__ = recorded
sys.exit(main())
"""


SHORT = ["--steps", "9", "--set", "model.hidden=16", "--set", "train.baseline=false", "--set", "train.evaluations=0",
         "--set", "train.threads=1"]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(here, capsys, monkeypatch, number):
    monkeypatch.setenv("SIGNAL", str(int(number)))
    run = f"runs/stopped-{number}"
    done = python(INTERRUPTED, "train", "poem.txt", "-o", run, *SHORT, "--quiet", cwd=here)
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr == f"lmlab: interrupted at step 4, all saved; go on with: lmlab train --resume {run}\n"
    assert json.loads((here / run / "manifest.json").read_text())["status"] == "interrupted"
    assert main(["train", "--resume", run, "--quiet", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert (results["steps"], results["signal"]) == (9, None)


def test_hangups_that_nohup_ignores_are_ignored(here, monkeypatch):
    monkeypatch.setenv("SIGNAL", str(int(signal.SIGHUP)))
    ignored = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + INTERRUPTED
    done = python(ignored, "train", "poem.txt", "-o", "runs/nohup", *SHORT, "--quiet", cwd=here)
    assert (done.returncode, done.stderr) == (0, "")


# Sends itself a signal as soon as a function is called.
SIGNALLED = """
import os, sys
from lmlab.cli import main
from {module} import {holder}

def struck(*words, **named):
    os.kill(os.getpid(), {number})

{holder}.{name} = struck
sys.exit(main())
"""
GENERATE = ["generate", "runs/kn3", "--prompt", "the", "--allow-unknown", "--stream"]
ESTIMATE = ["ngram", "estimate", "poem.txt", "-o", "runs/half", "--quiet"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("words", "module", "holder", "name"),
    [
        (GENERATE, "lmlab.facade.text_model", "TextModel", "stream"),
        (ESTIMATE, "lmlab", "store", "write_description"),
        (["train", "poem.txt", "-o", "runs/half", "--quiet"], "lmlab", "store", "write_description"),
    ],
)
def test_other_work_ends_with_a_line_and_nothing_half_written(here, words, module, holder, name, number):
    before = sorted(path.name for path in (here / "runs").iterdir())
    done = python(SIGNALLED.format(module=module, holder=holder, name=name, number=int(number)), *words, cwd=here)
    assert (done.returncode, done.stderr) == (128 + number, f"lmlab: ended by signal {int(number)}\n")
    assert sorted(path.name for path in (here / "runs").iterdir()) == before


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_work_is_kept_whatever_stream_is_closed(here, closed):
    """Nor does a file that is written take the number of a closed stream."""
    run = "runs/closed" + "".join(map(str, closed))
    close = " ".join(f"{number}>&-" for number in closed)
    words = " ".join([*LMLAB, "train", "poem.txt", "-o", run, *SHORT])
    done = subprocess.run(["sh", "-c", f"{words} {close}"], capture_output=True, text=True, cwd=here, check=False)
    assert done.returncode == (1 if 1 in closed else 0), done.stderr
    told = done.stderr.endswith("lmlab: nobody reads the output (it is closed)\n")
    assert told == (closed == (1,))
    assert "Traceback" not in done.stdout + done.stderr
    assert main(["info", run]) == 0


def test_work_is_kept_where_progress_is_read_no_more(here):
    words = [*LMLAB, "train", "poem.txt", "-o", "runs/unread", *SHORT]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=here)
    process.stderr.close()
    assert process.wait() == 0
    assert json.loads((here / "runs/unread/manifest.json").read_text())["status"] == "done"


@pytest.mark.parametrize("limit", ["-v 300000", "-v 700000", "-n 12", "-n 24"])
@pytest.mark.parametrize("words", [["score", "runs/lstm", "poem.txt"], ["train", "poem.txt", *SHORT, "-o", "new"]])
def test_little_memory_and_few_open_files(here, limit, words):
    """It works, or one line says what is short."""
    line = f"ulimit {limit} && exec {sys.executable} -m lmlab {' '.join(words)} --quiet"
    done = subprocess.run(["bash", "-c", line], cwd=here, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    if done.returncode:
        assert done.stderr.count("\n") == 1
        short = "out of memory: use a smaller" if "-v" in limit else "Too many open files): allow more open files"
        assert short in done.stderr


WITHOUT_TORCH = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Without())
"""


def test_ngrams_live_without_torch(here):
    code = WITHOUT_TORCH + (
        "import lmlab\n"
        "text = open('poem.txt').read()\n"
        "lm = lmlab.train(text=text, tokenizer='char', model='ngram', order=4)\n"
        "estimated = lmlab.estimate('poem.txt', order=3, out='runs/words')\n"
        "for lm in (lm, estimated, lmlab.load('runs/words')):\n"
        "    assert len(lm.score('to be').columns['cumulative_bits']) > 2\n"
        "    assert lm.surprisal('to be') > 0\n"
        "    assert lm.next_tokens('', k=3)\n"
        "    for strategy in ('greedy', 'sample', 'beam', 'stochastic_beam', 'mbr', 'exact', 'lookup'):\n"
        "        n = 1 if strategy in ('greedy', 'exact', 'lookup') else 2\n"
        "        assert lm.generate('', strategy, n=n, max_tokens=6)[0].end\n"
        "    assert lm.generate('', max_tokens=600)\n"
        "    assert list(lm.filter('held-out.txt', by='perplexity', at_most=1e9))\n"
        "from lmlab.cli import main\n"
        "for verb in ('ngram query runs/words held-out.txt', 'ngram stats runs/words',"
        "'ngram arpa runs/words words.arpa', 'generate runs/words', 'score runs/words held-out.txt',"
        "'eval runs/words --on held-out.txt',"
        "'filter runs/words held-out.txt', 'info runs/words', 'info'):\n"
        "    assert main(verb.split()) == 0, verb\n"
    )
    done = python(code, cwd=here)
    assert done.returncode == 0, done.stderr


def test_a_stored_network_writes_and_scores_without_torch(here):
    code = WITHOUT_TORCH + (
        "import lmlab\n"
        "lm = lmlab.load('runs/lstm')\n"
        "assert lm.score('to be').columns['cumulative_bits'][-1] > 0\n"
        "assert lm.next_tokens('to', k=3)\n"
        "for strategy in ('greedy', 'sample', 'beam', 'stochastic_beam', 'mbr', 'exact', 'lookup'):\n"
        "    assert lm.generate('to', strategy, max_tokens=6)[0].end\n"
        "assert len(lm.generate('to', n=40, max_tokens=3)) == 40\n"
        "assert lm.generate('to', 'sample', max_tokens=5000, stop='qqqq')\n"
    )
    done = python(code, cwd=here)
    assert done.returncode == 0, done.stderr


def test_what_needs_torch_says_how_to_get_it(here):
    verbs = [
        "train poem.txt -o runs/new",
        "eval runs/lstm --on held-out.txt",
        "generate runs/lstm --strategy contrastive",
        "generate runs/lstm --mix runs/lstm",
        "generate runs/lstm --adapt dynamic",
        "filter runs/lstm held-out.txt",
        "compare poem.txt --models ngram,lstm --minutes 0.1 -o runs/compared",
        "inspect gates runs/lstm",
        "export runs/lstm --to hf -o runs/exported",
        "demo",
    ]
    code = WITHOUT_TORCH + "from lmlab.cli import main\nfor verb in sys.argv[1:]:\n    main(verb.split())\n"
    done = python(code, *verbs, cwd=here)
    told = done.stderr.splitlines()
    assert len(told) == len(verbs), done.stderr
    assert all(line.endswith("needs torch, which is not installed: pip install torch") for line in told), done.stderr
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["kn3", "lstm"]
