"""URLs that must lead nowhere. `{port}` is where a listener waits on every loopback address.

What they have in common: some parser, resolver or network stack reads an address in them that a naive
check does not see. Sources: the URL-confusion and SSRF collections of PortSwigger, OWASP and Orange Tsai's
"A New Era of SSRF", the WHATWG host-parsing rules, write-ups of holes in other fetchers, and our own reading
of yarl and aiohttp.
"""

# Literal IPv4, in every way that some `inet_aton`, browser or Unicode mapping understands
IPV4 = """
http://127.0.0.1:{port}/  http://127.0.0.1.:{port}/  http://127.1:{port}/  http://127.0.1:{port}/
http://2130706433:{port}/  http://0x7f000001:{port}/  http://0x7f.0.0.1:{port}/
http://0x7f.1:{port}/  http://0177.0.0.1:{port}/  http://0177.1:{port}/  http://017700000001:{port}/
http://127.000.000.001:{port}/  http://127.0.0.0x1:{port}/  http://00000177.0.0.1:{port}/
http://0:{port}/  http://0.0.0.0:{port}/  http://127.127.127.127:{port}/
http://127.255.255.254:{port}/  http://425.510.425.510:{port}/  http://2852039166:{port}/
http://4294967297:{port}/  http://127.0.0.1%2e:{port}/  http://127%2e0%2e0%2e1:{port}/
http://%31%32%37.0.0.1:{port}/  http://１２７.０.０.１:{port}/  http://127。0。0。1:{port}/
http://127．0．0．1:{port}/  http://①②⑦.⓪.⓪.①:{port}/  http://𝟏𝟐𝟕.𝟎.𝟎.𝟏:{port}/
http://127.0.0.1%00:{port}/  http://169.254.169.254/latest/meta-data/
http://100.100.100.200/latest/meta-data/  http://192.0.0.192/opc/v2/  http://168.63.129.16/metadata
http://10.0.0.1/  http://192.168.1.1/  http://172.16.0.1/  http://100.64.0.1/  http://198.18.0.1/
http://224.0.0.1/  http://240.0.0.1/  http://255.255.255.255/
""".split()  # noqa: SIM905 — a table to read

IPV6 = """
http://[::1]:{port}/  http://[0:0:0:0:0:0:0:1]:{port}/  http://[::]:{port}/
http://[::ffff:127.0.0.1]:{port}/  http://[::ffff:7f00:1]:{port}/  http://[::ffff:7f00:0001]:{port}/
http://[::ffff:0:127.0.0.1]:{port}/  http://[::127.0.0.1]:{port}/  http://[::ffff:0.0.0.0]:{port}/
http://[64:ff9b::127.0.0.1]:{port}/  http://[64:ff9b::7f00:1]:{port}/
http://[64:ff9b:1::7f00:1]:{port}/  http://[2002:7f00:1::]:{port}/
http://[2002:7f00:0001::1]:{port}/  http://[2001:0:7f00:1::80ff:fffe]:{port}/
http://[2606:4700::5efe:127.0.0.1]:{port}/  http://[fe80::5efe:7f00:1]:{port}/
http://[::1%25lo]:{port}/  http://[fe80::1%25lo]:{port}/  http://[fe80::1%lo]:{port}/
http://[::1%eth0]:{port}/  http://[fd00:ec2::254]/latest/  http://[fc00::1]/  http://[ff02::1]/
http://[::ffff:169.254.169.254]/latest/  http://[::１]:{port}/  http://[::1:{port}/
http://[::1]:{port}@/  http://[::1]@/  http://[v1.127.0.0.1]:{port}/  http://[127.0.0.1]:{port}/  http://::1:{port}/
""".split()  # noqa: SIM905

# Two parsers, two hosts
CONFUSION = [
    "http://127.0.0.1:{port}\\@example.com/", "http://example.com\\@127.0.0.1:{port}/",
    "http://example.com@127.0.0.1:{port}/", "http://user:password@127.0.0.1:{port}/",
    "http://example.com:80@127.0.0.1:{port}/", "http://127.0.0.1:{port}@example.com@127.0.0.1:{port}/",
    "http://foo@127.0.0.1:{port}@example.com/", "http://@127.0.0.1:{port}/", "http://:@127.0.0.1:{port}/",
    "http://example.com%40127.0.0.1:{port}/", "http://127.0.0.1:{port}#@example.com/",
    "http://127.0.0.1:{port}?@example.com/", "http://127.0.0.1:{port};@example.com/",
    "http:///127.0.0.1:{port}/", "http:127.0.0.1:{port}/", "http:/127.0.0.1:{port}/", "//127.0.0.1:{port}/",
    "http:////127.0.0.1:{port}/", "http:\\\\127.0.0.1:{port}\\", "http:/\\127.0.0.1:{port}/",
    "http://127.0.0.1:{port}%2f@example.com/", "http://127.0.0.1%23.example.com:{port}/",
    "http://127.0.0.1%09:{port}/", "http://1\t27.0.0.1:{port}/", "http://127.0.0.1\n:{port}/",
    "ht\ntp://127.0.0.1:{port}/", " http://127.0.0.1:{port}/", "\x00http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/\r\nHost: example.com", "http://127.0.0.1 example.com:{port}/",
    "http://127.0.0.1\u2028:{port}/", "http://\u200b127.0.0.1:{port}/", "http://127.0.0.1\u00ad:{port}/",
    "http://[::1]@example.com:{port}/", "http://[::1].example.com:{port}/", "http://127.0.0.1..:{port}/",
    "http://.127.0.0.1:{port}/", "http://-127.0.0.1:{port}/", "http://127.0.0.1:{port}:80/", "http://",
    "http://:{port}/", "http://?@127.0.0.1:{port}/", "http://127.0.0.1,example.com:{port}/", "",
    "127.0.0.1:{port}",
    "HTTP://127.0.0.1:{port}/", "hTtPs://127.0.0.1:{port}/", "http://*:{port}/", "http://{{}}:{port}/",
]  # fmt: skip

