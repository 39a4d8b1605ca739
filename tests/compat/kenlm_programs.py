"""Programs that import kenlm, as they are; run with a kenlm on the path, prints what comes out of one of them as JSON.

python kenlm_programs.py NAME MODEL PIECES FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np

TEXTS = [
    "The dog of the house sat down.",
    "In 1984 “the cat”\nwas there…",
    "x",
    "A zebra, über alles; déjà vu!",
    "the of and to a in that is was he for it with as his on be at by",
]


def cc_net(model, pieces, folder):
    """cc_net/perplexity.py: DocLM and MultiSentencePiece, call by call."""
    import kenlm
    import sentencepiece

    config = kenlm.Config()
    config.load_method = 2
    lm = kenlm.Model(model, config)
    processor = sentencepiece.SentencePieceProcessor()
    processor.load(pieces)
    lines = [" ".join(processor.encode_as_pieces(text)) for text in TEXTS]
    return [(lm.score(line), len(line.split()) + 1) for line in lines]


def datatrove(model, pieces, folder):
    """Statistics in two workers, which a forkserver starts."""
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.stats import CCNetPerplexityStats

    texts = [[Document(text=text, id=f"{rank}-{at}") for at, text in enumerate(TEXTS[rank::2])] for rank in range(2)]
    perplexities = CCNetPerplexityStats(f"{folder}/out", "local", "en", groups_to_compute=["summary"])
    perplexities.model = LocalModel(model, pieces)

    def source(data, rank: int = 0, world_size: int = 1):
        yield from texts[rank]

    executor = LocalPipelineExecutor(
        [source, perplexities], tasks=2, workers=2, logging_dir=f"{folder}/logs", start_method="forkserver"
    )
    executor.run()
    told = [json.loads(path.read_text()) for path in sorted(Path(folder, "out").rglob("*.json"))]
    return [told, [LocalModel(model, pieces).get_perplexity(text) for text in TEXTS]]


def pyctcdecode(model, pieces, folder):
    """Beams of random frames, before and after the decoder was saved, which copies the model's file."""
    from pyctcdecode import BeamSearchDecoderCTC, build_ctcdecoder

    labels = [" ", *"abcdefghijklmnopqrstuvwxyz'", ""]
    words = ["the", "of", "and", "dog", "cat", "a", "to", "in", "sat", "house"]
    decoder = build_ctcdecoder(labels, model, unigrams=words)
    frames_TV = np.random.default_rng(0).normal(size=(40, len(labels))).astype(np.float32) * 3
    target = Path(folder, "decoder")
    target.mkdir()
    decoder.save_to_dir(str(target))
    again = BeamSearchDecoderCTC.load_from_dir(str(target))
    return [[(beam[0], beam[-2], beam[-1]) for beam in d.decode_beams(frames_TV)[:20]] for d in (decoder, again)]


def data_juicer(model, pieces, folder):
    """The operator that filters by perplexity, which takes its models from the folder it runs in."""
    import os

    from data_juicer.ops.filter.perplexity_filter import PerplexityFilter
    from data_juicer.utils.constant import Fields

    os.chdir(folder)
    for path, name in ((model, "en.arpa.bin"), (pieces, "en.sp.model")):
        Path(name).symlink_to(path)
    wanted = PerplexityFilter(lang="en", max_ppl=300)
    told = wanted.compute_stats_batched({"text": TEXTS, Fields.stats: [{} for _ in TEXTS]})
    return [told[Fields.stats], list(wanted.process_batched(told))]


def monocleaner(model, pieces, folder):
    """A model of characters of order 7, made by the commands lmplz and build_binary, and scores of sentences."""
    import os

    from monocleaner.lm import LMFluencyFilter, LMType

    for command in ("lmplz", "build_binary"):
        Path(folder, command).write_text(f'#!/bin/sh\nexec {sys.executable} -m lmlab kenlm {command} "$@"\n')
        Path(folder, command).chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    clean, noisy, out = (Path(folder, name) for name in ("clean", "noisy", "model"))
    clean.write_text("\n".join(TEXTS) + "\n")
    noisy.write_text("\n".join(text[::-1] for text in TEXTS) + "\n")
    cleaner = LMFluencyFilter(LMType.CHARACTER, "en", None)
    stats = cleaner.train(str(clean), str(clean), str(noisy), str(out))
    cleaner.load(str(out), stats)
    return [vars(stats), [cleaner.raw_score(text) for text in TEXTS], [cleaner.score(text[::2]) for text in TEXTS]]


if __name__ == "__main__":
    from kenlm_programs import LocalModel  # by its module, where workers find it

    name, *paths = sys.argv[1:]
    print(json.dumps(globals()[name](*paths), default=float))
else:
    try:
        from datatrove.utils.perplexity import KenlmModel, SentencePiece
    except ImportError:
        KenlmModel = SentencePiece = object

    class LocalPieces(SentencePiece):
        """The pieces of a file, where datatrove takes those of a hub."""

        def __init__(self, path):
            super().__init__("local", "en")
            self.path = path

        @property
        def model(self):
            import sentencepiece

            self._model = self._model or sentencepiece.SentencePieceProcessor(model_file=self.path)
            return self._model

    class LocalModel(KenlmModel):
        """The model of a file."""

        def __init__(self, path, pieces):
            super().__init__("local", "en")
            self.path, self.pieces = path, pieces

        @property
        def model(self):
            import kenlm

            self._model = self._model or kenlm.Model(self.path)
            return self._model

        @property
        def tokenizer(self):
            self._tokenizer = self._tokenizer or LocalPieces(self.pieces)
            return self._tokenizer

        def __getstate__(self):
            return vars(self) | {"_model": None, "_tokenizer": None}
