"""What is answered: from a served model and a request to what JSON can hold, equal to what the library gives.

Log-probabilities are the model's own, in nats, before any processor. JSON has no infinity: a token that the model holds
impossible has `IMPOSSIBLE`, and `<bos>`, which no model predicts, null.

Shapes: N ids of a text, V the vocabulary.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from lmlab.corpora.document import Document
from lmlab.decoding import Beam, Branch, Node, Rows, StopText, Strategy, Tree, decode_all, strategy_of
from lmlab.decoding.search import Limits, best_of
from lmlab.decoding.search import Next as Following
from lmlab.errors import SettingError, UsageError
from lmlab.facade.generation import certain_until
from lmlab.facade.surprisal import in_hand
from lmlab.models.scorers import account_of, beside, documents, rows_of, scorer_of, top_of
from lmlab.server import asking
from lmlab.server.house import Served, own_files
from lmlab.tokens.id_store import TokenStore
from lmlab.tokens.stream import TextStream
from lmlab.vocabulary import BOS, EOS, PAD, SPECIALS, UNK

IMPOSSIBLE = -9999.0
_REASONS = {"eos": "stop", "stop": "stop", "length": "length", "time": "length"}
_ALTERNATIVES = 64  # tokens that may be told for each of the longest prompt's
_LOOK_BACK = 8  # tokens of the prompt that decide how the first new ones are spelled


Top = Sequence[tuple[int, float]]
"""The likeliest tokens of a place, and their log-probabilities."""


class Tokens(NamedTuple):
    """Tokens of a text in columns.

    Attributes:
        ids: of each.
        begins: where it begins in the text that is told.
        logps: its log-probability as JSON can hold it.
        tops: the likeliest in its place.
    """

    ids: list[int]
    begins: list[int]
    logps: list[float | None]
    tops: list[Top]

    def and_then(self, other: Tokens) -> Tokens:
        """These and those after them."""
        columns: Iterator[Any] = zip(self, other, strict=True)
        return Tokens(*(one + more for one, more in columns))

    def split(self, count: int) -> tuple[Tokens, Tokens]:
        """The first of them, and the rest."""
        columns: Sequence[Any] = self
        return Tokens(*(column[:count] for column in columns)), Tokens(*(column[count:] for column in columns))


NO_TOKENS = Tokens([], [], [], [])


class Piece(NamedTuple):
    """What a text gained."""

    number: int
    text: str
    tokens: Tokens
    finish: str | None = None


class Usage(NamedTuple):
    """How many tokens were read and written."""

    read: int
    written: int

    def told(self) -> dict[str, int]:
        """As OpenAI tells it."""
        return {
            "prompt_tokens": self.read,
            "completion_tokens": self.written,
            "total_tokens": self.read + self.written,
        }


# -- what is asked ----------------------------------------------------------------------------------------------------


def ids_of(served: Served, prompt: str | Sequence[int], *, allow_unknown: bool = False) -> list[int]:
    """The ids of a prompt after `<bos>`, which ids may begin with.

    Raises:
        UsageError: characters that the vocabulary lacks, ids outside it, or more than may be asked for.
    """
    if isinstance(prompt, str):
        if len(prompt) > served.bounds.prompt * 64:
            problem = f"the prompt has {len(prompt)} characters, but may have {served.bounds.prompt} tokens"
            raise UsageError(problem, "cut it")
        ids = served.lm.ids(prompt, allow_unknown)
    else:
        ids = list(prompt[1:] if prompt[:1] == [BOS] else prompt)
        for id in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= id < served.lm.model.vocab_size:
                raise SettingError("prompt", id, f"ids of the vocabulary, 0 to {served.lm.model.vocab_size - 1}")
        if PAD in ids or BOS in ids:
            raise SettingError("prompt", [PAD, BOS], "without [PAD] and <bos>, but for a <bos> at its beginning")
    if len(ids) > served.bounds.prompt:
        raise UsageError(f"the prompt has {len(ids)} tokens, but may have {served.bounds.prompt}", "cut it")
    return ids


def strategy(served: Served, asked: asking.Decoded, draft: Served | None = None, **settings: Any) -> Strategy:
    """The strategy of a request, with its processors.

    Raises:
        UsageError: no such strategy or setting, or a value outside its bound.
    """
    from lmlab.decoding import STRATEGIES

    kind = STRATEGIES.get(asked.strategy.partition(":")[0].strip())
    named = {name: value for name, value in settings.items() if value is not None}
    named = {name: value for name, value in named.items() if kind is None or name in kind.__dataclass_fields__}
    objects = {"must": asked.must, "draft": None if draft is None else draft.lm.model}
    named |= {name: value for name, value in objects.items() if value is not None}
    made = strategy_of(asked.strategy, *_biases(served, asked), asked.chain, **{**asked.named(), **named})
    return made.in_ids(lambda text: served.lm.ids(text, allow_unknown=False))


def _biases(served: Served, asked: asking.Decoded) -> Iterator[Any]:
    """A processor for each bias that is asked for."""
    from lmlab.decoding.processors import logit_bias

    by_bias: dict[float, list[int]] = {}
    for id, bias in (asked.logit_bias or {}).items():
        if not id.isascii() or not id.isdigit() or len(id) > 12 or int(id) >= served.lm.model.vocab_size:
            raise SettingError("logit_bias", id, f"an id of the vocabulary, 0 to {served.lm.model.vocab_size - 1}")
        by_bias.setdefault(bias, []).append(int(id))
    return (logit_bias(tuple(ids), bias) for bias, ids in by_bias.items())


def _rows(served: Served, made: Strategy, prompts: int, n: int) -> int:
    """How many texts a request grows at once.

    Raises:
        SettingError: more than one may.
    """
    wide = max(n, getattr(made, "width", 1), getattr(made, "samples", 1)) * prompts
    if wide > served.bounds.rows:
        remedy = "ask for fewer prompts, results or beams"
        raise SettingError("prompts times n, best_of or width", wide, f"{served.bounds.rows} at most", remedy)
    return wide


# -- completions ------------------------------------------------------------------------------------------------------


class Text:
    """A result as it grows: of its text and tokens, what is certain is told once.

    Args:
        served: whose tokenizer spells it.
        index: its number among the results.
        before: the prompt.
        stop: strings that end it.
        offset: of its beginning in the text that is told; None where no tokens are told.
    """

    def __init__(
        self, served: Served, index: int, before: Sequence[int], stop: Sequence[str], offset: int | None
    ) -> None:
        self.index, self.done = index, False
        self._stop, self._offset = stop, offset
        self._stream = TextStream(served.lm.tokenizer)
        for id in before[-_LOOK_BACK:]:
            self._stream.push(id)
        self._said, self._shown, self._read = "", 0, 0
        self._held = Tokens([], [], [], [])

    def grow(self, branch: Branch, *, ended: bool) -> Piece:
        """What it gained up to a branch."""
        newer = _newer(branch, self._read)
        if self._offset is None:
            self._said += "".join([self._stream.push(node.token) for node in newer])
        else:
            self._take(newer, self._offset)
        self._read, self.done = branch.length, ended
        if ended:
            self._said += self._stream.flush()
        before, self._shown = self._shown, max(self._shown, certain_until(self._said, self._stop, ended=ended))
        finish = _REASONS[branch.end or "length"] if ended else None
        return Piece(self.index, self._said[before : self._shown], self._told(branch, ended=ended), finish)

    def _take(self, newer: Sequence[Branch], offset: int) -> None:
        ids, begins, logps, tops = self._held
        for node in newer:
            ids.append(node.token)
            begins.append(offset + len(self._said))
            logps.append(told(node.logp))
            tops.append([(each.token, each.logp) for each in node.alternatives])
            self._said += self._stream.push(node.token)

    def _told(self, branch: Branch, *, ended: bool) -> Tokens:
        """The tokens that begin in what is shown; those of a whole text are all told."""
        end = math.inf if ended and branch.end != "stop" else (self._offset or 0) + self._shown
        told, self._held = self._held.split(bisect_left(self._held.begins, end))
        return told


def _ended(steps: Iterator[list[Any]]) -> Iterator[list[Any] | None]:
    """The last step of each prompt, in the end; None before."""
    last: dict[int, Any] = {}
    with closing(steps):  # type: ignore[type-var]
        for several in steps:
            last.update((at, step) for at, step in enumerate(several) if step is not None)
            yield None
    yield [last[at] for at in sorted(last)]


def _newer(branch: Branch, length: int) -> list[Branch]:
    """The branches of a path after so many tokens."""
    nodes: list[Branch] = []
    while branch.length > length and branch.parent is not None:
        nodes.append(branch)
        branch = branch.parent
    return nodes[::-1]


async def generated(
    served: Served,
    asked: asking.Generated,
    prompts: Sequence[Sequence[int]],
    draft: Served | None,
    *,
    max_tokens: int,
    alternatives: int | None,
    drawn: int,
    offsets: Sequence[int],
) -> AsyncGenerator[Piece | Usage]:
    """New text after each prompt, piece by piece, and in the end how much was read and written."""
    made, stop = strategy(served, asked, draft, seed=asked.seed), asked.stops()
    rows = _rows(served, made, len(prompts), drawn)
    if max_tokens > served.bounds.tokens:
        raise SettingError("max_tokens", max_tokens, f"an integer <= {served.bounds.tokens}")
    options: dict[str, Any] = {
        "n": drawn,
        "max_tokens": max_tokens,
        "max_seconds": served.bounds.seconds,
        "stop": StopText(served.lm.tokenizer.decode, stop) if stop else None,
        "forbidden": () if asked.allow_unknown else (UNK,),
        "alternatives": alternatives or 0,
    }
    texts: dict[tuple[int, int], Text] = {}
    read, written = sum(map(len, prompts)), 0

    language = asked.language()

    def begin() -> Iterator[Any]:
        grammar = None if language is None else served.grammar(language)
        steps = decode_all(served.lm.model, prompts, made, **options, grammar=grammar, batch=served.worker.batch)
        return steps if asked.stream and not made.revises and drawn == asked.n else _ended(steps)

    async with aclosing(served.worker.turns(begin, rows)) as turns:
        async for rounds in turns:
            newest = {at: step for steps in rounds for at, step in enumerate(steps) if step is not None}
            for at, step in newest.items():
                results = list(step.best)
                if step.done:
                    written += sum(branch.length for branch in results)
                if drawn > asked.n:
                    results = sorted(results, key=lambda branch: -branch.total / max(branch.length, 1))[: asked.n]
                for number, branch in enumerate(results):
                    place = at, number
                    if place not in texts:
                        offset = None if alternatives is None else offsets[at]
                        texts[place] = Text(served, at * asked.n + number, prompts[at], stop, offset)
                    elif texts[place].done:
                        continue
                    yield texts[place].grow(branch, ended=step.done or branch.end is not None)
    yield Usage(read, written)


async def completions(
    served: Served, asked: asking.Completions, draft: Served | None = None
) -> AsyncGenerator[Piece | Usage]:
    """The pieces of `/v1/completions`: the prompts where they are to be told, then what follows them."""
    if asked.best_of is not None and asked.best_of < asked.n:
        raise SettingError("best_of", asked.best_of, f"an integer >= n, which is {asked.n}")
    if asked.stream and asked.best_of not in (None, asked.n):
        raise UsageError("best_of cannot be streamed", "leave out stream, or best_of")
    if asked.logprobs is not None and asked.logprobs > served.lm.model.vocab_size:
        raise SettingError("logprobs", asked.logprobs, f"an integer <= {served.lm.model.vocab_size}, the vocabulary")
    given = several(asked.prompt)
    prompts = [ids_of(served, prompt, allow_unknown=asked.allow_unknown) for prompt in given]
    tops, max_tokens = asked.logprobs, 16 if asked.max_tokens is None else asked.max_tokens
    offsets = [0] * len(prompts)
    if asked.echo:
        found = [] if tops is None else await read(served, prompts, tops)
        for at, (prompt, ids) in enumerate(zip(given, prompts, strict=True)):
            text, begins = _spelled(served, prompt, ids)
            tokens = Tokens(ids, begins, *found[at]) if found else NO_TOKENS
            if not isinstance(prompt, str) and [*prompt[:1]] == [BOS]:
                tokens = Tokens([BOS], [0], [None], [()]).and_then(tokens)
            offsets[at] = len(text)
            for number in range(asked.n):
                yield Piece(at * asked.n + number, text, tokens, None if max_tokens else "length")
    if max_tokens == 0:
        for index in range(0 if asked.echo else len(prompts) * asked.n):
            yield Piece(index, "", NO_TOKENS, "length")
        yield Usage(sum(map(len, prompts)), 0)
        return
    drawn = max(asked.n, asked.best_of or 1)
    wanted: dict[str, Any] = {"max_tokens": max_tokens, "alternatives": tops, "drawn": drawn, "offsets": offsets}
    async with aclosing(generated(served, asked, prompts, draft, **wanted)) as pieces:
        async for piece in pieces:
            yield piece


def several(prompt: str | list[str] | list[int] | list[list[int]]) -> list[Any]:
    """The prompts of a request, one by one."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return list(prompt)
    return [prompt]


