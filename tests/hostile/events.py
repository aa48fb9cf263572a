"""Upload events that are none, and ids that try to be something else."""

from __future__ import annotations

MAX_EVENT_BYTES = 64 * 1024


def _with(field: bytes) -> bytes:
    return b'{"id":"a","url":"http://example.com/",' + field + b"}"


def bad_events() -> list[bytes]:
    """Values that must become dead letters with `bad-event`, byte for byte; no two are equal."""
    deep = [opening * 1_000 + b"1" + closing * 1_000 for opening, closing in ((b"[", b"]"), (b'{"a":', b"}"))]
    return [
        b"", b" ", b"null", b"true", b"7", b'"a"', b"[]", b"{}", b"{", b"}", b"{]", b"nul", b"NaN", b"-",
        b"\0",
        b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"{}{}", b"{'id':'a'}", b"<xml/>",
        b"\x80\x04\x95cos\nsystem\n.",
        b'{"id":"a"}', b'{"url":"http://example.com/"}', b'{"id":"","url":"u"}', b'{"id":null,"url":"u"}',
        b'{"id":7,"url":"u"}', b'{"id":["a"],"url":"u"}', b'{"id":{"a":1},"url":"u"}',
        b'{"id":true,"url":"u"}',
        b'{"id":"' + b"x" * 257 + b'","url":"u"}', b'{"id":"a","url":null}', b'{"id":"a","url":7}',
        b'{"id":"a","url":["http://x"]}', b'{"id":"a","url":""}', b'{"id":"a","url":"' + b"u" * 8_193 + b'"}',
        b'{"id":"a\0","url":"u"}', b'{"id":"\\u0000","url":"http://example.com/"}',
        b'{"id":"\xff","url":"u"}', b'{"id":"\xc0\x80","url":"u"}',
        b'{"id":"\xed\xa0\x80","url":"u"}', b'{"id":"\\ud800","url":"u"}', b'{"id":"a\n","url":"u"}',
        b'{"id":"a","id":"b","url":"u"}', b'{"id":"a","url":"u","url":"v"}',
        b'{"id":"a","\\u0075rl":"u","url":"v"}',
        _with(b'"more":{"x":1,"x":2}'), _with(b'"deleted":"yes"'), _with(b'"deleted":1'),
        _with(b'"deleted":[]'),
        _with(b'"uploaded_at":1'), _with(b'"uploaded_at":"yesterday"'),
        _with(b'"uploaded_at":"2026-13-01T00:00:00Z"'),
        _with(b'"uploaded_at":"99999-01-01T00:00:00Z"'), _with(b'"uploaded_at":"2026-11-25T00:00:00"'),
        _with(b'"attributes":[]'), _with(b'"attributes":"a"'),
        _with(b'"attributes":{"a":{}}'), _with(b'"attributes":{"a":[1]}'), _with(b'"attributes":{"a":1e999}'),
        _with(b'"attributes":{"a":' + b"9" * 400 + b"}"), _with(b'"attributes":{"a":99999999999999999999}'),
        _with(b'"attributes":{"a":-9223372036854775809}'), _with(b'"n":' + b"1" * 5_000),
        *deep, *(b'{"id":%s}' % value for value in deep), *(_with(b'"a":' + value) for value in deep),
        b"[" * 60_000, b'{"a":' * 10_000, b'"' + b"x" * (MAX_EVENT_BYTES - 1), b" " * (MAX_EVENT_BYTES + 1),
        b'{"id":"a","url":"http://example.com/","more":"' + b"x" * MAX_EVENT_BYTES + b'"}', b"\0" * 100_000,
    ]  # fmt: skip


# each is a sound id: 1 to 256 characters, whichever but NUL
STRANGE_IDS = [
    "\n", "\r\n{\"level\":\"info\"}", "\x1b[2J\x07", "\u202e\u200b", "\ufeff", "\U0010ffff", "😀" * 256,
    "é", "e\u0301",
    " ", "a b", "'", '"', "\\", "`id`", "$(id)", "${jndi:ldap://x}", "%s%n%x", "{0.__class__}", "{a}", "{}",
    "*", "?",
    "../../etc/passwd", "/", ":", "::", "imgclust:tag:x", "imgclust:taxonomy", "x}{y", "null", "true", "0",
    "-1",
    "<script>alert(1)</script>", "'; DROP TABLE tags;--", "\tx", "x" * 256, "=cmd|' /C calc'!A0",
    "__proto__", "\x7f", "\x85",
]  # fmt: skip
