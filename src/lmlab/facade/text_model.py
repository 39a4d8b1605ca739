"""A trained model and its tokenizer, side by side on the text model: score, evaluate, generate, stream, save."""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lmlab import corpora, store
from lmlab.errors import DataError, EmptyDataError, SettingError, UsageError, check_integer
from lmlab.facade.generation import Generation, Generations, TextStep, Written, certain_until, continuation
from lmlab.models.base import Registered, whole
from lmlab.progress import Reporter, Silent
from lmlab.seeing import Pictures
from lmlab.tokens.base import Tokenizer
from lmlab.tokens.stream import TextStream
from lmlab.vocabulary import BOS, UNK

if TYPE_CHECKING:
    from lmlab.corpora import Corpus
    from lmlab.decoding import Branch, Step
    from lmlab.decoding.search import Strategy
    from lmlab.facade.about import About
    from lmlab.facade.surprisal import Scores
    from lmlab.run_config import RunConfig
    from lmlab.scoring import Report
    from lmlab.tokens.id_store import TokenStore


class TextModel:
    """A model with its tokenizer.

    Attributes:
        tokenizer: text to ids and back.
        config: the whole configuration that made it.
        manifest: what made it, on which data, with which result.
        folder: where it lies, None if nowhere yet.
        composition: what `composed` did, as the protocol tells it; empty where the model is the run's own.

    A text model fresh from training also holds the encoded splits (`held_out`), so that its own text is not read again.
    """

    def __init__(
        self,
        model: Registered,
        tokenizer: Tokenizer,
        config: RunConfig,
        manifest: Mapping[str, Any],
        folder: Path | None = None,
        held_out: Mapping[str, TokenStore] | None = None,
        composition: Mapping[str, Any] | None = None,
    ) -> None:
        self._model, self.tokenizer = model, tokenizer
        self.config, self.manifest, self.folder = config, dict(manifest), folder
        self._held_out, self.composition = dict(held_out or {}), dict(composition or {})

    @property
    def model(self) -> Registered:
        """A member of the narrow waist (`lmlab.models.base`): of a stored network torch's module.

        Who has it may change it; so it takes the place of the excerpt that wrote and scored without torch until then.
        """
        self._model = whole(self._model)
        return self._model

    @model.setter
    def model(self, model: Registered) -> None:
        self._model = model

    def _about(self) -> About:
        from lmlab.facade.about import about

        size = None if self._model.nbytes is None else int(self._model.nbytes)
        return about(self.manifest, self.folder, size, self.tokenizer.vocab_size)

    def __repr__(self) -> str:
        return self._about().text()

    def _repr_html_(self) -> str:
        return self._about().html()

    def composed(
        self, adapt: str | None = None, mix: Sequence[str] = (), reporter: Reporter | None = None
    ) -> TextModel:
        """This text model with its model adapted to what it reads, or mixed with others' models, or both.

        What is not named is fitted on the run's validation split and kept in the cache.

        Args:
            adapt: "dynamic", "counts", "online", or several, with settings if wanted: "dynamic+counts:lr=0.001".
            mix: other runs of the same vocabulary, each with its weight if wanted: "runs/kn6:0.3".
            reporter: shows progress.

        Raises:
            UsageError: a specification that cannot be, or a model or vocabulary that does not fit it.
            ArtifactError: a run that cannot be read.
        """
        if adapt is None and not mix:
            return self
        from lmlab.facade.compose import compose

        model, said = compose(self, adapt, mix, reporter or Silent())
        composed = cast(Registered, model)  # but for saving, which is refused
        return TextModel(composed, self.tokenizer, self.config, self.manifest, self.folder, self._held_out, said)

    # -- scoring --------------------------------------------------------------------------------------------------

    def score(
        self,
        text: str | Iterable[str] | None = None,
        *,
        on: Any = None,
        split: str | None = None,
        data: Mapping[str, Any] | None = None,
        spelling: bool = True,
        alternatives: int = 0,
        ranks: bool = True,
        reporter: Reporter | None = None,
    ) -> Scores:
        """Surprisal and rank of every token of a text: `<bos>` before it, `<eos>` predicted after it.

        Args:
            text: a text, or several; each is a document.
            on: in its place a file, folder, named corpus or "-", read as `evaluate` reads it.
            split: of the corpus `on`.
            data: how `on` is read, where it is not read as the run's own text was.
            spelling: whether the spelling of unknown tokens is charged; without, `[UNK]` is a class of its own.
            alternatives: how many of the likeliest tokens are told at each place, with their probabilities; 0 is none.
            ranks: whether each token's rank is told; sums by word or document have none, and are quicker without.
            reporter: shows progress.

        Returns:
            A row a token; `by` sums them up by word, sentence or document, `write` keeps them in a file.

        Raises:
            UsageError: no text.
            EmptyDataError: a text is empty.
            LmlabError: the model gives NaN.
        """
        from lmlab import scoring
        from lmlab.corpora import reading
        from lmlab.facade.surprisal import in_hand, located_texts, scores_of
        from lmlab.tokens.id_store import TokenStore

        reporter = reporter or Silent()
        if on is None:
            given, sha256, name, pieces = in_hand(text)
        elif text is None:
            corpus = self._open_other(on, split, data or {}, reporter)
            size = corpus.sizes.get(split or "all")
            if size is not None and size.chars > reading.LONGEST:
                most = f"{reading.LONGEST:,} at most are told one by one"
                remedy = "lmlab eval scores any length; --limit or --max-chars cut a text"
                raise DataError(f"{corpus.name} has {size.chars:,} characters, but {most}", remedy)
            given, sha256, name, pieces = None, corpus.sha256, corpus.name, list(corpus.documents(split or "all"))
        else:
            raise UsageError("score was given a text and a source", "leave one of them out")
        with reporter.stage(f"encoding {name}"):
            tokens = TokenStore.from_documents(self.tokenizer, pieces)
            texts = located_texts(self.tokenizer, pieces, given)
        with reporter.stage(f"scoring {name}", tokens.tokens, " tokens") as advance:
            logp_N, rank_N = scoring.score_tokens(self._model, tokens, advance, ranks=ranks)
        report = scoring.report_of(-float(logp_N.sum()), tokens, spelling=spelling)
        total = self._figures(report, tokens, sha256, name, split or "all", spelling=spelling)
        likeliest = None
        if alternatives:
            check_integer("alternatives", alternatives)
            ids_NK, logp_NK = scoring.likeliest(self._model, tokens, alternatives)
            names, p_NK = self.tokenizer.token_text, np.exp(logp_NK).tolist()
            likeliest = [
                [{"text": names(id), "p": p} for id, p in zip(ids, ps, strict=True) if p]
                for ids, ps in zip(ids_NK.tolist(), p_NK, strict=True)
            ]
        return scores_of(texts, tokens.ids[tokens.ids != BOS], logp_N, rank_N, total, likeliest)

    def surprisal(self, text: str, span: tuple[int, int] | None = None) -> float:
        """The bits of a text, its end included; or of those of its tokens that stand in a span of it, even in part.

        Args:
            text: read as one document.
            span: its first character and the one after its last; white space before a token is no part of it.

        Raises:
            SettingError: no text, or no span of it.
        """
        from lmlab.facade.surprisal import bits_of_span

        if not isinstance(text, str):
            raise SettingError("the text", text, "a string")
        scores = self.score(text)
        return float(scores.columns["cumulative_bits"][-1]) if span is None else bits_of_span(scores, span)

    def evaluate(
        self,
        on: Any = None,
        *,
        split: str | None = None,
        data: Mapping[str, Any] | None = None,
        spelling: bool = True,
        reporter: Reporter | None = None,
    ) -> dict[str, Any]:
        """Figures on a text that the model was not trained on.

        Args:
            on: a source of text as `lmlab.train` takes it; None is the run's own corpus.
            split: of the corpus; None is `all` of another text, and `test` of the run's own (else `valid`).
            data: how `on` is read, where it is not read as the run's own text was.
            spelling: whether the spelling of unknown tokens is charged; without, `[UNK]` is a class of its own.
            reporter: shows progress.

        Returns:
            A dict ready for JSON; see `scoring.Report` for the figures, and `protocol` for how they were taken.

        Raises:
            EmptyDataError: there is nothing to score.
            DataError: the run's own text has changed.
        """
        from lmlab.facade.prepare import encode_held_out, open_again

        reporter = reporter or Silent()
        if on is not None:
            corpus = self._open_other(on, split, data or {}, reporter)
            split = split or "all"
        else:
            split = split or self._held_out_split()
            if split in self._held_out:
                own = self.manifest["data"]
                return self._scored(self._held_out[split], own["sha256"], own["name"], split, spelling, reporter)
            corpus = open_again(self.config, self.manifest, reporter)
        tokens = encode_held_out(corpus, self.tokenizer, split, reporter)
        return self._scored(tokens, corpus.sha256, corpus.name, split, spelling, reporter)

    def held_out(self, split: str, reporter: Reporter | None = None, chars: float = math.inf) -> TokenStore | None:
        """An encoded split of the run's own text, or about so many characters of it; None where nothing keeps it.

        Args:
            split: train, valid or test.
            reporter: shows progress.
            chars: about how many characters.

        Raises:
            DataError: the text has changed.
        """
        from lmlab.corpora.settings import IN_HAND
        from lmlab.facade.prepare import encode_held_out, open_again

        if split in self._held_out:
            return self._held_out[split]
        data = self.manifest["data"]
        if split not in data.get("splits", ()) or data["split_rule"] == "none" or self.config.source in ("-", IN_HAND):
            return None
        reporter = reporter or Silent()
        corpus = open_again(self.config, self.manifest, reporter)
        return encode_held_out(corpus, self.tokenizer, split, reporter, chars)

    def texts(self, on: Any = None, *, split: str | None = None, chars: float = math.inf) -> tuple[str, list[str]]:
        """The name of a text and its documents, whole but for the last one.

        Args:
            on: a source as `evaluate` takes it; None is the run's own corpus.
            split: of the corpus; None is `all` of another text, and `test` of the run's own (else `valid`).
            chars: at most so many characters.

        Raises:
            EmptyDataError: the run held no text out.
            UsageError: its own text is not kept.
            DataError: its own text has changed.
        """
        from lmlab.corpora.settings import IN_HAND
        from lmlab.facade.prepare import open_again, whole_texts

        if on is not None:
            corpus, split = self._open_other(on, split, {}, Silent()), split or "all"
            return corpus.name, whole_texts(corpus.documents(split), chars)
        split = split or self._held_out_split()
        name = f"{self.manifest['data']['name']}, {split} split"
        held = self._held_out.get(split) if self.config.source in ("-", IN_HAND) else None
        if held is None or held.unknown_tokens or self.tokenizer.normalisation:
            return name, whole_texts(open_again(self.config, self.manifest, Silent()).documents(split), chars)
        decoded = (self.tokenizer.decode(held.document(number)[1:-1]) for number in range(len(held)))
        return name, whole_texts(map(corpora.Document, decoded), chars)

    def _open_other(self, on: Any, split: str | None, data: Mapping[str, Any], reporter: Reporter) -> Corpus:
        """Another text, whole, whatever part of its own text the run was trained on; records as such."""
        from lmlab.corpora.raw import kind_of
        from lmlab.facade.prepare import open_source

        whole: dict[str, Any] = {"limit": None, "max_chars": None} | ({"split": "none"} if split is None else {})
        if not isinstance(on, str | Path) or kind_of(str(on)) not in ("text", kind_of(self.config.source or "")):
            whole["unit"] = "auto"
        settings = corpora.DataSettings.make({**self.config.data.dump(), **whole, **data}, "data")
        return open_source(on, settings, reporter)

    def _held_out_split(self) -> str:
        held_out = [split for split in ("test", "valid") if split in self.manifest["data"]["splits"]]
        if not held_out:
            raise EmptyDataError("this run held no text out", "name a text with --on, or leave a share with --split")
        return held_out[0]

    def _scored(
        self, tokens: TokenStore, sha256: str, name: str, split: str, spelling: bool, reporter: Reporter
    ) -> dict[str, Any]:
        from lmlab import scoring

        with reporter.stage(f"scoring {name}", tokens.tokens, " tokens") as advance:
            report = scoring.evaluate(whole(self._model), tokens, advance, spelling=spelling)
        return self._figures(report, tokens, sha256, name, split, spelling=spelling)

    def _figures(
        self, report: Report, tokens: TokenStore, sha256: str, name: str, split: str, *, spelling: bool
    ) -> dict[str, Any]:
        from lmlab import scoring

        protocol = {
            **scoring.PROTOCOL,
            **({} if spelling else {"unknown": scoring.UNSPELLED}),
            "normalisation": self.tokenizer.normalisation or "none",
            "data": name,
            "split": split,
            "data_sha256": sha256,
            "tokens": f"{self.config.tokenizer.kind} tokens, vocabulary {self.tokenizer.vocab_size}",
            **self.manifest.get("protocol", {}),
            **self.composition,
        }
        run = str(self.folder) if self.folder else None
        return {"run": run, "model": self.config.model.kind, **asdict(report), "protocol": protocol}

    def filter(
        self,
        source: Any,
        *,
        by: str = "perplexity",
        at_least: float | None = None,
        at_most: float | None = None,
        cuts: Sequence[float] | None = None,
        keep: str | Sequence[str] = (),
        reference: Any = None,
        spelling: bool = True,
        data: Mapping[str, Any] | None = None,
        processes: int = 1,
        reporter: Reporter | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """Score many records, each on its own, and give out those asked for, in order, with their figures.

        A record gains `perplexity` (per token, `<eos>` included), `bits_per_byte` and `length` (tokens); where buckets
        are asked for also `bucket`. Fields of these names are replaced. Memory does not grow with the records, but for
        24 bytes each where quantiles are taken.

        Args:
            source: a file of records or lines, "-", or what a program holds, as `lmlab.train` takes it.
            by: the figure that decides: perplexity, bits_per_byte or length.
            at_least: its lower bound.
            at_most: its upper bound.
            cuts: the quantiles that end the buckets head and middle; None is (0.3, 0.6) where buckets are asked for.
            keep: the buckets given out, head, middle or tail or several; empty is all.
            reference: a source whose quantiles are taken; None is the source itself, which is then read twice.
            spelling: whether the spelling of unknown tokens is charged; without, `[UNK]` is a class of its own.
            data: how sources are read: `{"text_field": "body"}`; plain text is read by line.
            processes: that score, each with the model of this run's folder.
            reporter: shows progress.

        Raises:
            UsageError: the model has no probabilities, or a stream would have to be read twice.
            DataError: a record without text, told by its place.
        """
        from lmlab.facade.filter import Rule, filtered

        rule = Rule.make(by, at_least, at_most, cuts, keep, reference=reference is not None)
        return filtered(
            whole(self._model),
            self.tokenizer,
            source,
            rule,
            folder=None if self.composition else self.folder,
            reference=reference,
            spelling=spelling,
            data=data,
            processes=processes,
            reporter=reporter or Silent(),
        )

    # -- asking ---------------------------------------------------------------------------------------------------

    def next_tokens(self, prefix: str = "", k: int | None = 10, *, allow_unknown: bool = False) -> dict[str, float]:
        """The likeliest next tokens after a prefix, and their probabilities; the likeliest first.

        Args:
            prefix: text from the beginning of a document on; may be empty.
            k: how many; None gives all, which sum to 1.
            allow_unknown: read what the vocabulary lacks as `[UNK]` instead of refusing the prefix.

        Raises:
            SettingError: k is no integer >= 1.
            UsageError: the prefix has what the vocabulary lacks, or the model's scores are not probabilities.
        """
        from lmlab.facade.following import probabilities

        return probabilities(self._model, self.tokenizer, self.ids(prefix, allow_unknown), k)

    def counts(self, prefix: str = "", reporter: Reporter | None = None) -> dict[str, int]:
        """What followed a prefix in the training text of an n-gram model, and how often; the commonest first.

        The prefix counts as far as the model looks: its last n - 1 tokens, `<bos>` before them where there are fewer.
        The text of a run that was loaded is read again, for smoothing turns the model's own counts into probabilities.

        Args:
            prefix: text from the beginning of a document on; may be empty.
            reporter: shows progress.

        Raises:
            UsageError: it is no n-gram model, or its text is not kept.
            DataError: the text has changed.
        """
        from lmlab.facade.following import counts_after

        if self.config.model.kind != "ngram" or self.composition:
            raise UsageError("only an n-gram model has counts", "next_tokens gives the probabilities of any model")
        text = self.held_out("train", reporter)
        if text is None:
            problem = "the text that was counted is not kept as documents"
            raise UsageError(problem, "lmlab.train a model on a file, or ask the one that was just trained")
        context = [BOS, *self.ids(prefix, allow_unknown=True)]
        seen = context[max(0, len(context) - self.config.model.settings.order + 1) :]
        return counts_after(text.ids, seen, self.tokenizer)

    # -- seeing ---------------------------------------------------------------------------------------------------

    @property
    def plot(self) -> Pictures:
        """Pictures of this model, a method each: `lm.plot.temperature("to be")`; printed, it lists them."""
        return Pictures(self, "plot")

    @property
    def inspect(self) -> Pictures:
        """Pictures of what happens inside the network, a method each: `lm.inspect.gates("to be")`."""
        return Pictures(self, "inspect")

    # -- generating -----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str = "",
        strategy: Strategy | str | None = None,
        *,
        n: int = 1,
        max_tokens: int = 200,
        max_seconds: float | None = None,
        stop: Sequence[str] | str = (),
        allow_unknown: bool = False,
        alternatives: int = 0,
        trace: bool = False,
        regex: str | None = None,
        json_schema: Mapping[str, Any] | str | bool | None = None,
        grammar: str | None = None,
        **named: Any,
    ) -> Generations:
        """Continue a prompt.

        Args:
            prompt: text to go on from; may be empty.
            strategy: `Greedy()`, `Sample(...)` (the default), `Beam(...)` or another of `lmlab.decoding`; or its name,
                with settings if wanted: "beam:width=3".
            n: how many continuations.
            max_tokens: at most so many tokens each.
            max_seconds: end all continuations after so long; None is never.
            stop: end a continuation where one of these strings appears; it is left out.
            allow_unknown: read what the vocabulary lacks as `[UNK]` instead of refusing the prompt, and write `[UNK]`
                where it is drawn instead of never.
            alternatives: tell token by token, with so many of the likeliest tokens at each place.
            trace: tell token by token what each processor left.
            regex: write only what this regular expression matches, from the first character to the last.
            json_schema: write only instances of this JSON schema, an object or JSON.
            grammar: write only texts of this grammar in Lark's notation.
            **named: what the strategy takes, where it is named or left out: `temperature=0.5`, `width=3`.

        Raises:
            UsageError: the prompt has characters or words that the model does not know, or no such strategy.
            SettingError: no grammar can be made of what is to be written.
            LmlabError: no token of the vocabulary goes on as that wants.
        """
        asked: dict[str, Any] = {"n": n, "max_tokens": max_tokens, "max_seconds": max_seconds}
        asked |= {"stop": stop, "trace": trace, "regex": regex, "json_schema": json_schema, "grammar": grammar}
        asked |= {"allow_unknown": allow_unknown, "alternatives": alternatives, **named}
        (several,) = self.generate_all([prompt], strategy, **asked)
        return several

    def generate_all(
        self, prompts: Sequence[str], strategy: Strategy | str | None = None, **asked: Any
    ) -> list[Generations]:
        """Continue each of many prompts, in one batch, as `generate` does one: it takes the same arguments."""
        from lmlab.decoding import finish_all

        ids, steps, _, stop = self._begun(prompts, strategy, asked)
        results = zip(prompts, ids, finish_all(steps), strict=True)
        told = bool(asked.get("alternatives") or asked.get("trace"))
        return [
            Generations(self._generation(prompt, before, branch, stop, told) for branch in branches)
            for prompt, before, branches in results
        ]

    def stream(self, prompt: str = "", strategy: Strategy | str | None = None, **asked: Any) -> Iterator[TextStep]:
        """Continue a prompt step by step: `generate` is this iterator drained, and takes the same arguments."""
        (ids,), steps, strategy, stop = self._begun([prompt], strategy, asked)
        certain = TextStream(self.tokenizer)
        for id in ids:
            certain.push(id)
        said, shown, read = "", 0, 0  # of the first result
        for (step,) in steps:
            assert step is not None
            first = step.best[0]
            stable = step.stable if strategy.revises else first.length
            said += "".join(certain.push(node.token) for node in first.path()[read:stable])
            read = max(read, stable)
            ended = step.done or (first.end is not None and not strategy.revises)
            if ended:
                said += certain.flush()
            before, shown = shown, max(shown, certain_until(said, stop, ended=ended))
            yield TextStep(step, self.tokenizer, ids, said[before:shown])

    def _begun(
        self, prompts: Sequence[str], strategy: Strategy | str | None, asked: Mapping[str, Any]
    ) -> tuple[list[list[int]], Iterator[list[Step | None]], Strategy, tuple[str, ...]]:
        """The ids of the prompts, the steps that continue them, by which strategy, up to which strings."""
        from lmlab.decoding import Grammar, StopText, decode_all

        options = {name: asked[name] for name in _ASKED if name in asked}
        own = {*_ASKED, *_LANGUAGE, "stop", "allow_unknown"}
        named = {name: value for name, value in asked.items() if name not in own}
        strategy = _strategy(strategy, named).in_ids(lambda text: self.ids(text, allow_unknown=False))
        stop = asked.get("stop") or () if not isinstance(asked.get("stop"), str) else (asked["stop"],)
        allow_unknown = bool(asked.get("allow_unknown"))
        ids = [self.ids(prompt, allow_unknown) for prompt in prompts]
        stopper = StopText(self.tokenizer.decode, tuple(stop)) if stop else None
        forbidden = () if allow_unknown else (UNK,)
        told = {known: asked[name] for name, known in _LANGUAGE.items() if asked.get(name) is not None}
        grammar = Grammar(self.tokenizer, **told) if told else None
        steps = decode_all(self._model, ids, strategy, stop=stopper, forbidden=forbidden, grammar=grammar, **options)
        return ids, steps, strategy, tuple(stop)

    def ids(self, prompt: str, allow_unknown: bool = False) -> list[int]:
        """The ids of a prompt, `<bos>` not among them.

        Args:
            prompt: text from the beginning of a document on; may be empty.
            allow_unknown: read what the vocabulary lacks as `[UNK]` instead of refusing the prompt.

        Raises:
            UsageError: the prompt has what the vocabulary lacks.
        """
        if not isinstance(prompt, str):
            raise SettingError("the prompt", prompt, "a string", "an empty one is allowed")
        encoded = self.tokenizer.encode(prompt)
        if encoded.unknown_bytes and not allow_unknown:
            pieces = zip(self.tokenizer.spans(prompt), encoded.ids, strict=True)
            unknown = sorted({piece for piece, id in pieces if id == UNK})
            shown = ", ".join(map(repr, unknown[:5]))
            raise UsageError(
                f"the prompt has {shown}, which the vocabulary of {self.tokenizer.vocab_size} lacks",
                "write it otherwise, or allow unknown tokens (--allow-unknown)",
            )
        ids: list[int] = encoded.ids.tolist()
        return ids

    def _generation(
        self, prompt: str, ids: Sequence[int], branch: Branch, stop: Sequence[str], told: bool
    ) -> Generation:
        generated = branch.ids()
        text = continuation(self.tokenizer, ids, generated)
        text = text[: certain_until(text, stop, ended=True)]
        written = tuple(map(self._written, branch.path())) if told else ()
        figures = branch.total, branch.end or "length", branch.drawn_total, branch.perplexity
        return Generation(prompt, text, len(generated), *figures, written)

    def _written(self, node: Branch) -> Written:
        def text(id: int) -> str:
            return self.tokenizer.decode([id]) if id != self._model.eos else ""

        alternatives = tuple((text(id), logp, chain_logp) for id, logp, chain_logp in node.alternatives)
        trace = tuple((repr(cut.processor), cut.tokens, cut.mass) for cut in node.trace)
        return Written(text(node.token), node.logp, node.drawn_logp, alternatives, trace)

    # -- keeping --------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a model directory.

        Args:
            path: where.
            overwrite: whether a run that is there is replaced, once the new one is written.

        Raises:
            RunExistsError: `path` is already there.
            UsageError: the model is composed, or what is there is no run.
        """
        if self.composition:
            raise UsageError("a composed model is not kept", "save the run itself, and compose it again")
        if self.config.model.kind.startswith("hf:"):
            raise UsageError("a Hugging Face model is not kept again", f"name it where a run is taken: {self.folder}")
        store.save(
            Path(path), whole(self._model), self.tokenizer, self.config, self.manifest, self.folder, overwrite=overwrite
        )
        self.folder = Path(path)
        return self.folder

    @classmethod
    def load(cls, path: str | Path) -> TextModel:
        """Read a model directory, or open what `hf:PATH_OR_NAME` (Hugging Face) or `toy:NAME` names.

        Raises:
            ArtifactError: it is none, or damaged.
            MissingExtraError: the library that a Hugging Face model needs is not installed.
        """
        if str(path).startswith("hf:"):
            from lmlab.facade.hf import open_hf

            stored = open_hf(str(path))
        elif str(path).startswith("toy:"):
            from lmlab.facade.toy import open_toy

            stored = open_toy(str(path))
        else:
            stored = store.load(Path(path))
        return cls(stored.model, stored.tokenizer, stored.config, stored.manifest, Path(path))


_ASKED = ("n", "max_tokens", "max_seconds", "alternatives", "trace")  # of what `generate` takes, what `decode` does
_LANGUAGE = {"regex": "regex", "json_schema": "json_schema", "grammar": "lark"}  # and what `Grammar` does


def filter(run: str | Path | TextModel, source: Any, **options: Any) -> Generator[dict[str, Any], None, None]:
    """Score many records with a run, and give out those asked for.

    Args:
        run: a text model, or the path of one.
        source: a file of records or lines, "-", or what a program holds.
        **options: of `TextModel.filter`, which says what they are.
    """
    return (run if isinstance(run, TextModel) else TextModel.load(run)).filter(source, **options)


_own, _method = (inspect.signature(each).parameters.values() for each in (filter, TextModel.filter))
filter.__signature__ = inspect.Signature([*_own][:2] + [*_method][2:])  # type: ignore[attr-defined]


def _strategy(strategy: Any, named: Mapping[str, Any]) -> Strategy:
    """A strategy, or one by its name with what it takes."""
    from lmlab.decoding.strategies import check_strategy, strategy_of

    if strategy is None or isinstance(strategy, str):
        return strategy_of(strategy or "sample", **named)
    if named:
        given = ", ".join(named)
        raise UsageError(f"{given} stands beside a strategy", f"write it into that, as in Sample({given}=...)")
    check_strategy(strategy)
    return cast("Strategy", strategy)
