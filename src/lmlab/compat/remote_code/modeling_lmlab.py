"""An lmlab model for Hugging Face's transformers, by itself: this file and torch are all that it needs.

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True).generate(...)

`lmlab export RUN --to hf` copies it beside the weights. Texts are read whole for every token, so generating takes time
by the square of the length; `lmlab generate` keeps a state. Ids 0 to 3 are [PAD], [UNK], <bos> and <eos>; a text begins
with <bos>, which, like [PAD], is never predicted.

Shapes: B texts, T positions, H features, A heads, F features of a head, V the vocabulary.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

_NEVER = (0, 2)  # [PAD] and <bos>


class LmlabConfig(PretrainedConfig):
    """The kind of model, the settings that it was trained with, and what its logits are divided by: a calibration."""

    model_type = "lmlab"

    def __init__(self, kind="lstm", settings=None, calibration_temperature=1.0, **more):
        """Keep them."""
        self.kind, self.settings, self.calibration_temperature = kind, dict(settings or {}), calibration_temperature
        super().__init__(**more)


class _Recurrent(nn.Module):
    """Embedding, tanh layers, LSTM or GRU."""

    def __init__(self, kind, settings, vocab_size):
        super().__init__()
        width = vocab_size if settings["input"] == "one-hot" else settings["embedding"]
        self.embedding = None if settings["input"] == "one-hot" else nn.Embedding(vocab_size, width)
        layers = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.recurrent = layers(width, settings["hidden"], settings["layers"], batch_first=True)
        tied = settings["input"] == "tied"
        self.narrow = nn.Linear(settings["hidden"], width) if tied else nn.Identity()
        self.vocab_size, self.width, self.tied = vocab_size, settings["hidden"], tied

    def forward(self, ids_BT):
        """Features at each position."""
        if self.embedding is None:
            inputs_BTE = F.one_hot(ids_BT, self.vocab_size).to(self.recurrent.weight_ih_l0.dtype)
        else:
            inputs_BTE = self.embedding(ids_BT)
        return self.narrow(self.recurrent(inputs_BTE)[0])


class _Convolutions(nn.Module):
    """Embedding, causal convolutions; the text is padded once, in front."""

    tied = False

    def __init__(self, kind, settings, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, settings["embedding"])
        widths = [settings["embedding"]] + [settings["channels"]] * settings["layers"]
        self.gated, self.residual = settings["gated"], settings["residual"]
        gaps = [settings["dilation"] ** layer for layer in range(settings["layers"])]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, (1 + self.gated) * after, (1, settings["kernel"]), dilation=(1, gap))
            for gap, (before, after) in zip(gaps, itertools.pairwise(widths), strict=True)
        )
        self.before, self.width = (settings["kernel"] - 1) * sum(gaps), settings["channels"]

    def forward(self, ids_BT):
        """Features at each position."""
        hidden_BC1T = self.embedding(F.pad(ids_BT, (self.before, 0))).transpose(1, 2).unsqueeze(2)
        for convolution in self.convolutions:
            new_BC1T = convolution(hidden_BC1T)
            new_BC1T = F.glu(new_BC1T, 1) if self.gated else F.relu(new_BC1T)
            if self.residual and hidden_BC1T.shape[1] == new_BC1T.shape[1]:
                new_BC1T = new_BC1T + hidden_BC1T[..., hidden_BC1T.shape[3] - new_BC1T.shape[3] :]
            hidden_BC1T = new_BC1T
        return hidden_BC1T.squeeze(2).transpose(1, 2)


class _Transformer(nn.Module):
    """Embedding, blocks of attention within a window, a last norm."""

    tied = False

    def __init__(self, kind, settings, vocab_size):
        super().__init__()
        self.width = settings["width"]
        self.embedding = nn.Embedding(vocab_size, self.width)
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings["layers"]))
        self.norm = nn.RMSNorm(self.width)

    def forward(self, ids_BT):
        """Features at each position."""
        hidden_BTH = self.embedding(ids_BT)
        for block in self.blocks:
            hidden_BTH = block(hidden_BTH)
        return self.norm(hidden_BTH)


class _Block(nn.Module):
    """Normalised queries and keys, rotary positions, sliding window; then a squared rectifier."""

    def __init__(self, settings):
        super().__init__()
        width = settings["width"]
        self.heads, self.window = settings["heads"], settings["window"]
        self.norm_attention, self.norm_feed = nn.RMSNorm(width), nn.RMSNorm(width)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden_BTH):
        """The block's output."""
        batch, length, width = hidden_BTH.shape
        projected = self.project(self.norm_attention(hidden_BTH)).view(batch, length, 3, self.heads, -1)
        q_BATF, k_BATF, v_BATF = projected.permute(2, 0, 3, 1, 4)
        q_BATF, k_BATF = (_rotated(F.rms_norm(x, x.shape[-1:])) for x in (q_BATF, k_BATF))
        at_T = torch.arange(length, device=hidden_BTH.device)
        distance_TT = at_T[:, None] - at_T
        seen_TT = (distance_TT >= 0) & (distance_TT < self.window)
        seen_BATF = F.scaled_dot_product_attention(q_BATF, k_BATF, v_BATF, attn_mask=seen_TT)
        hidden_BTH = hidden_BTH + self.attended(seen_BATF.transpose(1, 2).reshape(batch, length, width))
        return hidden_BTH + self.narrow(F.relu(self.widen(self.norm_feed(hidden_BTH))).square())


