"""Text → value, for each kind of setting: how it is read, and the words that say what is allowed."""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from imgclust.fetching.addresses import check_nat64_prefix
from worker.errors import ERROR_CODES
from worker.messages import mapping_syntax
from worker.settings.redis_address import RedisAddress
from worker.settings.values import ImageSource, Network, RetryLimits

T = TypeVar("T")
L = TypeVar("L", bound=str)


@dataclasses.dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of setting.

    Attributes:
        parse: raises ValueError, KeyError or OverflowError for what is not allowed.
        allowed: completes the sentence "… must be …".
    """

    parse: Callable[[str], T]
    allowed: str

    def described(self, allowed: str) -> Kind[T]:
        """The same, in words that fit one setting better."""
        return dataclasses.replace(self, allowed=allowed)


# ── numbers and words ────────────────────────────────────────────────────────────────────────────────────


def number(low: float, high: float, unit: str) -> Kind[float]:
    def parse(value: str) -> float:
        parsed = float(value)
        if not (math.isfinite(parsed) and low <= parsed <= high):
            raise ValueError
        return parsed

    return Kind(parse, f"{unit} between {low:g} and {high:g}")


def seconds(low: float, high: float) -> Kind[float]:
    return number(low, high, "seconds")


def count(low: int, high: int) -> Kind[int]:
    def parse(value: str) -> int:
        parsed = int(value)
        if not low <= parsed <= high:
            raise ValueError
        return parsed

    return Kind(parse, f"a whole number between {low:,} and {high:,}")


def one_of(*allowed: L) -> Kind[L]:
    words: dict[str, L] = {word: word for word in allowed}
    return Kind(lambda value: words[value], f"{', '.join(allowed[:-1])} or {allowed[-1]}")


def device(*others: str) -> Kind[str]:
    """`cuda`, `cuda:1` … and others."""

    def parse(value: str) -> str:
        if value not in others and not re.fullmatch(r"cuda(:(0|[1-9][0-9]?))?", value, re.ASCII):
            raise ValueError
        return value

    return Kind(parse, f"{', '.join(others)}, cuda or cuda:N")


def list_of(item: Kind[T], allowed: str) -> Kind[tuple[T, ...]]:
    """Several, separated by spaces or commas."""

    def parse(value: str) -> tuple[T, ...]:
        return tuple(item.parse(part) for part in re.split(r"[\s,]+", value.strip()) if part)

    return Kind(parse, allowed)


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError
    return value.strip()


def _matching(pattern: str, allowed: str) -> Kind[str]:
    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return Kind(parse, allowed)


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

text = Kind(_text, "a name")
any_text = Kind(str, "text")
boolean = Kind(lambda value: _TRUTH[value.lower()], "true or false")
topic = _matching(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}", "a Kafka topic name: 1–249 of A–Z a–z 0–9 . _ -")


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────


def _folder(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_dir():
        raise ValueError
    return path.resolve()


def _existing(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.exists():
        raise ValueError
    return path


folder = Kind(_folder, "an existing folder")
file = Kind(_existing, "an existing file")


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    parsed = int(port)
    if not host or not 0 <= parsed <= 65535:
        raise ValueError
    return host.strip("[]"), parsed


def _redis_url(value: str) -> str:
    RedisAddress.parse(value)
    return value


def _registry_url(value: str) -> str:
    for url in value.split(","):
        parts = urllib.parse.urlsplit(url.strip())
        if parts.scheme not in ("http", "https", "mock") or not (parts.hostname or parts.scheme == "mock"):
            raise ValueError
    return value


def _proxy(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    return value


def _nat64(value: str) -> ipaddress.IPv6Network:
    prefix = ipaddress.IPv6Network(value)
    check_nat64_prefix(prefix)
    return prefix


def _network(value: str) -> Network:
    return ipaddress.ip_network(value)


address = Kind(_address, "host:port")
redis_url = Kind(
    _redis_url,
    "redis://host:port/db, rediss://… (TLS), unix://path, redis+cluster://host:port,host:port or "
    "redis+sentinel://host:port,host:port/name",
)
registry_url = Kind(_registry_url, "http://host:port or https://host:port, several separated by commas")
proxy = Kind(_proxy, "http://host:port or https://host:port")
uri_reference = _matching(r"[!-~]{1,200}", "a URI or a path, like /imgclust/uploads")
user_password = _matching(r"(?s)[^:]+:.*", "user:password")
networks = list_of(Kind(_network, ""), "networks like 10.1.0.0/16, separated by spaces")
nat64_prefixes = list_of(
    Kind(_nat64, ""),
    "IPv6 networks like 2001:db8:64::/96 (/32, /40, /48, /56, /64 or /96), separated by spaces",
)
ports = list_of(count(1, 65_535), "port numbers separated by spaces")
buckets = list_of(
    _matching(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", ""), "names of S3 buckets, separated by spaces"
)


def host_globs(example: str) -> Kind[tuple[str, ...]]:
    glob = _matching(r"[A-Za-z0-9.*_\-\[\]:]+", "")
    lower = Kind(lambda value: glob.parse(value).lower(), "")
    return list_of(lower, f"host names or globs like {example}, separated by spaces")


# ── what has a syntax of its own ─────────────────────────────────────────────────────────────────────────


def _retry_limits(value: str) -> RetryLimits:
    tries = count(1, 100).parse
    default, *others = value.split()
    by_code = dict(part.split("=") for part in others)
    if not by_code.keys() <= set(ERROR_CODES):
        raise ValueError
    return RetryLimits(tries(default), {code: tries(number) for code, number in by_code.items()})


def _records(value: str) -> frozenset[tuple[int, int]]:
    at_least_0 = count(0, 2**63 - 1).parse
    pairs = [part.split(":") for part in re.split(r"[\s,]+", value.strip()) if part]
    return frozenset((at_least_0(partition), at_least_0(offset)) for partition, offset in pairs)


def _message(value: str) -> tuple[Path, str]:
    path, _, name = value.rpartition(":")
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII):
        raise ValueError
    descriptors = Path(path).expanduser()
    if not descriptors.is_file():
        raise ValueError
    return descriptors, name


def _image_sources(value: str) -> tuple[ImageSource, ...]:
    if value.strip().lower() == "none":
        return ()
    return list_of(Kind(ImageSource.parse, ""), "").parse(value)


retry_limits = Kind(
    _retry_limits, "a number from 1 to 100; code=number for single codes, such as 5 not-found=8"
)
records = Kind(_records, "partition:offset, several separated by spaces")
image_sources = Kind(
    _image_sources, "sources like https: or http://*.cdn.example:8080 separated by spaces, or none"
)
protobuf_message = Kind(
    _message,
    "FILE.desc:package.Message, with a file of protoc --include_imports --descriptor_set_out=FILE.desc",
)
field_map = Kind(mapping_syntax.parse_map, "field=source pairs such as id=photo.id,url=photo.cdn.original")
