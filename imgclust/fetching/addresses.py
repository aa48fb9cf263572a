"""Which addresses are the public internet's. A table of our own, pure, without any network access.

`ipaddress.is_global` answers another question (is the block globally reachable in principle) and accepts
NAT64, 6to4, multicast and ISATAP; what may be *connected to on a stranger's word* is narrower:

- IPv4: everything outside `_IPV4_RESERVED`.
- IPv6: only `2000::/3`, the one block that global unicast addresses are assigned from, less `_IPV6_RESERVED`.
- An IPv6 address that stands for an IPv4 one is judged by the IPv4 address where traffic really arrives
  there (mapped; NAT64), and refused where it would need a relay that nobody honest uses any more (6to4,
  Teredo, ISATAP, IPv4-compatible, IPv4-translated).

Sources: the IANA special-purpose address registries for IPv4 and IPv6 (RFC 6890 and its updates), RFC 6052
(NAT64), RFC 5214 (ISATAP), RFC 9637 (documentation), and the fixed addresses of cloud metadata services.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV4_RESERVED = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this network"; on Linux 0.0.0.0 connects to the machine itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service is 100.100.100.200
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host agent, a public address that is not on the internet
        "169.254.0.0/16",  # link-local; metadata services of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service is 192.0.0.192
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112 sinkholes
        "192.52.193.0/24",  # multicast tunnels
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112 sinkholes
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, with the broadcast address
    )
)

_IPV6_PUBLIC = ipaddress.IPv6Network("2000::/3")
_IPV6_RESERVED = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID, anycast
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112 sinkholes
        "3fff::/20",  # documentation
    )
)

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
# The well-known NAT64 prefix. In an IPv6-only network every IPv4 host of the internet is reached through it.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# RFC 6052 2.2: where the four octets lie, by the prefix length; octet 8 is always skipped.
_NAT64_OCTETS = {
    32: (4, 5, 6, 7),
    40: (5, 6, 7, 9),
    48: (6, 7, 9, 10),
    56: (7, 9, 10, 11),
    64: (9, 10, 11, 12),
    96: (12, 13, 14, 15),
}
# RFC 5214 6.1: an interface identifier 0000:5efe or 0200:5efe, before the IPv4 address
_ISATAP = (0x00005EFE, 0x02005EFE)


def check_nat64_prefix(network: Network) -> None:
    """Refuse what is not a NAT64 prefix.

    Raises:
        ValueError: not IPv6, or of a length that RFC 6052 does not know.
    """
    if network.version != 6 or network.prefixlen not in _NAT64_OCTETS:
        lengths = ", ".join(f"/{length}" for length in _NAT64_OCTETS)
        raise ValueError(f"a NAT64 prefix is an IPv6 network with one of {lengths}, got {network}")


def _embedded(address: ipaddress.IPv6Address, prefix: ipaddress.IPv6Network) -> ipaddress.IPv4Address:
    octets = address.packed
    return ipaddress.IPv4Address(bytes(octets[i] for i in _NAT64_OCTETS[prefix.prefixlen]))


def reached(address: Address, nat64: Sequence[ipaddress.IPv6Network] = ()) -> Address:
    """The address that a packet to `address` arrives at: itself, or the IPv4 address that it stands for.

    Args:
        nat64: further NAT64 prefixes of the network that this machine is in.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _MAPPED:
        return ipaddress.IPv4Address(address.packed[12:])
    for prefix in (_NAT64, *nat64):
        if address in prefix:
            return _embedded(address, prefix)
    return address


def is_public(address: Address) -> bool:
    """Whether an address (as `reached` returns it) belongs to the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _IPV4_RESERVED)
    if address not in _IPV6_PUBLIC or any(address in network for network in _IPV6_RESERVED):
        return False
    return int.from_bytes(address.packed[8:12], "big") not in _ISATAP


def may_connect(
    text: str,
    allow_networks: Sequence[Network] = (),
    nat64: Sequence[ipaddress.IPv6Network] = (),
) -> bool:
    """Whether a socket to this address may be opened.

    Args:
        text: an address as the resolver or a URL gives it; what is not one is refused.
        allow_networks: networks that may be connected to although they are not public.
        nat64: see `reached`.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        address = ipaddress.IPv6Address(address.packed)
    target = reached(address, nat64)
    return is_public(target) or any(a in network for a in {address, target} for network in allow_networks)
