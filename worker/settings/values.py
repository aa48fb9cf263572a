"""The values that settings are parsed into."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping

from yarl import URL


@dataclasses.dataclass(frozen=True, slots=True)
class RetryLimits:
    """How often an upload is tried, the first try included: `default`, or another number for some codes."""

    default: int
    by_code: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def of(self, code: str) -> int:
        return self.by_code.get(code, self.default)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


_SOURCE = re.compile(
    r"(?P<scheme>https?):(//(?P<host>(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:(?P<port>[0-9]{1,5}))?)?", re.ASCII
)


_PORTS = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True, slots=True)
class ImageSource:
    """A source as Content-Security-Policy writes it: `https:`, `https://*.cdn.example`, `http://10.0.0.1:81`.

    Attributes:
        host: `*.` at its start stands for one label or more; None: any host, and any port.
    """

    scheme: str
    host: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> ImageSource:
        """Raises ValueError for what is not such a source."""
        found = _SOURCE.fullmatch(text.lower())
        if found is None:
            raise ValueError(text)
        port = None if found["port"] is None else int(found["port"])
        if port is not None and not 1 <= port <= 65_535:
            raise ValueError(text)
        return cls(found["scheme"], found["host"], port)

    def __str__(self) -> str:
        if self.host is None:
            return f"{self.scheme}:"
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")

    def covers(self, url: URL) -> bool:
        if url.scheme != self.scheme:
            return False
        if self.host is None:
            return True
        host = url.raw_host or ""
        same = host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host
        return same and url.port == (self.port or _PORTS[self.scheme])
