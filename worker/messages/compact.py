"""A tag in some fifty bytes, for a Redis that holds hundreds of millions: WORKER_REDIS_TAG=compact.

What the hash and the names of the clusters say already is left out, and so are the URL and the attributes.
Probability and scores are rounded to 1/65535.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from worker.messages.tag import Candidate, Tag

MAX_MODEL = 255  # bytes of a model's version that are kept
VERSION = 1  # a tag's JSON begins with another byte
_HEAD = struct.Struct(">BBHqq")  # version, flags, probability, uploaded_at, tagged_at (ms)
_CANDIDATE = struct.Struct(">iH")  # cluster, score
_GROUP = struct.Struct(">i")
_NOVEL, _HEX_MODEL, _ASSIGNED, _GROUPED, _FROM_CLASS = 1, 2, 4, 8, 16
_STEPS = 65_535
_HEX = re.compile(r"(?:[0-9a-f]{2})*")


def is_compact(data: bytes) -> bool:
    return data[:1] == bytes([VERSION])


def pack(tag: Tag) -> bytes:
    """Version, flags (1: novel, 2: the model is hex, 4: assigned, 8: in a group, 16: from a class),
    probability, times, length of the model, model, group, candidates; big-endian."""
    hexadecimal = _HEX.fullmatch(tag.model) is not None
    text = tag.model.encode()[:MAX_MODEL].decode(errors="ignore").encode()  # cut between characters
    model = bytes.fromhex(tag.model)[:MAX_MODEL] if hexadecimal else text
    flags = _NOVEL * tag.novel + _HEX_MODEL * hexadecimal + _ASSIGNED * tag.assigned
    flags += _GROUPED * (tag.group is not None) + _FROM_CLASS * tag.from_class
    head = _HEAD.pack(VERSION, flags, _steps(tag.probability), tag.uploaded_at, tag.tagged_at)
    candidates = (_CANDIDATE.pack(c.cluster, _steps(c.score)) for c in tag.candidates)
    group = b"" if tag.group is None else _GROUP.pack(tag.group)
    return head + bytes([len(model)]) + model + group + b"".join(candidates)


def unpack(data: bytes, upload_id: str, taxonomy: str, cluster: int, names: Mapping[int, str | None]) -> Tag:
    """The tag, with `url` None and no attributes.

    Args:
        taxonomy, cluster: the hash's other fields.
        names: of the taxonomy's clusters; one that is not there has no name.

    Raises:
        ValueError: it is not what `pack` made.
    """
    try:
        version, flags, probability, uploaded_at, tagged_at = _HEAD.unpack_from(data)
        begin = _HEAD.size + 1
        end = begin + data[_HEAD.size]
        model, rest = data[begin:end], data[end:]
        if version != VERSION or len(model) != data[_HEAD.size]:
            raise ValueError("of another version, or cut off")
        group = None
        if flags & _GROUPED:
            (group,), rest = _GROUP.unpack_from(rest), rest[_GROUP.size :]
        candidates = tuple(
            Candidate(number, names.get(number), score / _STEPS)
            for number, score in _CANDIDATE.iter_unpack(rest)
        )
        name = model.hex() if flags & _HEX_MODEL else model.decode()
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a compact tag ({type(error).__name__}: {error})") from None
    return Tag(
        id=upload_id,
        cluster=cluster,
        name=names.get(cluster),
        probability=probability / _STEPS,
        candidates=candidates,
        novel=bool(flags & _NOVEL),
        model=name,
        taxonomy=taxonomy,
        url=None,
        uploaded_at=uploaded_at,
        tagged_at=tagged_at,
        attributes={},
        assigned=bool(flags & _ASSIGNED),
        group=group,
        from_class=bool(flags & _FROM_CLASS),
    )


def _steps(share: float) -> int:
    return min(_STEPS, max(0, round(share * _STEPS)))
