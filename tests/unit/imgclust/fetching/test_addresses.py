"""`imgclust.fetching.addresses`: which addresses may be connected to."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.fetching.addresses import check_nat64_prefix, may_connect, reached

FORBIDDEN = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16
169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1
198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.7 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::10.0.0.1
64:ff9b:1::8.8.8.8 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:20::1
2001:db8::1 2002:7f00:1:: 2002:808:808::1 2620:4f:8000::1 3fff::1 5f00::1 4000::1 fc00::1 fd00:ec2::254
fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1 2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:127.0.0.1
2606:4700:0:0:0:5efe:808:808
""".split()  # noqa: SIM905 — a table to read

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 168.63.129.15
172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 198.17.255.255 198.20.0.0 223.255.255.255
2606:4700::1111 2001:4860:4860::8888 2a00:1450:4001:81b::200e ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2620:fe::fe
""".split()  # noqa: SIM905 — a table to read


@pytest.mark.parametrize("address", FORBIDDEN)
def test_what_is_not_the_internet_is_refused(address: str) -> None:
    """Every block of the table, both ends of the wide ones, and every way to hide IPv4 in IPv6."""
    assert not may_connect(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_internet_is_allowed(address: str) -> None:
    """The neighbours of every reserved block, and IPv4 behind mapped and NAT64 addresses."""
    assert may_connect(address)


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "0x7f000001", "2130706433", "127.0.0.1 ", "1.2.3.4/8"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Only the usual form of an address counts."""
    assert not may_connect(text)


def test_allowed_networks_open_what_they_name_and_no_more() -> None:
    """A private network can be allowed; its mapped form with it, its neighbours not."""
    networks = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8"))
    assert may_connect("10.1.2.3", networks)
    assert may_connect("::ffff:10.1.2.3", networks)
    assert may_connect("fd12::1", networks)
    assert not may_connect("10.2.0.1", networks)
    assert not may_connect("127.0.0.1", networks)


@pytest.mark.parametrize(
    ("prefix", "address"),
    [  # the table of RFC 6052 2.4, for 192.0.2.33
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ],
)
def test_an_operators_nat64_prefix_is_seen_through(prefix: str, address: str) -> None:
    """The IPv4 address is found where RFC 6052 puts it, for every length of prefix."""
    network = ipaddress.IPv6Network(prefix)
    assert reached(ipaddress.ip_address(address), (network,)) == ipaddress.ip_address("192.0.2.33")
    assert not may_connect(address, (), (network,))


def test_a_public_looking_nat64_prefix_hides_nothing() -> None:
    """Without the setting it is an ordinary public network; with it, loopback behind it is refused."""
    prefix = ipaddress.IPv6Network("2a00:1098:2c::/96")
    assert may_connect("2a00:1098:2c::7f00:1")
    assert not may_connect("2a00:1098:2c::7f00:1", (), (prefix,))
    assert may_connect("2a00:1098:2c::808:808", (), (prefix,))


@pytest.mark.parametrize("network", ["10.0.0.0/8", "2001:db8::/33", "2001:db8::/128"])
def test_what_is_no_nat64_prefix_is_refused(network: str) -> None:
    """The lengths of RFC 6052 only."""
    with pytest.raises(ValueError, match="NAT64 prefix"):
        check_nat64_prefix(ipaddress.ip_network(network))


@given(st.integers(0, 2**32 - 1))
def test_never_wider_than_the_standard_library(number: int) -> None:
    """Whatever `ipaddress` calls not global is refused here too, in each of its disguises."""
    address = ipaddress.IPv4Address(number)
    allowed = may_connect(str(address))
    assert not (allowed and not address.is_global)
    mapped = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    nat64 = ipaddress.IPv6Address(bytes.fromhex("0064ff9b") + b"\0" * 8 + address.packed)
    assert may_connect(str(mapped)) == may_connect(str(nat64)) == allowed


@given(st.binary(min_size=16, max_size=16))
def test_no_ipv6_address_is_wider_than_the_standard_library(packed: bytes) -> None:
    """The same for IPv6: outside of 2000::/3 nothing passes but what stands for a public IPv4 address."""
    address = ipaddress.IPv6Address(packed)
    if may_connect(str(address)):
        assert address.is_global or address.ipv4_mapped is not None
        assert packed[0] >> 5 == 1 or reached(address) != address
