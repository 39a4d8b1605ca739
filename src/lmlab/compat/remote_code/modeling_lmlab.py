"""An lmlab model for Hugging Face's transformers, by itself: this file and torch are all that it needs.

    AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True).generate(...)

`lmlab export RUN --to hf` copies it beside the weights. `generate()` keeps a state of each text, which beams reorder,
so that a token takes the same time wherever it stands. Ids 0 to 3 are [PAD], [UNK], <bos> and <eos>; a text begins with
<bos>, which, like [PAD], is never predicted.

Shapes: B texts, T positions, S positions with those kept, H features, A heads, F features of a head, L layers, V the
vocabulary.
"""

import itertools

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

_NEVER = (0, 2)  # [PAD] and <bos>
_CACHE = next(name for name in ("cache", "past_key_values") if name in CausalLMOutputWithPast.__dataclass_fields__)


class LmlabConfig(PretrainedConfig):
    """The kind of model, the settings that it was trained with, and what its logits are divided by: a calibration."""

    model_type = "lmlab"

    def __init__(self, kind="lstm", settings=None, calibration_temperature=1.0, **more):
        """Keep them."""
        self.kind, self.settings, self.calibration_temperature = kind, dict(settings or {}), calibration_temperature
        super().__init__(**more)


class LmlabState:
    """What a model keeps of the texts that it has read; `generate()` takes it for a cache of keys and values."""

    is_compileable = is_croppable = False

    def __init__(self):
        """Of nothing."""
        self.tensors, self.length = None, 0

    def get_seq_length(self, layer_idx=0):
        """How many tokens are read, padding included."""
        return self.length

    def reorder_cache(self, beam_idx):
        """Keep these rows, in this order."""
        self.tensors = [tensor.index_select(0, beam_idx.to(tensor.device)) for tensor in self.tensors]


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

    def forward(self, ids_BT, missing_B, state):
        """Features at each position, and the state: of each text h_LH, of an LSTM also c_LH."""
        if self.embedding is None:
            inputs_BTE = F.one_hot(ids_BT, self.vocab_size).to(self.recurrent.weight_ih_l0.dtype)
        else:
            inputs_BTE = self.embedding(ids_BT)
        if state is None:
            hidden_BTH, after = self._begun(inputs_BTE, missing_B)
        else:
            before = [part_BLH.transpose(0, 1).contiguous() for part_BLH in state]
            hidden_BTH, after = self.recurrent(inputs_BTE, before[0] if len(before) == 1 else tuple(before))
        parts = after if isinstance(after, tuple) else [after]
        return self.narrow(hidden_BTH), [part_LBH.transpose(0, 1) for part_LBH in parts]

    def _begun(self, inputs_BTE, missing_B):
        """Texts from their start: rows are turned so that their padding stands at the end, unread, and turned back."""
        length = inputs_BTE.shape[1]
        at_T = torch.arange(length, device=inputs_BTE.device)
        turned_BTE = _gathered(inputs_BTE, (at_T + missing_B[:, None]) % length)
        read_B = (length - missing_B).clamp(min=1).cpu()
        packed = pack_padded_sequence(turned_BTE, read_B, batch_first=True, enforce_sorted=False)
        hidden, after = self.recurrent(packed)
        hidden_BTH, _ = pad_packed_sequence(hidden, batch_first=True, total_length=length)
        return _gathered(hidden_BTH, (at_T - missing_B[:, None]) % length), after


def _gathered(x_BTH, place_BT):
    """Each text's positions, in another order."""
    return x_BTH.gather(1, place_BT[..., None].expand(-1, -1, x_BTH.shape[2]))


class _Convolutions(nn.Module):
    """Embedding, causal convolutions; a text is padded once, in front."""

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

    def forward(self, ids_BT, missing_B, state):
        """Features at each position, and the state: the last ids that a filter reaches."""
        read_BT = ids_BT.masked_fill(torch.arange(ids_BT.shape[1], device=ids_BT.device) < missing_B[:, None], 0)
        read_BS = F.pad(read_BT, (self.before, 0)) if state is None else torch.cat([state[0], read_BT], 1)
        hidden_BC1T = self.embedding(read_BS).transpose(1, 2).unsqueeze(2)
        for convolution in self.convolutions:
            new_BC1T = convolution(hidden_BC1T)
            new_BC1T = F.glu(new_BC1T, 1) if self.gated else F.relu(new_BC1T)
            if self.residual and hidden_BC1T.shape[1] == new_BC1T.shape[1]:
                new_BC1T = new_BC1T + hidden_BC1T[..., hidden_BC1T.shape[3] - new_BC1T.shape[3] :]
            hidden_BC1T = new_BC1T
        return hidden_BC1T.squeeze(2).transpose(1, 2), [read_BS[:, read_BS.shape[1] - self.before :]]