def _spelled(served: Served, prompt: str | Sequence[int], ids: Sequence[int]) -> tuple[str, list[int]]:
    """A prompt as it is told: its text, and where its tokens begin."""
    if isinstance(prompt, str):
        return prompt, served.lm.tokenizer.locate(Document(prompt)).start_N.tolist()
    stream = TextStream(served.lm.tokenizer)
    texts = list(map(stream.push, ids))
    return "".join(texts) + stream.flush(), list(accumulate(map(len, texts[:-1]), initial=0)) if texts else []


async def read(served: Served, texts: Sequence[Sequence[int]], top: int) -> list[tuple[list[float | None], list[Top]]]:
    """What the model says of every token of some texts: the log-probabilities of each text, and the likeliest tokens.

    Raises:
        SettingError: more is asked for than may be held.
    """
    read, most = sum(map(len, texts)), served.bounds.prompt * _ALTERNATIVES
    if read * top > most:
        remedy = "ask for fewer alternatives, or a shorter text"
        raise SettingError("the tokens times logprobs", read * top, f"{most} at most", remedy)
    begun = [np.array([BOS, *ids], np.uint32) for ids in texts if ids]
    model, logps, tops = served.lm.model, list[float | None](), list[Top]()

    def pieces() -> Iterator[None]:
        ids_N = np.concatenate(begun)
        if not top:
            for logp_N in scorer_of(model).token_logp(ids_N):
                logps.extend(_listed(logp_N))
                yield None
            return
        for wanted_N, rows_NV in beside(documents(ids_N), rows_of(model, ids_N)):
            logps.extend(_listed(np.take_along_axis(rows_NV, wanted_N[:, None].astype(np.int64), -1)[:, 0]))
            ids_NK, logp_NK = top_of(rows_NV, top)
            best = [tuple(zip(*each, strict=True)) for each in zip(ids_NK.tolist(), logp_NK.tolist(), strict=True)]
            if np.isneginf(logp_NK).any():
                best = [tuple(pair for pair in each if pair[1] > -math.inf) for each in best]
            tops.extend(best)
            yield None

    if begun:
        await served.worker.last(pieces)
    ends = [0, *accumulate(map(len, texts))]
    return [(logps[begin:end], tops[begin:end] or [()] * (end - begin)) for begin, end in pairwise(ends)]


