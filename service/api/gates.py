"""Who may come in. Without keys that is whoever reaches a port on loopback, and no web page but our own.

A page of another site may send requests to this machine from its reader's browser, and by a name that it lets point
here (DNS rebinding) read the answers, too. Keys end both, for no browser adds one by itself. Without keys the name that
was asked for must be one of this machine, and nothing is answered to another site's page: even of what it cannot read
it would learn whether it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers

from service.api.draining import CUT_OFF
from service.api.json_bodies import JsonRequest
from service.api.keys import Keys
from service.api.quotas import Quotas
from service.errors import NotReadyError

SAME_SITE = {"same-origin", "none"}  # none: typed by the user

bearer = HTTPBearer(auto_error=False, description="A key of `retouch key`; none is needed where none is configured")


@dataclass(frozen=True)
class Gate:
    """Lets requests in."""

    keys: Keys
    quotas: Quotas
    is_open: bool  # whoever reaches the port may come in: it is then asked for by addresses, too
    hosts: frozenset[str] = frozenset()  # names by which it is reached without keys, besides loopback's

    def admit(self, headers: Headers) -> str:
        """Who asks, as a tenant.

        Raises:
            UnauthorizedError: no key, or none that is known here.
            LimitError: too many requests.
            HTTPException: 403, without keys.
        """
        tenant = self.keys.tenant_of(headers.get("authorization"))
        self.check_name(headers)
        if not self.keys:
            _check_site(headers)
        self.quotas.spend(tenant)
        return tenant

    def check_name(self, headers: Headers) -> None:
        """HTTPException, 403: without keys this service has no such name."""
        name = _name_of(headers.get("host", ""))
        if not (self.keys or _is_local(name) or name in self.hosts or (self.is_open and _address(name) is not None)):
            raise HTTPException(403, f"without keys this service is not asked for by the name {name!r}")


class GatedRoute(APIRoute):
    """A route behind the gate, which stands before the body is read. `request.state.tenant` is who asks.

    A server that ends cancels what still runs; here that is an answer, too.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI asks for it."""
        handler = super().get_route_handler()

        async def gated(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            tenant = gate.admit(request.headers)
            request.state.tenant = request.state.log["tenant"] = tenant
            try:
                return await handler(JsonRequest(request.scope, request.receive))
            except asyncio.CancelledError as error:
                raise NotReadyError(CUT_OFF) from error

        return gated


class NamedRoute(APIRoute):
    """A route for everybody: no key is needed where there are some, and without any the name alone is checked."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI asks for it."""
        handler = super().get_route_handler()

        async def named(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            gate.check_name(request.headers)
            return await handler(request)

        return named


def _check_site(headers: Headers) -> None:
    """What a browser says of the page that sends this; others say nothing."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site not in {None, *SAME_SITE} or (origin is not None and urlsplit(origin).netloc != headers.get("host")):
        raise HTTPException(403, "without keys this service answers no pages of other sites")


def _name_of(host: str) -> str:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_local(name: str) -> bool:
    address = _address(name)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)


def _address(name: str) -> Any:
    try:
        return ip_address(name)
    except ValueError:
        return None