class _Transformer(nn.Module):
    """Embedding, blocks of attention within a window, a last norm."""

    tied = False

    def __init__(self, kind, settings, vocab_size):
        super().__init__()
        self.width, self.window = settings["width"], settings["window"]
        self.embedding = nn.Embedding(vocab_size, self.width)
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings["layers"]))
        self.norm = nn.RMSNorm(self.width)

    def forward(self, ids_BT, missing_B, state):
        """Features at each position, and the state: keys and values of each block, and how many are padding."""
        *caches, missing_B = state or [None] * (2 * len(self.blocks)) + [missing_B]
        length, past = ids_BT.shape[1], 0 if caches[0] is None else caches[0].shape[2]
        key_S = torch.arange(past + length, device=ids_BT.device)
        distance_TS = key_S[past:, None] - key_S
        known_B1S = (key_S >= missing_B[:, None])[:, None]
        seen_B1TS = ((distance_TS == 0) | (distance_TS > 0) & (distance_TS < self.window) & known_B1S)[:, None]
        hidden_BTH, kept = self.embedding(ids_BT), []
        dropped = max(0, past + length - (self.window - 1))
        for block, *cache in zip(self.blocks, caches[::2], caches[1::2], strict=True):
            hidden_BTH, *parts = block(hidden_BTH, seen_B1TS, *cache)
            kept += [part_BASF[:, :, dropped:] for part_BASF in parts]
        return self.norm(hidden_BTH), [*kept, (missing_B - dropped).clamp(min=0)]


class _Block(nn.Module):
    """Normalised queries and keys, rotary positions, sliding window; then a squared rectifier."""

    def __init__(self, settings):
        super().__init__()
        width = settings["width"]
        self.heads = settings["heads"]
        self.norm_attention, self.norm_feed = nn.RMSNorm(width), nn.RMSNorm(width)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden_BTH, seen_B1TS, keys=None, values=None):
        """The block's output, and all keys, unrotated, and values; those kept come first."""
        batch, length, width = hidden_BTH.shape
        projected = self.project(self.norm_attention(hidden_BTH)).view(batch, length, 3, self.heads, -1)
        q_BATF, k_BASF, v_BASF = projected.permute(2, 0, 3, 1, 4)
        if keys is not None:
            k_BASF, v_BASF = torch.cat([keys, k_BASF], 2), torch.cat([values, v_BASF], 2)
        rotated = _rotated(q_BATF, k_BASF.shape[2] - length), _rotated(k_BASF, 0)
        seen_BATF = F.scaled_dot_product_attention(*rotated, v_BASF, attn_mask=seen_B1TS)
        hidden_BTH = hidden_BTH + self.attended(seen_BATF.transpose(1, 2).reshape(batch, length, width))
        return hidden_BTH + self.narrow(F.relu(self.widen(self.norm_feed(hidden_BTH))).square()), k_BASF, v_BASF


def _rotated(x_BATF, first):
    """Normalised, then rotated by positions from `first` on."""
    x_BATF = F.rms_norm(x_BATF, x_BATF.shape[-1:])
    half = x_BATF.shape[3] // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=x_BATF.device) / half)
    angle = torch.arange(first, first + x_BATF.shape[2], device=x_BATF.device)[:, None] * frequency
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
    _is_stateful = True  # a state cannot be taken back to an earlier token

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

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **more):
        """The tokens that are not read yet."""
        state = more.get(_CACHE)
        kept = {name: more[name] for name in ("use_cache", "logits_to_keep") if name in more}
        read = 0 if state is None else state.length
        return {"input_ids": input_ids[:, read:], "attention_mask": attention_mask, _CACHE: state, **kept}

    def forward(self, input_ids, attention_mask=None, labels=None, use_cache=False, logits_to_keep=0, **more):
        """Logits of the token after each position; padding may stand on the left of what is read first."""
        given = more.get(_CACHE)
        state = LmlabState() if given is None else given
        missing_B = torch.zeros(len(input_ids), dtype=torch.long, device=input_ids.device)
        if attention_mask is not None and not state.length:
            missing_B = attention_mask[:, -input_ids.shape[1] :].long().cumsum(1).eq(0).sum(1)
        features_BTH, after = self.body(input_ids, missing_B, state.tensors)
        features_BTH = features_BTH[:, -logits_to_keep:]
        logits = _without(self.output(features_BTH, self.config.calibration_temperature, self.body.embedding))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        if given is None and not use_cache:
            return CausalLMOutputWithPast(loss=loss, logits=logits)
        state.tensors, state.length = after, state.length + input_ids.shape[1]
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{_CACHE: state})
