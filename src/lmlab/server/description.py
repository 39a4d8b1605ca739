"""The page of `/docs`: what can be asked, from the server's own description; no script, nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any


def page(schema: dict[str, Any]) -> str:
    """The endpoints of an OpenAPI description and the fields of their requests, as HTML."""
    parts = [
        part
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
        for part in (f"<h2>{method.upper()} {escape(path)}</h2>", _fields(schema, operation))
    ]
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>lmlab: what can be asked</title>'
    style = '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/style.css">'
    note = '<p>The same for programs: <a href="/openapi.json">openapi.json</a>.</p>'
    return f"{head}{style}<main><h1>lmlab: what can be asked</h1>{note}{''.join(parts)}</main></html>"


def _fields(schema: dict[str, Any], operation: dict[str, Any]) -> str:
    """The table of the fields that a request may have."""
    if "requestBody" not in operation:
        return ""
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    asked = schema["components"]["schemas"][name]
    rows = (
        f"<tr><th scope=row>{escape(field)}<td>{escape(_kind(told))}<td>{escape(_default(told, field, asked))}"
        f"<td>{escape(told.get('description', ''))}"
        for field, told in asked["properties"].items()
    )
    return f"<table><tr><th>field<th>type<th>default<th>{''.join(rows)}</table>"


def _default(told: dict[str, Any], field: str, asked: dict[str, Any]) -> str:
    return "required" if field in asked.get("required", ()) else str(told.get("default", ""))


def _kind(told: dict[str, Any]) -> str:
    """The type of a field in a few words.

    >>> _kind({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "array", "items": {"type": "string"}}]})
    'integer >= 1, or list of string'
    """
    if "anyOf" in told:
        return ", or ".join(kind for each in told["anyOf"] if (kind := _kind(each)) != "null")
    if told.get("type") == "array":
        return f"list of {_kind(told.get('items', {}))}"
    name = str(told.get("type") or told.get("$ref", "").rpartition("/")[2] or "any")
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return " ".join([name, *(f"{sign} {told[bound]:g}" for bound, sign in signs.items() if bound in told)])