def _listed(logp_N: np.ndarray) -> list[Any]:
    """Log-probabilities as JSON can hold them."""
    return np.where(np.isneginf(logp_N), IMPOSSIBLE, logp_N).tolist()  # type: ignore[no-any-return]


def logprobs(served: Served, tokens: Tokens, top: int) -> dict[str, Any]:
    """Tokens in the form of OpenAI's completions; without rivals, `top_logprobs` is null."""
    names = served.names
    spelled = [names[id] for id in tokens.ids]
    tops: list[Any] | None = None
    if top:
        each = zip(spelled, tokens.logps, tokens.tops, strict=True)
        tops = [None if logp is None else {name: logp, **{names[id]: p for id, p in top}} for name, logp, top in each]
    return {"tokens": spelled, "token_logprobs": tokens.logps, "top_logprobs": tops, "text_offset": tokens.begins}


def told(logp: float | None) -> float | None:
    """A log-probability as JSON can hold it."""
    return IMPOSSIBLE if logp == -math.inf else logp


def finite(value: float) -> float | None:
    """A figure as JSON can hold it."""
    return value if math.isfinite(value) else None


# -- chat -------------------------------------------------------------------------------------------------------------


async def chat(served: Served, asked: asking.Chat, draft: Served | None = None) -> AsyncGenerator[Piece | Usage]:
    """The pieces of `/v1/chat/completions`."""
    alternatives = (asked.top_logprobs or 0) if asked.logprobs else None
    if alternatives is not None and alternatives > served.lm.model.vocab_size:
        raise SettingError("top_logprobs", alternatives, f"an integer <= {served.lm.model.vocab_size}, the vocabulary")
    turns = [(message.role, message.content) for message in asked.messages]
    laid_out = served.lm.tokenizer.chat_ids(turns)
    ids = ids_of(served, transcript(turns) if laid_out is None else laid_out, allow_unknown=True)
    if laid_out is None:
        asked = asked.model_copy(update={"stop": [*asked.stops(), *(f"\n{role}: " for role, _ in turns)]})
    max_tokens = asked.max_completion_tokens or asked.max_tokens or 256
    wanted: dict[str, Any] = {"max_tokens": max_tokens, "alternatives": alternatives, "drawn": asked.n}
    async with aclosing(generated(served, asked, [ids], draft, **wanted, offsets=[0])) as pieces:
        async for piece in pieces:
            yield piece