# Names that some resolver answers with an address of this machine or its network; see `NAMES`
NAMED = """
http://localhost:{port}/  http://LOCALHOST:{port}/  http://localhost.:{port}/
http://localhost.localdomain:{port}/  http://ip6-localhost:{port}/  http://foo.localhost:{port}/
http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/  http://ｌｏｃａｌｈｏｓｔ:{port}/  http://localhoſt:{port}/
http://loopback.attacker.example:{port}/  http://127.0.0.1.nip.example:{port}/
http://v6.attacker.example:{port}/  http://mapped.attacker.example:{port}/
http://nat64.attacker.example:{port}/  http://both.attacker.example:{port}/
http://zero.attacker.example:{port}/  http://metadata.google.internal/
http://private.attacker.example/  http://sixtofour.attacker.example:{port}/
http://isatap.attacker.example:{port}/  http://garbage.attacker.example/
http://shared.attacker.example/  http://broadcast.attacker.example/
http://scoped.attacker.example:{port}/
""".split()  # noqa: SIM905

NAMES = {
    "localhost": ["127.0.0.1", "::1"], "localhost.localdomain": ["127.0.0.1"], "ip6-localhost": ["::1"],
    "foo.localhost": ["127.0.0.1"], "loopback.attacker.example": ["127.0.0.1"],
    "127.0.0.1.nip.example": ["127.0.0.1"], "v6.attacker.example": ["::1"],
    "mapped.attacker.example": ["::ffff:127.0.0.1"], "nat64.attacker.example": ["64:ff9b::7f00:1"],
    "both.attacker.example": ["127.0.0.1", "::1", "10.0.0.1"], "zero.attacker.example": ["0.0.0.0", "::"],
    "metadata.google.internal": ["169.254.169.254"], "private.attacker.example": ["10.0.0.5", "fd00::5"],
    "sixtofour.attacker.example": ["2002:7f00:1::"], "isatap.attacker.example": ["2606:4700::5efe:7f00:1"],
    "garbage.attacker.example": ["not an address", ""], "shared.attacker.example": ["100.64.0.1"],
    "broadcast.attacker.example": ["255.255.255.255"], "scoped.attacker.example": ["fe80::1%lo", "::1%lo"],
}  # fmt: skip

SCHEMES = [
    "file:///etc/passwd", "file://127.0.0.1:{port}/x", "FILE:///etc/passwd", "file:/etc/passwd",
    "file:etc/passwd", "ftp://127.0.0.1:{port}/", "ftps://127.0.0.1:{port}/", "sftp://127.0.0.1:{port}/",
    "tftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_PING", "dict://127.0.0.1:{port}/info", "ldap://127.0.0.1:{port}/",
    "ws://127.0.0.1:{port}/", "wss://127.0.0.1:{port}/", "tcp://127.0.0.1:{port}/",
    "redis://127.0.0.1:{port}/",
    "s3://bucket/key", "gs://bucket/key", "data:image/png;base64,AAAA", "javascript:alert(1)",
    "jar:http://127.0.0.1:{port}!/x", "unix:///var/run/docker.sock",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/x",
    "netdoc:///etc/passwd", "php://filter/resource=/etc/passwd", "expect://id",
    "blob:http://127.0.0.1:{port}/x",
    "view-source:http://127.0.0.1:{port}/", "about:blank", "://127.0.0.1:{port}/", "http//127.0.0.1:{port}/",
]  # fmt: skip

_BAD_PORTS = ("22", "25", "6379", "9092", "0", "00022", "65536", "-80", "8o", "²²")
PORTS = [f"http://example.com:{port}/" for port in _BAD_PORTS]

EVERYTHING = [*IPV4, *IPV6, *CONFUSION, *NAMED, *SCHEMES, *PORTS]
