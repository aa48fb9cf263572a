"""URLs of a Redis, a Redis Cluster and Sentinels: what they mean, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.settings.redis_address import RedisAddress


def test_a_server_is_left_to_the_client_library() -> None:
    """The usual URLs mean what they always meant."""
    for url in ("redis://h/0", "rediss://u:p@h:1/2?ssl_ca_certs=/ca", "unix:///run/redis.sock"):
        address = RedisAddress.parse(url)
        assert (address.kind, address.url) == ("server", url)


def test_a_cluster_is_some_of_its_nodes() -> None:
    """Several nodes, an IPv6 one, a user with a password that needs escaping, TLS with its files."""
    address = RedisAddress.parse("rediss+cluster://user:p%40ss@a:7000,[::1]:7001,b?ssl_ca_certs=/ca.pem")
    assert address.kind == "cluster"
    assert address.nodes == (("a", 7000), ("::1", 7001), ("b", 6379))
    assert (address.username, address.password) == ("user", "p@ss")
    assert dict(address.tls) == {"ssl": True, "ssl_ca_certs": "/ca.pem"}
    assert "p@ss" not in repr(address)
    assert "p%40ss" not in repr(address)


def test_sentinels_name_a_primary() -> None:
    """The name, the database, and the Sentinels' own password."""
    address = RedisAddress.parse("redis+sentinel://:secret@s1,s2:26380/mymaster/3?sentinel_password=other")
    assert (address.kind, address.service, address.db) == ("sentinel", "mymaster", 3)
    assert address.nodes == (("s1", 26379), ("s2", 26380))
    assert (address.username, address.password, address.sentinel_password) == (None, "secret", "other")
    assert RedisAddress.parse("redis+sentinel://s1/m").db == 0


@pytest.mark.parametrize(
    "url",
    [
        "", "h:6379", "http://h", "redis://", "redis+cluster://", "redis+cluster://h/1", "redis+cluster://h:x",
        "redis+cluster://h,", "redis+cluster://h?db=1", "redis+cluster://h?ssl_ca_certs=/ca",
        "redis+cluster://h?sentinel_password=x", "redis+sentinel://h", "redis+sentinel:///m",
        "redis+sentinel://h/m/x", "redis+sentinel://h:99999/m", "redis+unix:///x",
    ],
)  # fmt: skip
def test_what_is_none_of_these_is_refused(url: str) -> None:
    """A wrong URL is found at the start and not when Redis is needed."""
    with pytest.raises(ValueError):  # noqa: PT011
        RedisAddress.parse(url)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    """Nothing else is raised, whatever follows the scheme."""
    for scheme in ("redis+cluster://", "redis+sentinel://", ""):
        try:
            found = RedisAddress.parse(scheme + text)
        except ValueError:
            continue
        assert found.kind == "server" or found.nodes
