"""The page: the files of `service/web`, sent as they are, and nothing else of the disk.

The browser asks each time whether a file is still the same (`no-cache` with an ETag): a service that was replaced is
never looked at with the page of the one before. The page needs nothing from elsewhere, and its policy forbids it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

WEB = Path(__file__).parents[1] / "web"
START = "index.html"
MODULES = (
    "api", "app", "brush", "dom", "edits", "field", "history", "ideas", "job", "key", "masking", "pictures", "problem",
    "panel", "receipt", "settings", "sse", "stage", "studio", "words",
)  # fmt: skip
FILES = frozenset({"style.css", "docs.css", "icon.svg", *(f"{name}.js" for name in MODULES)})
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; "  # pictures that came with a job, thumbnails in the browser's storage
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}

router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def start(request: Request) -> Response:
    """The page itself. It needs no key: it asks for one when the service does."""
    return _answer(request, START)


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
async def part(name: str, request: Request) -> Response:
    """What the page is made of."""
    if name not in FILES:
        raise HTTPException(404, f"the page has no part {name!r}")
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    content, tag = _file(name)
    headers = {**HEADERS, "ETag": tag}
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=MEDIA_TYPES[Path(name).suffix])


@cache
def _file(name: str) -> tuple[bytes, str]:
    """Its bytes and their ETag, read once."""
    content = (WEB / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
