"""JSON that is asked with: few values, and each of them once.

What parses a body holds the interpreter's lock until it is done, so that a thread would not help: eight megabytes of
small values would hold up everybody for seconds. A request is long where it has a picture, and that is base64; of all
other signs it has few. They are counted while the body comes, and what has too many of them is never parsed.
"""

from __future__ import annotations

import json
import string
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request

from service.errors import InputError

PICTURE = f"{string.ascii_letters}{string.digits}+/=\\".encode()
MOST_OTHERS = 65_536  # bytes: of the longest prompts, in any script, and of what stands around them
ESCAPED = 32  # of so many signs of a picture one may be escaped, too: some programs write each / as \/
MOST_FIELDS, MOST_NAME = 100, 100  # of one object, and characters of a field's name: each unknown one becomes an error


class JsonRequest(Request):
    """A request whose body, where it says that it is JSON, is bounded in values. InputError where it has more.

    FastAPI wraps what is raised here; `service.api.problems` looks inside.
    """

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """As Starlette reads a body."""
        media_type = self.headers.get("content-type", "").partition(";")[0]
        is_json = "json" in media_type.lower()  # FastAPI parses no others
        num_bytes = num_others = num_escapes = 0
        async for chunk in super().stream():
            if is_json:
                num_bytes += len(chunk)
                num_others += len(chunk.translate(None, PICTURE))
                num_escapes += chunk.count(b"\\")
                _check(num_others, num_escapes - num_bytes // ESCAPED)
            yield chunk

    async def json(self) -> Any:
        """As FastAPI asks for it."""
        return json.loads(await self.body(), object_pairs_hook=_object)


def _check(num_others: int, num_escapes: int) -> None:
    if max(num_others, num_escapes) > MOST_OTHERS:
        raise InputError("body", f"has too many values: over {MOST_OTHERS} signs or escapes that are no picture's")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """One object. InputError where it has a name twice: which of the two was meant is not known."""
    if len(pairs) > MOST_FIELDS:
        raise InputError("body", f"must have at most {MOST_FIELDS} fields, got {len(pairs)}")
    found: dict[str, Any] = {}
    for name, value in pairs:
        shown = name[:MOST_NAME]
        field = shown if shown.isprintable() else "body"
        if len(name) > MOST_NAME:
            raise InputError(field, f"is too long a name: {len(name)} characters")
        if name in found:
            raise InputError(field, "is given twice")
        found[name] = value
    return found
