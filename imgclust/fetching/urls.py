"""What a URL may name: its scheme, host, port and form, before anything is connected to. Pure.

The rules are stricter than RFC 3986: where two parsers could read a URL differently, it is refused.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import ipaddress
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from yarl import URL

from imgclust.errors import UrlForbidden
from imgclust.fetching.addresses import Network, check_nat64_prefix, may_connect

MAX_URL_CHARS = 8192

_DEFAULT_PORTS = {"http": 80, "https": 443}
# C0 and DEL; the backslash, which browsers read as a slash; spaces at the ends, which browsers leave out
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]|^ | \Z")
# and in a scheme and authority: spaces and the C1 controls
_UNSAFE_ORIGIN = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_PARTS = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.ASCII | re.DOTALL)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE | re.ASCII)
# what no request line can carry: all but visible ASCII
_UNSENDABLE = re.compile(r"[^\x21-\x7e]+")
_PLAIN_URL = re.compile(r"(https?://[^/?#\\\x00-\x20\x7f-\U0010ffff]+)(/[^#\\\x00-\x20\x7f-\U0010ffff]*)")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# A host whose last label is a number is an IPv4 address to some parsers: 127.1, 0x7f.1, 2130706433
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)


def shown(url: str, limit: int = 120) -> str:
    """A URL made safe for a message: ASCII, one line, bounded, without its query, where signatures are."""
    text = ascii(url.partition("?")[0] + ("?…" if "?" in url else ""))
    text = text.replace("\\u2026", "…")
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@dataclasses.dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be fetched, and how much it may take. Durations in seconds.

    Attributes:
        allow_networks: may be connected to although they are not public.
        allow_hosts: globs like `*.cdn.example`; when there are any, only these hosts. Their addresses still
            have to be public, or in `allow_networks`.
        deny_hosts: globs of hosts that are refused, whatever else allows them.
        allow_ports: that may be connected to.
        allow_files: a folder; `file:` URLs of regular files below it are read. None: no `file:` URL is.
        allow_buckets: of S3; `s3://` URLs that name one of these are read.
        proxy: the URL of an HTTP proxy that connects in our place, also to hosts whose addresses only it
            resolves: what it lets pass is then its own decision. None: none, whatever the environment holds.
        nat64_prefixes: of the network that this machine is in, beside 64:ff9b::/96.
        max_bytes: of one image.
        connect_timeout: of one attempt to connect, TLS included.
        first_byte_timeout: of any pause in which the server sends nothing.
        total_timeout: of one fetch with name look-up and redirects.
        min_rate: bytes/s that a body must arrive with, on average, once `rate_grace` has passed.
        max_redirects: each hop is checked like the first URL.
        per_host: connections to one host and port at once; None: three quarters of all, so that one slow host
            leaves a quarter to the others.
    """

    allow_networks: tuple[Network, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    deny_hosts: tuple[str, ...] = ()
    allow_ports: tuple[int, ...] = (80, 443)
    allow_files: Path | None = None
    allow_buckets: tuple[str, ...] = ()
    proxy: str | None = dataclasses.field(default=None, repr=False)  # may hold a password
    nat64_prefixes: tuple[ipaddress.IPv6Network, ...] = ()
    max_bytes: int = 20 * 1024 * 1024
    connect_timeout: float = 3.0
    first_byte_timeout: float = 5.0
    total_timeout: float = 10.0
    min_rate: float = 4096.0
    rate_grace: float = 2.0
    max_redirects: int = 3
    per_host: int | None = None

    def __post_init__(self) -> None:
        for prefix in self.nat64_prefixes:
            check_nat64_prefix(prefix)
        for name in ("max_bytes", "connect_timeout", "first_byte_timeout", "total_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")

    def host_share(self, connections: int) -> int:
        """How many of so many connections may go to one host."""
        return max(1, connections * 3 // 4 if self.per_host is None else self.per_host)

    def permits_address(self, address: str) -> bool:
        """Whether a socket to this address may be opened."""
        return may_connect(address, self.allow_networks, self.nat64_prefixes)

    def permits_host(self, host: str) -> bool:
        """Whether the globs let this host pass; its addresses are another matter."""
        if _matches(host, self.deny_hosts):
            return False
        return not self.allow_hosts or _matches(host, self.allow_hosts)

    def to_json(self) -> dict[str, object]:
        """As JSON's types, for another process; `from_json` reads it."""
        out: dict[str, object] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        out["allow_networks"] = [str(network) for network in self.allow_networks]
        out["nat64_prefixes"] = [str(network) for network in self.nat64_prefixes]
        out["allow_files"] = None if self.allow_files is None else str(self.allow_files)
        return out

    @classmethod
    def from_json(cls, data: dict[str, object]) -> FetchPolicy:
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        fields["allow_networks"] = tuple(map(ipaddress.ip_network, _texts(data["allow_networks"])))
        fields["nat64_prefixes"] = tuple(map(ipaddress.IPv6Network, _texts(data["nat64_prefixes"])))
        fields["allow_files"] = Path(str(data["allow_files"])) if data["allow_files"] else None
        return cls(**fields)  # type: ignore[arg-type]


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return value


def _matches(host: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(host, glob.lower()) for glob in globs)


def check_url(url: str, policy: FetchPolicy) -> URL:
    """Read an http or https URL and refuse what the policy does not allow.

    Returns:
        The URL to ask for: the host checked and in ASCII; path and query byte for byte as they were written
        (a signed URL must arrive as it was signed), but for spaces and what is not ASCII, which are
        percent-encoded as UTF-8, or as the bytes that lone surrogates stand for.

    Raises:
        UrlForbidden: with the reason.
    """
    if len(url) > MAX_URL_CHARS:
        raise UrlForbidden(f"the URL has {len(url)} characters, at most {MAX_URL_CHARS} are read")
    parts = _PARTS.fullmatch(url)
    origin, target = (f"{parts[1]}://{parts[2]}", parts[3]) if parts else (url, "")
    if _UNSAFE.search(url) or _UNSAFE_ORIGIN.search(origin):
        raise UrlForbidden(f"the URL {shown(url)} contains spaces, control characters or backslashes")
    try:
        target = sendable(target)
        parsed = URL(origin)
        scheme, host, port = parsed.scheme, parsed.raw_host, parsed.port
    except (ValueError, IndexError) as error:  # IndexError: yarl of "http://[::1]@/"
        raise UrlForbidden(f"the URL {shown(url)} is malformed ({type(error).__name__})") from None
    if scheme not in _DEFAULT_PORTS:
        raise UrlForbidden(
            f"the URL {shown(url)} has the scheme {shown(scheme, 40)}; http and https are fetched"
        )
    if "@" in parsed.raw_authority:
        raise UrlForbidden("the URL carries a user name or password, which is never sent")
    if not host:
        raise UrlForbidden(f"the URL {shown(url)} names no host")
    host = _check_host(host.lower(), policy)
    if port not in policy.allow_ports:
        allowed = " ".join(map(str, policy.allow_ports))
        raise UrlForbidden(
            f"the URL {shown(url)} names the port {port}; allowed are: {allowed}, "
            "by WORKER_FETCH_ALLOW_PORTS (--allow-port)"
        )
    path, mark, query = target.partition("?")
    return URL.build(
        scheme=scheme,
        authority=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        path=(path or "/") + ("" if query else mark),  # a URL object has no empty query
        query_string=query,
        encoded=True,
    )


def sendable(target: str) -> str:
    """Percent-encode what a request line cannot carry, and nothing else.

    Raises:
        UnicodeEncodeError: a surrogate that stands for no byte.
    """
    return _UNSENDABLE.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogateescape")), target
    )


def redirected(base: URL, location: str) -> str:
    """The URL that a `Location` header names, as it was written (RFC 3986 5.2.2); yet to be checked.

    Dots are only resolved in a path that begins at the base's own folder: all others were meant as they are.
    """
    parts = _PARTS.fullmatch(str(base))
    if parts is None or _SCHEME.match(location):
        return location
    scheme, authority, target = parts.groups()
    location = location.partition("#")[0]
    if location.startswith("//"):
        return f"{scheme}:{location}"
    if not location.startswith("/"):
        here = target.partition("?")[0] or "/"
        if location.startswith("?"):
            location = here + location
        elif location:
            path, mark, query = location.partition("?")
            location = _without_dots(here[: here.rindex("/") + 1] + path) + mark + query
        else:
            location = target
    return f"{scheme}://{authority}{location}"


def _without_dots(path: str) -> str:
    """Remove the segments `.` and `..` of an absolute path (RFC 3986 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if segments[-1] in (".", "..") and kept else "")


class UrlChecker:
    """`check_url` for many URLs of few hosts: what was found of a scheme and authority is kept.

    A URL in the plainest form (ASCII, no fragment, an absolute path) of a known origin is put together from
    the origin as it was checked and the rest as it was written; every other one takes the long way.
    """

    def __init__(self, policy: FetchPolicy, keep: int = 1024) -> None:
        self.policy = policy
        self._keep = keep
        self._origins: dict[str, str] = {}  # "http://Example.com:80" → "http://example.com"

    def check(self, url: str) -> URL:
        """See `check_url`."""
        plain = _PLAIN_URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
        if plain is None or url.find("?") == len(url) - 1:
            return check_url(url, self.policy)
        written, rest = plain.groups()
        origin = self._origins.get(written)
        if origin is not None:
            return URL(origin + rest, encoded=True)
        checked = check_url(url, self.policy)
        if len(self._origins) >= self._keep:
            self._origins.clear()
        self._origins[written] = str(checked.origin())
        return checked


def _check_host(host: str, policy: FetchPolicy) -> str:
    """A host in lower-case ASCII, allowed by the policy as far as can be decided without the resolver."""
    bare = host.removesuffix(".")
    if not policy.permits_host(bare):
        raise UrlForbidden(
            f"the host {shown(host)} is not in WORKER_FETCH_ALLOW_HOSTS, or it is in WORKER_FETCH_DENY_HOSTS"
        )
    if ":" in host or _NUMBER.fullmatch(bare.rpartition(".")[2]):
        _check_literal(host, policy)
        return host
    if len(bare) > 253 or not all(_LABEL.fullmatch(label) for label in bare.split(".")):
        raise UrlForbidden(f"{shown(host)} is not a host name")
    return bare


def _check_literal(host: str, policy: FetchPolicy) -> None:
    try:
        if "%" in host:
            raise ValueError("an address zone is only valid on its own machine")
        ipaddress.ip_address(host)  # takes one way to write each address, no 127.1, no 0177.0.0.1
    except ValueError:
        raise UrlForbidden(f"the host {shown(host)} is not an address in its usual form") from None
    if not policy.permits_address(host):
        raise UrlForbidden(
            f"the address {shown(host)} is not public; "
            "if it should be fetched, add its network to WORKER_FETCH_ALLOW_NETWORKS (--allow-network)"
        )


def file_path(url: str) -> Path:
    """The path that a `file:` URL names.

    Raises:
        UrlForbidden: it names another machine, or is no path.
    """
    if len(url) > MAX_URL_CHARS or _UNSAFE_ORIGIN.search(url):
        raise UrlForbidden(f"the URL {shown(url)} is too long, or contains control characters or spaces")
    try:
        parts = urllib.parse.urlsplit(url)
        path = urllib.parse.unquote(parts.path, errors="strict") if parts.path.isascii() else parts.path
    except ValueError:  # brackets that hold no address, bytes that are no UTF-8
        raise UrlForbidden(f"the URL {shown(url)} is malformed") from None
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise UrlForbidden(f"the URL {shown(url)} must look like file:///folder/file, without host or query")
    if not path.startswith("/") or "\0" in path:
        raise UrlForbidden(f"the URL {shown(url)} must name an absolute path")
    return Path(path)
