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


@pytest.mark.parametrize(
    "rows",
    [
        [["a"] * 24],
        np.zeros(24),
        ROWS.astype(object),
        ROWS.astype(complex),
        ROWS > 0,
        np.zeros((2, 24), "datetime64[s]"),
        [[0.0] * 24, [0.0]],
        torch.from_numpy(ROWS).requires_grad_(),
    ],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_wrong_rows_for_a_prediction(rows: Any, normalize: bool) -> None:
    """Whatever their type, a sentence."""
    with pytest.raises(ImgclustError, match=r"embeddings must be floats \(n, "):
        fitted().model.predict(rows, normalize=normalize)


def test_whole_numbers_are_no_rows_of_length_one() -> None:
    with pytest.raises(ImgclustError, match=r"floats \(n, 24\)"):
        fitted().model.predict(np.zeros((2, 24), int))


@pytest.mark.parametrize("kind", [object, complex, bool, str, "datetime64[s]"])
@pytest.mark.parametrize("normalize", [False, True])
def test_wrong_rows_for_a_fit(kind: Any, normalize: bool) -> None:
    rows = np.zeros((60, 24), kind) if kind in (str, "datetime64[s]") else ROWS.astype(kind)
    with pytest.raises(ImgclustError, match=r"embeddings must be floats \(n, d\)"):
        Given.of(rows, None, None, normalize=normalize)


def test_floats_of_any_width_are_taken() -> None:
    """Those that are wider than a double, too."""
    wide = ROWS.astype(np.longdouble)
    assert np.array_equal(Given.of(wide, None, None).rows, ROWS)
    assert np.array_equal(fitted().model.predict(wide[:9]).labels, fitted().model.predict(ROWS[:9]).labels)
