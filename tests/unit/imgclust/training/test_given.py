"""What people give to `fit`: taken where its meaning is plain, else refused at once with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import ImgclustError
from imgclust.model.model import ClusterModel
from imgclust.training.fit import fit
from imgclust.training.given import Given
from tests.support.fitted import ENCODER, fitted, fitted_pair, grouped

ROWS = grouped()[0]


@pytest.mark.parametrize("given", [ROWS.tolist(), torch.from_numpy(ROWS), ROWS.astype(np.float64)])
def test_lists_and_tensors_are_arrays(given: Any) -> None:
    assert np.array_equal(Given.of(given, None, None).rows, ROWS)


def test_a_folder_is_read(tmp_path: Path) -> None:
    """By its path: ids, sources and the encoder come with it."""
    with EmbeddingsWriter(tmp_path / "embeddings", ENCODER) as writer:
        for i, row in enumerate(ROWS[:60]):
            writer.append(id=f"{i}", source="", embedding=row, width=1, height=1, sha256=None)
    for path in (tmp_path / "embeddings", str(tmp_path / "embeddings")):
        given = Given.of(path, None, None)
        assert np.array_equal(given.rows, ROWS[:60])
        assert given.encoder == ENCODER


def test_rows_of_any_length_where_that_is_asked_for() -> None:
    """Scaled rows, whole numbers among them, are the rows that they point to; for predictions as well."""
    assert np.allclose(Given.of(7 * ROWS, None, None, normalize=True).rows, ROWS, atol=1e-3)
    whole = np.rint(1000 * ROWS).astype(np.int64)
    assert np.allclose(Given.of(whole, None, None, normalize=True).rows, ROWS, atol=2e-3)
    model = fitted().model
    assert (model.predict(7 * ROWS, normalize=True).labels == model.predict(ROWS).labels).mean() > 0.99


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"encoder": "mini"}, "encoder must be an EncoderIdentity, got str 'mini'"),
        ({"embeddings": 7 * ROWS}, "give normalize=True"),
        ({"embeddings": np.zeros_like(ROWS), "normalize": True}, "row 0 has length nan; it has no direction"),
        ({"embeddings": [[0.0], [1.0, 2.0]]}, "must be floats"),
        ({"embeddings": "nowhere"}, "no embeddings in 'nowhere'"),
        ({"embeddings": ["a", "b"]}, "must be floats"),
        ({"seed": -1}, "seed must be 0 or more, is -1"),
        ({"parameters": {"n_epochs": "many"}}, "n_epochs must be a whole number, is 'many'"),
        ({"parameters": {"min_dist": None}}, "min_dist must be a number, is None"),
        ({"parameters": {"metric": 3}}, "metric must be a word, is 3"),
        ({"parameters": {"n_neighbors": 5.5}}, "n_neighbors must be a whole number"),
    ],
)
def test_wrong_input_is_refused_at_once(options: dict[str, Any], text: str) -> None:
    """Before any work, naming the value and what to give instead."""
    with pytest.raises(ImgclustError, match=text):
        fit(options.pop("embeddings", ROWS), **options)


def test_a_pair_from_elsewhere_is_checked_at_once() -> None:
    """`from_fitted` refuses what no model can record, and takes names by number."""
    pair = fitted_pair()[:2]
    with pytest.raises(ImgclustError, match="encoder must be an EncoderIdentity"):
        ClusterModel.from_fitted(*pair, encoder="mini")  # type: ignore[arg-type]
    with pytest.raises(ImgclustError, match="no cluster 77 to name 'x'"):
        ClusterModel.from_fitted(*pair, names={77: "x"})
    model = ClusterModel.from_fitted(*pair, names={0: "cats"})
    assert [c.name for c in model.clusters][:2] == ["cats", None]


def test_wrong_rows_for_a_prediction() -> None:
    for rows in ([["a"] * 24], np.zeros((2, 24), int), np.zeros(24)):
        with pytest.raises(ImgclustError, match=r"floats \(n, 24\)"):
            fitted().model.predict(rows)
