"""Which pictures a browser may load for the wall, and from where. Pure.

A tag's URL was chosen by whoever uploaded; a browser that loads it tells that server where the reader is,
and follows its redirects. So a URL has to pass twice: it is one that the worker itself may fetch, and it is
from one of the sources that the operator names, which the page's Content-Security-Policy names too: that is
what holds in the browser, for redirects as well.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from yarl import URL

from imgclust.errors import UrlForbidden
from imgclust.fetching.urls import FetchPolicy, check_url

_SOURCE = re.compile(
    r"(?P<scheme>https?):(//(?P<host>(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:(?P<port>[0-9]{1,5}))?)?", re.ASCII
)
_PORTS = {"http": 80, "https": 443}


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A source as Content-Security-Policy writes it: `https:`, `https://*.cdn.example`, `http://10.0.0.1:81`.

    Attributes:
        host: `*.` at its start stands for one label or more; None: any host, and any port.
    """

    scheme: str
    host: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
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


def picture_url(url: object, sources: Sequence[Source], policy: FetchPolicy) -> str | None:
    """The URL that a browser may load a tag's picture from, in the form in which the worker would ask for it;
    None where there is none."""
    if not isinstance(url, str) or not sources:
        return None
    try:
        checked = check_url(url, policy)
    except UrlForbidden:
        return None
    return str(checked) if any(source.covers(checked) for source in sources) else None


def image_policy(sources: Sequence[Source]) -> str:
    """The value of `img-src`."""
    return " ".join(["'self'", *map(str, sources)])
