"""The headers of every record that the worker writes, and their reading."""

from __future__ import annotations

from worker.messages.record import Record
from worker.messages.text import printable

MAX_HEADER_TEXT = 500


# A dead letter is larger than its upload by the headers; one that no longer fits says where the upload is.
VALUE_OMITTED = ("value-omitted", b"too large to be copied; it is at source-partition, source-offset")


def text_header(name: str, value: object) -> tuple[str, bytes]:
    """A header of printable ASCII, bounded: what is in it may come from a stranger."""
    text = str(value)
    if not (text.isascii() and text.isprintable()):
        text = printable(text, MAX_HEADER_TEXT)
    return name, text[:MAX_HEADER_TEXT].encode()


def source_headers(source: Record) -> list[tuple[str, bytes]]:
    return [
        ("source-partition", b"%d" % source.partition),
        ("source-offset", b"%d" % source.offset),
        ("source-timestamp", b"%d" % source.timestamp),
    ]