def _rotated(x_BATF):
    half = x_BATF.shape[3] // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=x_BATF.device) / half)
    angle = torch.arange(x_BATF.shape[2], device=x_BATF.device)[:, None] * frequency
    cos, sin = angle.cos().to(x_BATF.dtype), angle.sin().to(x_BATF.dtype)
    a, b = x_BATF.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class _Full(nn.Module):
    """One matrix over the vocabulary, the embedding's where it is tied."""

    def __init__(self, width, vocab_size, tied):
        super().__init__()
        self.weight = None if tied else nn.Parameter(torch.zeros(vocab_size, width))
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, features_BTH, temperature, embedding):
        """Logits."""
        weight_VH = embedding.weight if self.weight is None else self.weight
        return F.linear(features_BTH / temperature, weight_VH, self.bias / temperature)


class _Cluster(nn.Module):
    """Fewer features, then the tokens of a cluster."""

    def __init__(self, features, narrow, size):
        super().__init__()
        self.narrow = nn.Linear(features, narrow, bias=False) if narrow < features else nn.Identity()
        self.last = nn.Linear(min(narrow, features), size)


class _Adaptive(nn.Module):
    """Frequent tokens at once, rare ones in two steps: their cluster, then the token."""

    def __init__(self, width, vocab_size, tied):
        super().__init__()
        cuts = sorted(
            cut for cut in {max(4, vocab_size // 8), max(4, vocab_size // 2), vocab_size} if cut <= vocab_size
        )
        sizes = [end - start for start, end in itertools.pairwise(cuts)]
        self.first, self.head = cuts[0], nn.Linear(width, cuts[0] + len(sizes))
        self.clusters = nn.ModuleList(_Cluster(width, max(64, width // 4**k), size) for k, size in enumerate(sizes, 1))

    def forward(self, features_BTH, temperature, embedding):
        """Logits, which are log-probabilities already."""
        logits = F.linear(features_BTH / temperature, self.head.weight, self.head.bias / temperature)
        head = _without(logits).log_softmax(-1)
        parts = [head[..., : self.first]]
        for k, cluster in enumerate(self.clusters, self.first):
            narrow, last = cluster.narrow(features_BTH) / temperature, cluster.last
            parts.append(head[..., k, None] + F.linear(narrow, last.weight, last.bias / temperature).log_softmax(-1))
        return torch.cat(parts, -1)


def _without(logits):
    """Logits in which [PAD] and <bos> are never predicted."""
    return logits.index_fill(-1, torch.tensor(_NEVER, device=logits.device), -torch.inf)


_KINDS = {"rnn": _Recurrent, "lstm": _Recurrent, "gru": _Recurrent, "cnn": _Convolutions, "transformer": _Transformer}


class LmlabForCausalLM(PreTrainedModel, GenerationMixin):
    """A model of lmlab that predicts the next token."""

    config_class = LmlabConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        """Make the layers; their weights are loaded."""
        super().__init__(config)
        self.body = _KINDS[config.kind](config.kind, config.settings, config.vocab_size)
        output = _Adaptive if config.settings["softmax"] == "adaptive" else _Full
        width = config.settings["embedding"] if self.body.tied else self.body.width
        self.output = output(width, config.vocab_size, self.body.tied)
        self.post_init()

    def _init_weights(self, module):
        """Nothing: all weights are loaded."""

    def get_input_embeddings(self):
        """The embedding; None where tokens enter one-hot."""
        return self.body.embedding

    def forward(self, input_ids, attention_mask=None, labels=None, logits_to_keep=0, **ignored):
        """Logits of the token after each position; padding may stand on the left.

        Rows are turned so that their padding stands on the right, where it changes nothing, and turned back.
        """
        length = input_ids.shape[1]
        turn_B1 = torch.zeros(len(input_ids), 1, dtype=torch.long, device=input_ids.device)
        if attention_mask is not None:
            turn_B1 = attention_mask[:, -length:].long().cumsum(1).eq(0).sum(1, keepdim=True)
        at_T = torch.arange(length, device=input_ids.device)
        features_BTH = self.body(input_ids.gather(1, (at_T + turn_B1) % length))
        back_BT1 = ((at_T - turn_B1) % length)[..., None]
        features_BTH = features_BTH.gather(1, back_BT1.expand(-1, -1, features_BTH.shape[2]))[:, -logits_to_keep:]
        logits = _without(self.output(features_BTH, self.config.calibration_temperature, self.body.embedding))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits)
