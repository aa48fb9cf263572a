"""`imgclust.fetching.urls`: what a URL may name, and what arrives of it at the server."""

import ipaddress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from imgclust.errors import UrlForbidden
from imgclust.fetching.urls import FetchPolicy, UrlChecker, check_url, file_path, redirected, shown

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
        # one character that has to be encoded leaves the rest alone, and is not encoded twice
        ("http://example.com/a%28b%29/ü%2F.png?sig=%2Fx%27y%7E&ö", "http://example.com/a%28b%29/%C3%BC%2F.png?sig=%2Fx%27y%7E&%C3%B6"),
        ("http://example.com/new place/a b.png?q=a b%20c", "http://example.com/new%20place/a%20b.png?q=a%20b%20c"),
        ("http://example.com/caf\udce9.png", "http://example.com/caf%E9.png"),
        ("http://example.com/a/../b/./c//d%2e%2E", "http://example.com/a/../b/./c//d%2e%2E"),
        ("http://example.com/100%/a{b}|^`\"<>'()", "http://example.com/100%/a{b}|^`\"<>'()"),
        ("http://example.com/a?", "http://example.com/a?"),
        ("http://example.com?a=/b?c", "http://example.com/?a=/b?c"),
        ("http://example.com/a??#?", "http://example.com/a??"),
        ("http://8.8.8.8/x#fragment", "http://8.8.8.8/x"),
        ("http://[2606:4700::1111]/x", "http://[2606:4700::1111]/x"),
        ("http://my_bucket.example.com/x", "http://my_bucket.example.com/x"),
    ],
)  # fmt: skip
def test_what_is_asked_for(url: str, asked: str) -> None:
    """Host in ASCII and lower case; path and query untouched, but for what no request can carry."""
    assert str(check_url(url, PUBLIC)) == asked
    assert str(UrlChecker(PUBLIC).check(url)) == asked


# what may stand in a path or query: no fragment, no backslash, no control character
TARGETS = st.text(
    st.characters(exclude_characters="#\\\x7f", exclude_categories=["Cs"], min_codepoint=0x21), max_size=30
)
BYTES = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
WHATEVER = TARGETS | BYTES.filter(
    lambda text: not set(text) & set(map(chr, (*range(0x21), 0x7F, 0x23, 0x5C)))
)
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


def on_the_wire(target: str) -> str:
    """The standard library's encoder as a yardstick: every visible character is left alone."""
    return quote(target, safe=VISIBLE, errors="surrogateescape")


@given(WHATEVER, WHATEVER)
def test_what_is_sent_is_what_was_written(path: str, query: str) -> None:
    """Of a URL, and of a redirect to it in each of its forms, whatever bytes; encoding it again changes
    nothing."""
    target = f"/{path}?{query}"
    base = check_url("https://example.com/x/y?z", PUBLIC)
    for written in (
        f"https://example.com{target}",
        redirected(base, f"https://example.com{target}"),
        redirected(base, f"//example.com{target}"),
        *([] if target.startswith("//") else [redirected(base, target)]),
    ):
        for checker in (UrlChecker(PUBLIC), UrlChecker(PUBLIC)):
            checker.check("https://example.com/a")
            asked = checker.check(written)
            assert asked.raw_path_qs == on_the_wire(target)
            assert str(asked) == f"https://example.com{on_the_wire(target)}"
            assert str(checker.check(str(asked))) == str(asked)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        # RFC 3986 5.4, in so far as it is about http
        ("g", "http://a/b/c/g"), ("./g", "http://a/b/c/g"), ("g/", "http://a/b/c/g/"), ("/g", "http://a/g"),
        ("//g", "http://g"), ("?y", "http://a/b/c/d;p?y"), ("g?y", "http://a/b/c/g?y"),
        ("#s", "http://a/b/c/d;p?q"), ("g#s", "http://a/b/c/g"), ("g?y#s", "http://a/b/c/g?y"),
        (";x", "http://a/b/c/;x"), ("g;x=1/../y", "http://a/b/c/y"), (".", "http://a/b/c/"),
        ("..", "http://a/b/"), ("../", "http://a/b/"), ("../g", "http://a/b/g"), ("../..", "http://a/"),
        ("../../g", "http://a/g"), ("../../../g", "http://a/g"), ("g.", "http://a/b/c/g."),
        ("..g", "http://a/b/c/..g"), ("./g/.", "http://a/b/c/g/"), ("g/../h", "http://a/b/c/h"),
        ("g?y/../x", "http://a/b/c/g?y/../x"), ("g#s/../x", "http://a/b/c/g"),
        ("http://g/x", "http://g/x"), ("a b%28?c d", "http://a/b/c/a b%28?c d"),
        # dots of a path that is given in full are meant
        ("/x/../y/./z", "http://a/x/../y/./z"), ("//g/x/../y", "http://g/x/../y"),
        # what is no http URL is refused by `check_url`
        ("g:h", "g:h"), ("http:g", "http:g"), ("///g", "http:///g"),
    ],
)  # fmt: skip
def test_where_redirects_lead(location: str, url: str) -> None:
    """As the standard resolves references, but for re-encoding and dots that were written in full."""
    assert redirected(URL("http://a/b/c/d;p?q", encoded=True), location) == url


@given(st.text(max_size=40))
def test_any_redirect_is_refused_or_understood(location: str) -> None:
    """Nothing but UrlForbidden comes out, and nothing but a checked http URL is asked for."""
    asked, message = understood(redirected(check_url("http://example.com/a/b?c", PUBLIC), location))
    assert message.isprintable()
    assert asked is None or (asked.scheme in ("http", "https") and str(asked).isascii())


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
