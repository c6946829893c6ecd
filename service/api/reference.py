"""The API's description: as OpenAPI has it, for programs, and as a page to read, which needs nothing from elsewhere.

FastAPI's own pages are made by scripts of a CDN; here there is nothing to click, so there is no script at all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from service.api.gates import NamedRoute
from service.api.page import HEADERS

Schema = Mapping[str, Any]

BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "in steps of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
}

router = APIRouter(route_class=NamedRoute, include_in_schema=False)


@router.api_route("/openapi.json", methods=["GET", "HEAD"])
async def openapi(request: Request) -> Response:
    """For programs. It needs no key, and neither does the page."""
    app: FastAPI = request.app
    return Response(json.dumps(await asyncio.to_thread(app.openapi)), media_type="application/json")


@router.api_route("/docs", methods=["GET", "HEAD"])
async def docs(request: Request) -> Response:
    """For people."""
    app: FastAPI = request.app
    return Response(page_of(await asyncio.to_thread(app.openapi)), headers=HEADERS, media_type="text/html")


def page_of(described: Schema) -> str:
    """An OpenAPI document as HTML: every operation, what it takes and answers, and the shapes that they share."""
    info, schemas = described["info"], described["components"]["schemas"]
    parts = [
        _operation(method.upper(), path, operation)
        for path, its in described["paths"].items()
        for method, operation in its.items()
    ]
    shapes = [
        f"<section id={_quoted(name)}><h3>{escape(name)}</h3>{_shape(its)}</section>" for name, its in schemas.items()
    ]
    title = escape(f"{info['title']} {info['version']}: the API")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return (
        f'<!doctype html><html lang="en"><head>{head}<link rel="icon" href="web/icon.svg">'
        f'<link rel="stylesheet" href="web/docs.css"></head><body><main>'
        f'<h1>{title}</h1><p>{escape(info["description"])} For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{''.join(parts)}<h2>Shapes</h2>{''.join(shapes)}</main></body></html>"
    )


def _operation(method: str, path: str, operation: Schema) -> str:
    parameters = [(one["name"], one["schema"] | one, one["required"]) for one in operation.get("parameters", ())]
    body = operation.get("requestBody", {}).get("content", {})
    answers = sorted(operation["responses"].items())
    return (
        f"<section><h2><code>{method} {escape(path)}</code></h2><p>{_text(operation.get('description', ''))}</p>"
        f"{_fields(parameters)}{''.join(_content(*media) for media in body.items())}"
        f"<h3>Answers</h3>{''.join(_answer(status, answer) for status, answer in answers)}</section>"
    )


def _answer(status: str, answer: Schema) -> str:
    content = "".join(_content(*media) for media in answer.get("content", {}).items())
    headers = ", ".join(answer.get("headers", ()))
    return (
        f"<details><summary><b>{escape(status)}</b> {_text(answer['description'])}</summary>{content}"
        f"<p>Headers: {escape(headers)}</p></details>"
    )


def _content(media_type: str, media: Schema) -> str:
    """One kind of body; of one whose example says all its shape is not told again."""
    schema, shown = media.get("schema", {}), media.get("example")
    whole = _shape(schema) if "properties" in schema and not media_type.endswith("problem+json") else ""
    link = f" {_kind(schema)}" if "$ref" in schema else ""
    return f"<p><code>{escape(media_type)}</code>{link}</p>{whole}{'' if shown is None else _example(shown)}"


def _shape(schema: Schema) -> str:
    required = schema.get("required", ())
    fields = [(name, its, name in required) for name, its in schema.get("properties", {}).items()]
    examples = "".join(map(_example, schema.get("examples", ())))
    return f"<p>{_text(schema.get('description', ''))}</p>{_fields(fields)}{examples}"


def _fields(fields: Iterable[tuple[str, Schema, bool]]) -> str:
    rows = [
        f"<tr><th><code>{escape(name)}</code>{'' if required else ' <i>optional</i>'}</th>"
        f"<td>{', '.join(_facts(its))}</td><td>{_text(its.get('description', ''))}</td></tr>"
        for name, its, required in fields
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _facts(schema: Schema) -> Iterator[str]:
    yield _kind(schema)
    if schema.get("default") is not None:
        yield f"by default <code>{escape(json.dumps(schema['default']))}</code>"


def _kind(schema: Schema) -> str:
    """What a value may be, in a few words of HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href={_quoted('#' + name)}>{escape(name)}</a>"
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array" and "items" in schema:
        return f"list of {_kind(schema['items'])}"
    bounds = [told.format(f"{schema[name]:.15g}") for name, told in BOUNDS.items() if name in schema]
    return escape(", ".join([schema.get("type", "anything"), *bounds]))


def _example(value: Any) -> str:
    return f"<pre>{escape(value if isinstance(value, str) else json.dumps(value, indent=2))}</pre>"


def _text(markdown: str) -> str:
    """Words between backticks are code; there is no other Markdown in our descriptions."""
    parts = escape(markdown).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _quoted(text: str) -> str:
    return f'"{escape(text)}"'
