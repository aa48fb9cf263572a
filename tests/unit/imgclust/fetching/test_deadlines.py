"""`imgclust.fetching.deadlines`, and the origins that `imgclust.fetching.urls` keeps: what is fast decides
as what is slow."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import UrlForbidden
from imgclust.fetching.deadlines import Watch
from imgclust.fetching.urls import FetchPolicy, UrlChecker, check_url

POLICY = FetchPolicy(
    connect_timeout=3,
    first_byte_timeout=5,
    total_timeout=10,
    min_rate=1000,
    rate_grace=2,
    allow_ports=(80, 8080),
)


def watch(**state: float) -> Watch:
    return Watch(asyncio.Timeout(None), 100.0, **state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "now", "reason"),
    [
        ({"heard": 100.0}, 107.9, ""),
        ({"heard": 100.0}, 108.1, "no answer within 8 s"),
        ({"heard": math.inf}, 109.9, ""),  # waits for room, not for the server
        ({"heard": math.inf}, 110.1, "not finished within 10 s"),
        ({"heard": 109.9, "body_since": 109.0, "size": 10**6}, 110.1, "not finished"),
        ({"heard": 102.0, "body_since": 101.0, "size": 10**6}, 106.9, ""),
        ({"heard": 102.0, "body_since": 101.0, "size": 10**6}, 107.1, "silent for 5 s"),
        ({"heard": 104.9, "body_since": 101.0, "size": 3999}, 105.0, "below the minimum rate, 1000 bytes/s"),
        ({"heard": 104.9, "body_since": 101.0, "size": 4000}, 105.0, ""),
        ({"heard": 102.9, "body_since": 101.0, "size": 1}, 103.0, ""),  # within the grace
    ],
)
def test_each_limit_has_its_moment(state: dict[str, float], now: float, reason: str) -> None:
    """On either side of every limit; a fetch that waits for us is not blamed on the server."""
    judged = watch(**state).judge(now, POLICY)
    assert reason in judged
    assert bool(judged) == bool(reason)


def asked(check: object, url: str) -> str:
    try:
        return str(check(url))  # type: ignore[operator]
    except UrlForbidden as error:
        return f"forbidden: {error}"


ORIGINS = st.sampled_from(
    ["http://example.com", "https://EXAMPLE.com:8080", "http://example.com:80", "http://8.8.8.8", "http://10.0.0.1",
     "http://[2606:4700::1111]:8080", "http://a@example.com", "http://example.com:81", "http://bücher.example",
     "HTTP://example.com", "http://example.com.", "http://1.2", "http://"]
)  # fmt: skip
RESTS = st.one_of(
    st.just(""),
    st.text("abcZ09/?&=%2f.:@;+~!$'()*,[]{}|^`<>\"#\\ \t\né", max_size=20),
    st.text("ab/?@:", max_size=12).map(lambda t: "/" + t),
    st.sampled_from(["/../x", "/./", "//", "/a//b", "/%2e%2e/", "/a?b?c", "/a%", "/a%zz"]),
)


@given(st.lists(st.tuples(ORIGINS, RESTS), min_size=1, max_size=8))
def test_kept_origins_change_nothing(parts: list[tuple[str, str]]) -> None:
    """Whatever came before: the checker that remembers origins says what the one that does not says."""
    checker = UrlChecker(POLICY, keep=2)
    for origin, rest in [*parts, *parts]:
        url = origin + rest
        assert asked(checker.check, url) == asked(lambda u: check_url(u, POLICY), url)
