"""What both clients agree on: how a service is reached, and when it is asked again."""

from __future__ import annotations

from typing import TypedDict

import httpx

from service.client.calls import header
from service.errors import InputError

TIMEOUT = httpx.Timeout(10.0, read=600.0)  # seconds; an answer that is no stream comes when the job is done
LONGEST_WAIT_SECONDS = 60.0  # before another try
BUSY = frozenset({429, 503})


class Link(TypedDict):
    """What httpx's clients are opened with."""

    base_url: httpx.URL
    headers: dict[str, str]
    timeout: httpx.Timeout | float | None


def link(base_url: str, key: str | None, timeout: httpx.Timeout | float | None) -> Link:
    """InputError where the address or the key cannot be one."""
    headers = {} if key is None else {"Authorization": f"Bearer {header('key', key)}"}
    return {"base_url": _address(base_url), "headers": headers, "timeout": timeout}


def wait_seconds(response: httpx.Response, num_left: int) -> float | None:
    """How long to wait before the same is asked again, as the service says; None: it is not."""
    told = response.headers.get("retry-after", "")
    if num_left < 1 or response.status_code not in BUSY or not told.isdecimal():
        return None
    return float(told) if float(told) <= LONGEST_WAIT_SECONDS else None


def _address(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise InputError("base_url", f"{base_url!r}: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise InputError("base_url", f"must be http://HOST:PORT or https://..., got {base_url!r}")
    return url
