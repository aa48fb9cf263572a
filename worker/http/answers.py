"""What every answer has in common: JSON, errors as JSON, security headers, and who is answered at all."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# For answers that are data: nothing in them may run, be framed or be read by another site's page.
DATA_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "imgclust",
    "X-Content-Type-Options": "nosniff",
}


def json_answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, content_type="application/json", headers=headers
    )


def refused(kind: type[web.HTTPException], reason: str, retry: int | None = None) -> web.HTTPException:
    """An error to raise: `{"error": reason}`.

    Args:
        retry: seconds after which to ask again.
    """
    more = {} if retry is None else {"Retry-After": str(retry)}
    text = orjson.dumps({"error": reason}).decode()
    return kind(text=text, content_type="application/json", headers=more)


def guard(
    headers: Mapping[str, str], host: str, setting: str, count: Callable[[int], None] = lambda _: None
) -> Middleware:
    """Middleware that puts `headers` on every answer, errors too, and refuses strange host names.

    A service on a loopback address answers only requests for such a name: so no page of the internet can
    read it by a host name that leads here.

    Args:
        host: that is listened on.
        setting: the one that names it, for the error.
        count: is given the status of every answer.
    """
    only_loopback = is_loopback(host)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if only_loopback and not is_loopback(_host_name(request.headers.get("Host", ""))):
                raise refused(
                    web.HTTPMisdirectedRequest,
                    f"this address answers only this machine; set {setting} to another one",
                )
            response = await handler(request)
        except web.HTTPException as error:
            if error.content_type != "application/json":  # the router's own
                error.text = orjson.dumps({"error": error.reason}).decode()
                error.content_type = "application/json"
            error.headers.update(headers)
            count(error.status)
            raise
        if not response.prepared:
            for name, value in headers.items():
                response.headers.setdefault(name, value)
        count(response.status)
        return response

    return guarded


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def has_etag(request: web.Request, tag: str) -> bool:
    """Whether the client has what `tag` names already."""
    return tag in request.headers.get("If-None-Match", "")
