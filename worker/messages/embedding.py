"""The embeddings topic's records: what an image's embedding is kept as, for training again and tagging again.

A record's key is the upload's id. Its value is one line of JSON (what is known of the upload, and which
encoder embedded it) and, after the newline, the embedding's float16 numbers, little-endian. A null value
deletes it, as in the tags topic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from imgclust.types import EncoderIdentity, Floats
from worker.errors import Rejected
from worker.messages.text import format_time, parse_time, printable
from worker.messages.upload import Attribute, Upload

SCHEMA = 1
CONTENT_TYPE = b"application/vnd.imgclust.embedding"
HALF = np.dtype("<f2")


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddingRecord:
    """One image's embedding.

    Attributes:
        vector: float16 (dim,).
        encoder: the identity of the encoder, as `EncoderIdentity.to_dict` gives it.
        url: None where WORKER_TAG_URL leaves URLs out.
        uploaded_at: milliseconds since the epoch.
    """

    id: str
    vector: npt.NDArray[np.float16]
    encoder: Mapping[str, Any]
    url: str | None
    uploaded_at: int
    attributes: Mapping[str, Attribute]

    @property
    def identity(self) -> EncoderIdentity:
        return EncoderIdentity.from_dict(self.encoder)


class EmbeddingWriter:
    """Makes the values of records of one encoder; its identity is written out once.

    Args:
        keep_url: whether URLs are kept.
    """

    def __init__(self, encoder: EncoderIdentity, *, keep_url: bool) -> None:
        self._encoder = orjson.Fragment(orjson.dumps(encoder.to_dict()))
        self._keep_url = keep_url

    def value(self, upload: Upload, vector: bytes) -> bytes:
        """`vector`: the float16 numbers, see `halves`."""
        fields = {
            "schema": SCHEMA,
            "id": upload.id,
            "url": upload.url if self._keep_url else None,
            "uploaded_at": format_time(upload.uploaded_at),
            "attributes": upload.attributes,
            "encoder": self._encoder,
        }
        return orjson.dumps(fields) + b"\n" + vector


def halves(embeddings: Floats) -> list[bytes]:
    """Rows as bytes of little-endian float16; an encoder's rows hold such values, so nothing is lost."""
    return [row.tobytes() for row in embeddings.astype(HALF)]


def read_embedding(value: bytes) -> EmbeddingRecord:
    """Read a record's value.

    Raises:
        ValueError: it is not one of this schema.
    """
    head, newline, numbers = value.partition(b"\n")
    try:
        fields = orjson.loads(head)
        dim = fields["encoder"]["dim"]
        if not newline or fields["schema"] != SCHEMA or len(numbers) != HALF.itemsize * dim:
            raise ValueError(f"{len(numbers)} bytes for {dim} numbers of schema {fields['schema']}")
        return EmbeddingRecord(
            id=fields["id"],
            vector=np.frombuffer(numbers, HALF).astype(np.float16, copy=False),
            encoder=fields["encoder"],
            url=fields.get("url"),
            uploaded_at=parse_time(fields["uploaded_at"]),
            attributes=fields.get("attributes") or {},
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, Rejected) as error:
        raise ValueError(
            f"not an embedding: {printable(head)} ({type(error).__name__}: {printable(str(error))})"
        ) from None
