"""What a request may hold: its types and bounds, from which the OpenAPI pages are made too.

Every value has exactly the type that is named, so that `true` is no number. What decoding takes, a strategy's settings
and processors, stands beside the other fields under its own name; processors run in the order of the request.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lmlab.config import described
from lmlab.decoding import PROCESSORS, STRATEGIES
from lmlab.errors import SettingError, UsageError

Ids = list[int]
Count = Annotated[int, Field(ge=1, le=2**31)]
Whole = Annotated[int, Field(ge=0, le=2**31)]


def _named(schema: dict[str, Any]) -> None:
    """Adds the settings of strategies and the processors to a schema."""
    fields = [field for kind in STRATEGIES.values() for field in described(kind)]
    fields += [described(kind)[0]._replace(name=name) for name, kind in PROCESSORS.items()]
    named = {field.name: {"anyOf": [_finite(field.schema), {"type": "null"}]} for field in reversed(fields)}
    schema["properties"] = named | schema["properties"]
    schema["additionalProperties"] = False


def _finite(schema: Any) -> Any:
    """A schema without bounds that are no number of JSON."""
    if isinstance(schema, dict):
        return {key: _finite(value) for key, value in schema.items() if value not in (math.inf, -math.inf)}
    return [_finite(each) for each in schema] if isinstance(schema, list) else schema


class Asked(BaseModel):
    """A request to one model."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    model: str = Field(description="an id of /v1/models")


class Decoded(Asked):
    """A request that takes a strategy, its settings, and processors."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_named)
    strategy: str = Field("sample", description="NAME or NAME:SETTING=VALUE,...")
    chain: str = Field("", description="processors in order, before those that are named: top_k=40,temperature=0.8")
    logit_bias: dict[str, float] | None = Field(None, description="what is added to the logit of an id")
    must: list[str] | None = Field(None, description="constrained: what the text shall contain")
    draft: str | None = Field(None, description="speculative: the model that drafts")
    allow_unknown: bool = Field(False, description="read and write what the vocabulary lacks as [UNK]")

    def named(self) -> dict[str, Any]:
        """The strategy's settings and the processors, in the order of the request."""
        return dict(self.model_extra or {})


class Stream(BaseModel):
    """What a stream tells beside its text."""

    model_config = ConfigDict(strict=True, extra="ignore")
    include_usage: bool = False


class JsonSchema(BaseModel):
    """A named schema."""

    model_config = ConfigDict(strict=True, extra="ignore")
    schema_: dict[str, Any] | bool = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What an answer shall be, as OpenAI writes it."""

    model_config = ConfigDict(strict=True, extra="ignore")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_of(self) -> dict[str, Any] | bool | None:
        """The schema that is meant; None is free text."""
        if self.type == "json_schema" and self.json_schema is None:
            raise SettingError("response_format.json_schema", None, "an object with a schema")
        if self.type == "json_object":
            return {"type": "object"}
        return self.json_schema.schema_ if self.type == "json_schema" and self.json_schema else None


class Generated(Decoded):
    """A request for new text."""

    n: Count = 1
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stream: bool | None = False
    stream_options: Stream | None = None
    user: str | None = Field(None, description="not read")
    regex: str | None = Field(None, description="what the whole text shall match")
    json_schema: dict[str, Any] | str | bool | None = Field(None, description="the schema of what shall be written")
    grammar: str | None = Field(None, description="a grammar in Lark's notation, of what may be written")
    response_format: ResponseFormat | None = Field(None, description="json_schema as OpenAI writes it")

    def language(self) -> tuple[str, str] | None:
        """What may be written: regex, json_schema or lark, and its value; None is everything."""
        schemas = [self.json_schema, self.response_format and self.response_format.schema_of()]
        told = [each if isinstance(each, str | None) else json.dumps(each) for each in schemas]
        choices = [*(("json_schema", schema) for schema in told), ("regex", self.regex), ("lark", self.grammar)]
        given = [(name, value) for name, value in choices if value is not None]
        if len(given) > 1:
            raise UsageError("what may be written is told twice", "one of regex, json_schema, grammar, response_format")
        return given[0] if given else None

    def stops(self) -> tuple[str, ...]:
        """The strings that end a text."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if "" in given:
            raise SettingError("stop", given, "strings, none empty")
        return tuple(given)


class Completions(Generated):
    """`/v1/completions`."""

    prompt: str | list[str] | Ids | list[Ids] = Field("", description="a text, ids, or a list of either")
    max_tokens: Whole | None = Field(16, description="at most so many tokens each, <eos> counted; 0 with echo")
    logprobs: Whole | None = Field(None, description="how many of the likeliest tokens to tell at each place")
    echo: bool | None = Field(False, description="whether the prompt is told too")
    best_of: Count | None = Field(None, description="how many texts are drawn, of which the n likeliest are told")
    suffix: None = Field(None, description="not supported")


class Message(BaseModel):
    """A turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="ignore")
    role: str = Field(min_length=1, max_length=64)
    content: str


class Chat(Generated):
    """`/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = False
    top_logprobs: Whole | None = None


class Next(Decoded):
    """`/next`."""

    prompt: str | Ids = ""
    top: Count = Field(10, description="how many of the likeliest tokens are told")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None


class Score(Asked):
    """`/score`."""

    text: str
    alternatives: Whole = Field(0, description="how many of the likeliest tokens to tell at each place")


class Ngrams(Asked):
    """`/ngrams`."""

    text: str


class Grow(Decoded):
    """`/beam`."""

    prompt: str | Ids = ""
    width: Count = 5
    max_tokens: Count = 20
    length_penalty: float | None = None
    n: Count = 1


class Tokenize(BaseModel):
    """`/tokenize`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    model: str | None = Field(None, description="the first one where none is named")
    prompt: str
    add_special_tokens: bool = Field(False, description="whether <bos> is put before it")


class Detokenize(BaseModel):
    """`/detokenize`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    model: str | None = Field(None, description="the first one where none is named")
    tokens: Ids