def transcript(turns: Sequence[tuple[str, str]]) -> str:
    r"""A conversation as plain text, for models without a template of their own.

    >>> transcript([("user", "Who is there?")])
    'user: Who is there?\nassistant:'
    """
    return "".join(f"{role}: {content}\n" for role, content in turns) + "assistant:"


def chat_logprobs(served: Served, tokens: Tokens) -> dict[str, Any]:
    """Tokens in the form of OpenAI's chat completions."""

    def one(id: int, logp: float | None) -> dict[str, Any]:
        spelled = list(served.lm.tokenizer.surface(id, None))
        return {"token": served.names[id], "logprob": logp, "bytes": spelled}

    each = zip(tokens.ids, tokens.logps, tokens.tops, strict=True)
    return {"content": [one(id, logp) | {"top_logprobs": [one(*rival) for rival in top]} for id, logp, top in each]}


# -- next, score, beam ------------------------------------------------------------------------------------------------


async def following(served: Served, asked: asking.Next) -> dict[str, Any]:
    """The answer of `/next`."""
    made = strategy(served, asked, seed=asked.seed)
    ids = ids_of(served, asked.prompt, allow_unknown=asked.allow_unknown)
    forbidden = () if asked.allow_unknown else (UNK,)

    def find() -> dict[str, Any]:
        logp_BV = served.positions.after(ids)
        rows = Rows([ids], [Branch.root()], served.lm.model.eos, made.seed or 0)
        after = Following(rows, logp_BV, made.processors, Limits(forbidden=forbidden))
        p_V, chain_V = np.exp(logp_BV[0]), np.exp(after.chain_BV[0])
        chain_V = chain_V / chain_V.sum()
        likeliest = best_of(logp_BV[0], asked.top).tolist()
        shown = [
            {"id": id, "text": served.names[id], "p": float(p_V[id]), "chain_p": float(chain_V[id])} for id in likeliest
        ]
        some_V = p_V > 0
        bits = float(-(p_V[some_V] * np.log2(p_V[some_V])).sum())
        return {"tokens": shown, "kept": int((chain_V > 0).sum()), "entropy_bits": bits}

    return dict(await served.worker.call(find))


