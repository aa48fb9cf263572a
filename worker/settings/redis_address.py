"""Where Redis is: one server, a Redis Cluster, or the primary that Sentinels name."""

from __future__ import annotations

import dataclasses
import urllib.parse
from typing import Literal

Kind = Literal["server", "cluster", "sentinel"]

_KINDS: dict[str, tuple[Kind, bool]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
}
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")
_DEFAULT_PORTS = {"server": 6379, "cluster": 6379, "sentinel": 26379}


@dataclasses.dataclass(frozen=True, slots=True)
class RedisAddress:
    """What a URL says.

    Attributes:
        url: as it was written; all that one server needs.
        nodes: (host, port) of a Cluster's nodes, or of the Sentinels; some of them are enough.
        service: what the Sentinels call the primary.
        sentinel_password: of the Sentinels themselves.
        tls: options of the client library, `ssl` among them.
    """

    url: str = dataclasses.field(repr=False)
    kind: Kind
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    sentinel_password: str | None = dataclasses.field(default=None, repr=False)
    tls: tuple[tuple[str, str | bool], ...] = ()

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read `redis://…`, `redis+cluster://a:7000,b:7000` or `redis+sentinel://a,b/mymaster/0`.

        Raises:
            ValueError: it is none of these.
        """
        parts = urllib.parse.urlsplit(url)
        kind, tls = _KINDS.get(parts.scheme, (None, False))
        if kind is None or not (parts.netloc or parts.path):
            raise ValueError("not a Redis URL")
        if kind == "server":
            return cls(url, kind)
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        options = dict(urllib.parse.parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        sentinel_password = options.pop("sentinel_password", None)
        if not options.keys() <= set(_TLS_OPTIONS if tls else ()):
            raise ValueError(f"unknown options {sorted(options)}")
        service, db = _service(parts.path) if kind == "sentinel" else ("", 0)
        if kind == "cluster" and (parts.path.strip("/") or sentinel_password is not None):
            raise ValueError("a Redis Cluster has one database, and no name")
        return cls(
            url,
            kind,
            tuple(_node(text, _DEFAULT_PORTS[kind]) for text in hosts.split(",")),
            service,
            db,
            urllib.parse.unquote(username) or None,
            urllib.parse.unquote(password) or None,
            sentinel_password,
            (("ssl", True), *sorted(options.items())) if tls else (),
        )


def _service(path: str) -> tuple[str, int]:
    name, _, db = path.strip("/").partition("/")
    if not name:
        raise ValueError("the Sentinels' name of the primary is missing")
    return urllib.parse.unquote(name), int(db or 0)


def _node(text: str, default: int) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(f"//{text}")
    if not parts.hostname or parts.path:
        raise ValueError(f"no host: {text}")
    return parts.hostname, parts.port or default
