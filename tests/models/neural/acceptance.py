"""What every trained architecture is held to; shared by the tests of each.

Shapes: B sequences, T positions, V the vocabulary, H features.
"""

import torch

from lmlab import registry
from lmlab.vocabulary import BOS, EOS, IGNORE, PAD

V = 12
SMALL = {
    "cnn": {"embedding": 5, "channels": 8, "layers": 3, "kernel": 3},
    "rnn": {"embedding": 5, "hidden": 9, "layers": 2},
    "lstm": {"embedding": 5, "hidden": 9, "layers": 2},
    "gru": {"embedding": 5, "hidden": 9, "layers": 2},
    "transformer": {"width": 16, "layers": 2, "heads": 2, "window": 5},
}


def make(kind, vocab=V, **settings):
    """A small model in evaluation mode, its weights large lest a fault drown in rows nearly uniform."""
    architecture = registry.resolve("model", kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = architecture(architecture.Settings(**{**SMALL[kind], **settings}), vocab).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2)
    return model


def text(rows=3, length=17, seed=0, vocab=V):
    """Random ordinary tokens, ids_BT."""
    return torch.randint(4, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def gap(one, other):
    """The largest difference, equal infinities being none."""
    return torch.where(one == other, 0.0, (one - other).abs()).max().item()


def documents(model_texts, width=None):
    """ids_BT and targets_BT of texts read after <bos> to their first <eos>, padded on the right, as `Lines` does."""
    width = width or max(map(len, model_texts)) + 1
    ids_BT = torch.full((len(model_texts), width), PAD)
    targets_BT = torch.full((len(model_texts), width), IGNORE)
    for row, tokens in enumerate(model_texts):
        ids_BT[row, : len(tokens) + 1] = torch.tensor([BOS, *tokens])
        targets_BT[row, : len(tokens) + 1] = torch.tensor([*tokens, EOS])
    return ids_BT, targets_BT


@torch.no_grad()
def in_pieces(model, ids_BT, sizes):
    """The logits of a text read piece by piece, the state carried."""
    state, parts = None, []
    for piece_BT in ids_BT.split(sizes, 1):
        logits_BTV, state = model(piece_BT, state)
        parts.append(logits_BTV)
    return torch.cat(parts, 1), state
