"""The embeddings topic's records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import fitted
from worker.messages.embedding import EmbeddingWriter, halves, read_embedding
from worker.messages.upload import Upload

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
VECTOR = np.random.default_rng(0).normal(size=(1, fitted.DIM)).astype(np.float16).astype(np.float32)


@given(
    TEXT,
    TEXT,
    st.integers(0, 2**41),
    st.dictionaries(TEXT, st.one_of(TEXT, st.booleans(), st.integers(0, 9))),
)
def test_a_record_comes_back_as_it_was(
    upload_id: str, url: str, at: int, attributes: dict[str, object]
) -> None:
    """Any id, URL and attributes, newlines too; the numbers bit for bit; the encoder's identity."""
    (vector,) = halves(VECTOR)
    upload = Upload(upload_id, url, at, attributes)  # type: ignore[arg-type]
    record = read_embedding(EmbeddingWriter(fitted.ENCODER, keep_url=True).value(upload, vector))
    assert (record.id, record.url, record.uploaded_at, record.attributes) == (upload_id, url, at, attributes)
    assert np.array_equal(record.vector.astype(np.float32), VECTOR[0])
    assert record.identity == fitted.ENCODER
    bare = read_embedding(EmbeddingWriter(fitted.ENCODER, keep_url=False).value(upload, vector))
    assert bare.url is None


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda b: b'{"schema":1}\n' + b)))
def test_anything_else_is_refused(value: bytes) -> None:
    """What is in the topic may be somebody else's: an error of one kind, never a crash."""
    with pytest.raises(ValueError, match=r"not an embedding|bytes for"):
        read_embedding(value)


@pytest.mark.parametrize(
    "change", [(b'"schema":1', b'"schema":2'), (b'"dim":24', b'"dim":25'), (b'"dim":24', b'"dim":-1')]
)
def test_a_wrong_size_or_schema_is_refused(change: tuple[bytes, bytes]) -> None:
    """The number of bytes has to be that of the encoder."""
    value = EmbeddingWriter(fitted.ENCODER, keep_url=True).value(Upload("a", "u", 0), halves(VECTOR)[0])
    with pytest.raises(ValueError, match="bytes for"):
        read_embedding(value.replace(*change, 1))
