"""`imgclust.fetching.urls`: what a URL may name, and what arrives of it at the server."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from imgclust.errors import UrlForbidden
from imgclust.fetching.urls import FetchPolicy, check_url, file_path, shown

PUBLIC = FetchPolicy()


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://Example.COM/A.jpg", "https://example.com/A.jpg"),
        ("http://example.com:80/a", "http://example.com/a"),
        ("https://example.com./a", "https://example.com/a"),
        # a signed URL arrives as it was signed
        ("https://b.s3.example.com/a%2Fb+c?X-Sig=%41%2b+/=&c=~%7E", "https://b.s3.example.com/a%2Fb+c?X-Sig=%41%2b+/=&c=~%7E"),
        ("http://bücher.example/ä?ö=ü", "http://xn--bcher-kva.example/%C3%A4?%C3%B6=%C3%BC"),
        ("http://8.8.8.8/x#fragment", "http://8.8.8.8/x"),
        ("http://[2606:4700::1111]/x", "http://[2606:4700::1111]/x"),
        ("http://my_bucket.example.com/x", "http://my_bucket.example.com/x"),
    ],
)  # fmt: skip
def test_what_is_asked_for(url: str, asked: str) -> None:
    """Host in ASCII and lower case; path and query untouched where they are ASCII."""
    assert str(check_url(url, PUBLIC)) == asked


def test_hosts_are_chosen_by_globs() -> None:
    """Allowed hosts are exclusive, denied ones win, and neither opens a private address."""
    policy = FetchPolicy(allow_hosts=("*.cdn.example", "127.*"), deny_hosts=("bad.cdn.example",))
    check_url("http://a.cdn.example/x", policy)
    check_url("http://A.CDN.example./x", policy)
    for url in (
        "http://cdn.example/",
        "http://bad.cdn.example/",
        "http://cdn.example.evil/",
        "http://127.0.0.1/",
    ):
        with pytest.raises(UrlForbidden):
            check_url(url, policy)


def test_ports_are_chosen() -> None:
    """80 and 443 by default; the error names what is allowed."""
    with pytest.raises(UrlForbidden, match=r"the port 8080; allowed are: 80 443"):
        check_url("http://example.com:8080/", PUBLIC)
    check_url("http://example.com:8080/", FetchPolicy(allow_ports=(8080,)))


def test_messages_show_no_query_and_nothing_raw() -> None:
    """What a message says of a URL is ASCII, one line, short, and without the query that holds signatures."""
    text = shown("http://a/\r\n\x1b[31m‮?token=secret")
    assert text.isascii() is False
    assert text.replace("…", "").isascii()
    assert text.isprintable()
    assert "secret" not in text
    assert len(shown("http://" + "a" * 9000)) == 120


def understood(url: str) -> tuple[URL | None, str]:
    try:
        return check_url(url, PUBLIC), ""
    except UrlForbidden as error:
        return None, str(error)


@given(st.text(max_size=60))
def test_any_text_is_refused_or_understood(text: str) -> None:
    """Nothing but UrlForbidden comes out, whatever stands in the URL; and its message is safe."""
    for url in (text, f"http://{text}", f"http://example.com/{text}", f"http://example.com:{text}/"):
        asked, message = understood(url)
        assert message.isprintable()
        if asked is not None:
            assert asked.scheme in ("http", "https")
            assert asked.raw_host is not None
            assert asked.raw_host.isascii()
            assert asked.raw_user is None
            assert str(asked).isascii()
            assert str(check_url(str(asked), PUBLIC)) == str(asked)


def test_a_policy_survives_the_way_to_a_fetcher() -> None:
    """Through JSON and back nothing is lost."""
    policy = FetchPolicy(
        allow_networks=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")),
        allow_hosts=("*.example",),
        deny_hosts=("b.example",),
        allow_files=Path("/srv/images"),
        allow_buckets=("uploads",),
        proxy="http://user:secret@proxy.example:3128",
        nat64_prefixes=(ipaddress.IPv6Network("2001:db8:64::/96"),),
        max_bytes=1234,
        min_rate=0.5,
    )
    assert FetchPolicy.from_json(policy.to_json()) == policy
    assert FetchPolicy.from_json(PUBLIC.to_json()) == PUBLIC
    assert "secret" not in repr(policy)


def test_nonsense_policies_are_refused() -> None:
    """The value is named."""
    with pytest.raises(ValueError, match="max_bytes must be more than 0, got 0"):
        FetchPolicy(max_bytes=0)
    with pytest.raises(ValueError, match="NAT64 prefix"):
        FetchPolicy(nat64_prefixes=(ipaddress.IPv6Network("2001:db8::/33"),))


@pytest.mark.parametrize(
    "url",
    ["file://host/etc/passwd", "file:relative", "file:///a?b", "file:///a#b", "file:///%00", "file:///a%ff", "file://",
     "file://[::x]/a"],
)  # fmt: skip
def test_odd_file_urls_are_refused(url: str) -> None:
    """Another machine, no absolute path, query, NUL, not UTF-8."""
    with pytest.raises(UrlForbidden):
        file_path(url)


def test_file_urls_name_paths() -> None:
    """Percent-encoding is undone once."""
    assert file_path("file:///a/b%20c.jpg") == Path("/a/b c.jpg")
    assert file_path("file://localhost/a/%2520") == Path("/a/%20")
