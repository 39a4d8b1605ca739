"""Write a trained network for others: a folder of Hugging Face's transformers, or a step function in ONNX.

hf: AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True) loads it, tokenizer included.
onnx: step.onnx maps a token and a state to log-probabilities and the state after.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lmlab.cli.parser import Parser
from lmlab.cli.show import print_json

EXAMPLES = """\
  lmlab export runs/lstm --to hf -o models/lstm
  lmlab export runs/lstm --to onnx -o models/lstm-onnx"""


def add_arguments(parser: Parser) -> None:
    """The verb's arguments."""
    parser.add_argument("run_folder", metavar="RUN", help="a model directory")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="hf or onnx")
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="a new folder")


def run(options: argparse.Namespace) -> int:
    """Write, and say what lies there."""
    from lmlab.compat.export import export
    from lmlab.facade.text_model import TextModel

    folder = Path(options.out)
    export(TextModel.load(options.run_folder), options.to, folder)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print_json({"folder": str(folder), "files": files}) if options.json else print(f"{folder}: {', '.join(files)}")
    return 0