async def scored(served: Served, asked: asking.Score) -> dict[str, Any]:
    """The answer of `/score`, its figures those of `TextModel.score`."""
    ids_of(served, asked.text, allow_unknown=True)
    if asked.alternatives > served.lm.model.vocab_size:
        bound = f"an integer <= {served.lm.model.vocab_size}, the vocabulary"
        raise SettingError("alternatives", asked.alternatives, bound)
    ids = TokenStore.from_documents(served.lm.tokenizer, in_hand(asked.text)[3]).ids[1:].tolist()
    scores = await served.worker.call(lambda: served.lm.score(asked.text))
    tokens: list[dict[str, Any]] = [
        {
            "id": id,
            "text": row["text"],
            "start": row["start"],
            "end": row["end"],
            "bits": finite(row["bits"]),
            "rank": row["rank"],
        }
        for id, row in zip(ids, scores.rows, strict=True)
    ]
    if asked.alternatives:
        ((_, tops),) = await read(served, [ids], asked.alternatives)
        for token, likeliest in zip(tokens, tops, strict=True):
            token["alternatives"] = [{"text": served.names[id], "p": math.exp(logp)} for id, logp in likeliest]
    account = await served.worker.call(lambda: account_of(served.lm.model, np.array([BOS, *ids], np.uint32)))
    for token, length in zip(tokens, account.get("matched", ()), strict=False):
        token["matched"] = int(length)
    for token, weights in zip(tokens, account.get("weights", ()), strict=False):
        token["weights"] = dict(zip(served.components, weights.tolist(), strict=True))
    total = scores.total
    return {
        "tokens": tokens,
        "bits": finite(total["total_nats"] / math.log(2)),
        **{name: finite(total[name]) for name in ("bits_per_byte", "bits_per_char", "perplexity")},
        "tokens_scored": total["tokens"],
    }


