"""Text → value, for each kind of setting; ValueError or KeyError where it is not allowed."""

from __future__ import annotations

import ipaddress
import math
import re
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgclust.fetching.addresses import check_nat64_prefix
from worker.errors import ERROR_CODES
from worker.settings.values import ImageSource, RetryLimits

Parser = Callable[[str], Any]


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError
    return value.strip()


def _one_of(*allowed: str) -> Parser:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError
        return value

    return parse


def _bool(value: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]


def _number(low: float, high: float) -> Parser:
    def parse(value: str) -> float:
        number = float(value)
        if not (math.isfinite(number) and low <= number <= high):
            raise ValueError
        return number

    return parse


def _integer(low: int, high: int) -> Parser:
    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _list(item: Parser) -> Parser:
    def parse(value: str) -> tuple[Any, ...]:
        return tuple(item(part) for part in re.split(r"[\s,]+", value.strip()) if part)

    return parse


def _retry_limits(value: str) -> RetryLimits:
    count = _integer(1, 100)
    default, *others = value.split()
    by_code = dict(part.split("=") for part in others)
    if not by_code.keys() <= set(ERROR_CODES):
        raise ValueError
    return RetryLimits(count(default), {code: count(number) for code, number in by_code.items()})


def _records(value: str) -> frozenset[tuple[int, int]]:
    named = _list(str)(value)
    pairs = [part.split(":") for part in named]
    number = _integer(0, 2**63 - 1)
    return frozenset((number(partition), number(offset)) for partition, offset in pairs)


def _host_glob(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.*_\-\[\]:]+", value):
        raise ValueError
    return value.lower()


def _bucket(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", value):
        raise ValueError
    return value


def _nat64(value: str) -> ipaddress.IPv6Network:
    prefix = ipaddress.IPv6Network(value)
    check_nat64_prefix(prefix)
    return prefix


def _proxy(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    return value


def _image_sources(value: str) -> tuple[ImageSource, ...]:
    sources: tuple[ImageSource, ...] = (
        () if value.strip().lower() == "none" else _list(ImageSource.parse)(value)
    )
    return sources


def _existing_folder(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_dir():
        raise ValueError
    return path.resolve()


def _existing(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.exists():
        raise ValueError
    return path


def _address(value: str) -> tuple[str, int]:
    host, _, port = value.rpartition(":")
    number = int(port)
    if not host or not 0 <= number <= 65535:
        raise ValueError
    return host.strip("[]"), number


def _redis_url(value: str) -> str:
    parts = urllib.parse.urlsplit(value)
    if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.path):
        raise ValueError
    return value


def _registry_url(value: str) -> str:
    for url in value.split(","):
        parts = urllib.parse.urlsplit(url.strip())
        if parts.scheme not in ("http", "https", "mock") or not (parts.hostname or parts.scheme == "mock"):
            raise ValueError
    return value


def _user_password(value: str) -> str:
    user, colon, _ = value.partition(":")
    if not (user and colon):
        raise ValueError
    return value


def _message(value: str) -> tuple[Path, str]:
    path, _, name = value.rpartition(":")
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name, re.ASCII):
        raise ValueError
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError
    return file, name


def _topic(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", value) or value in (".", ".."):
        raise ValueError
    return value