async def counted(served: Served, asked: asking.Ngrams) -> dict[str, Any]:
    """The answer of `/ngrams`, its figures those of `lm.plot.ngram`."""
    ids_of(served, asked.text, allow_unknown=True)
    in_hand(asked.text)  # so that an empty text is refused

    def counted() -> Any:
        with own_files():
            served.lm.held_out("train")
        return served.lm.plot.ngram(asked.text).rows

    rows = await served.worker.call(counted)
    names = {"token": "text", "training line": "line"}
    told = [{names.get(key, key): value for key, value in row.items()} for row in rows]
    return {"tokens": [{**row, "bits": finite(row["bits"])} for row in told]}


async def grown(served: Served, asked: asking.Grow) -> AsyncGenerator[dict[str, Any]]:
    """The steps of `/beam`: the nodes that each adds to the tree or changes."""
    name = asked.strategy if asked.strategy != "sample" else "beam"
    asked = asked.model_copy(update={"strategy": name})
    made = strategy(served, asked, width=asked.width, length_penalty=asked.length_penalty)
    if not isinstance(made, Beam):
        raise SettingError("strategy", name, "a kind of beam", "for example beam or diverse_beam:groups=3")
    rows = _rows(served, made, 1, asked.n)
    ids = ids_of(served, asked.prompt, allow_unknown=asked.allow_unknown)
    options: dict[str, Any] = {
        "n": asked.n,
        "max_tokens": min(asked.max_tokens, served.bounds.tokens),
        "max_seconds": served.bounds.seconds,
        "forbidden": () if asked.allow_unknown else (UNK,),
    }
    tree = Tree(made.length_penalty)
    number = 0

    def begin() -> Any:
        return decode_all(served.lm.model, [ids], made, **options, batch=served.worker.batch)

    async with aclosing(served.worker.turns(begin, rows)) as turns:
        async for rounds in turns:
            for (step,) in rounds:
                if number == 0:
                    yield {"step": 0, "nodes": [_hypothesis(served, tree.nodes[0])], "best": [0]}
                number += 1
                nodes = [_hypothesis(served, node) for node in tree.grow(step)]
                yield {"step": number, "nodes": nodes, "best": [*tree.best]}


def _hypothesis(served: Served, node: Node) -> dict[str, Any]:
    """A node of the tree: its text is empty at the prompt and where `<eos>` ends it."""
    text = "" if node.token in (BOS, EOS) else served.names[node.token]
    told = {"id": node.id, "parent": node.parent, "text": text, "logp": finite(node.logp), "score": finite(node.score)}
    return told | {"state": node.state, "why": node.why or None}


# -- tokens -----------------------------------------------------------------------------------------------------------


def tokenized(served: Served, asked: asking.Tokenize) -> dict[str, Any]:
    """The answer of `/tokenize`: the name of a special token alone is that token."""
    specials = [served.names[id] for id in range(len(SPECIALS))]
    if asked.prompt in specials:
        ids = [specials.index(asked.prompt)]
    else:
        ids = served.lm.ids(asked.prompt, allow_unknown=True)
    ids = [BOS, *ids] if asked.add_special_tokens and ids[:1] != [BOS] else ids
    return {"tokens": ids, "count": len(ids), "max_model_len": served.bounds.prompt}


def detokenized(served: Served, asked: asking.Detokenize) -> dict[str, Any]:
    """The answer of `/detokenize`."""
    if any(not 0 <= id < served.lm.model.vocab_size for id in asked.tokens):
        raise SettingError("tokens", asked.tokens, f"ids of the vocabulary, 0 to {served.lm.model.vocab_size - 1}")
    return {"prompt": served.lm.tokenizer.decode(asked.tokens)}


def tokenizer_info(served: Served) -> Mapping[str, Any]:
    """The answer of `/tokenizer_info`."""
    names = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), range(len(SPECIALS)), strict=True))
    about = {"tokenizer_class": served.lm.tokenizer.kind, "vocab_size": served.lm.tokenizer.vocab_size}
    return {**about, **{name: served.names[id] for name, id in names.items()}, "add_bos_token": False}
