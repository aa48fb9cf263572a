"""Typical images, thumbnails, the map."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imgclust.model import gallery
from imgclust.predictor import novelty


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_centres_are_mean_directions() -> None:
    """Each cluster's centre is the direction of its members' mean; "other" has none."""
    rows = unit(np.array([[1, 0], [1, 1], [0, 1], [-1, 0]], float))
    centres = gallery.centres(rows, np.array([0, 0, 1, -1], np.int32))
    np.testing.assert_allclose(centres, unit(np.array([rows[0] + rows[1], rows[2]])), atol=1e-6)


def test_typical_images_are_sure_and_central() -> None:
    """The surest half comes first, in it what is nearest to the centre; at most as many as asked for."""
    angles = np.radians([0, 2, 4, 30, 1, 3])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    sure = np.array([1, 1, 1, 1, 0.2, 0.2], np.float32)
    (typical,) = gallery.exemplars(rows, np.zeros(6, np.int32), sure)
    centre = gallery.centres(rows, np.zeros(6, np.int32))[0]
    assert set(typical[:4]) == {0, 1, 2, 3}
    assert (np.diff(rows[typical[:4]] @ centre) <= 0).all()
    (three,) = gallery.exemplars(rows, np.zeros(6, np.int32), sure, count=3)
    assert three.tolist() == typical[:3].tolist()


def test_nearest_other_leaves_the_row_itself_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's nearest neighbour among the others, whatever the size of a block."""
    rows = unit(np.random.default_rng(0).normal(size=(23, 5)))
    products = rows @ rows.T
    np.fill_diagonal(products, -1)
    for block in (4, 23, 100):
        monkeypatch.setattr(novelty, "COMPARED", block)
        np.testing.assert_allclose(novelty.nearest_other(rows), products.max(axis=1), atol=1e-6)


def test_a_large_map_is_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a sample is drawn; ids and clusters still belong together."""
    monkeypatch.setattr(gallery, "MAP_ROWS", 60)
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, 3, 90).astype(np.int32)
    points = (labels[:, None] * 5 + rng.normal(size=(90, 4))).astype(np.float32)
    data = gallery.draw_map(points, labels, [f"{i}" for i in range(90)], seed=3)
    table = pq.read_table(pa.BufferReader(data)).to_pydict()
    assert len(set(table["id"])) == 60
    assert [labels[int(i)] for i in table["id"]] == table["cluster"]
    assert np.isfinite(table["x"]).all()
    assert np.isfinite(table["y"]).all()
    assert data == gallery.draw_map(points, labels, [f"{i}" for i in range(90)], seed=3)


def test_thumbnails_are_small_webp(tmp_path: Path) -> None:
    """A picture becomes a WebP of at most 128 px; what is no picture, or not there, becomes nothing."""
    Image.new("RGB", (400, 200), "red").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    data = gallery.thumbnail_of(str(tmp_path / "a.png"))
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("WEBP", (128, 64))
    for source in (str(tmp_path / "b.png"), str(tmp_path), "https://example.com/a.png", "nul\0", "gone.png"):
        assert gallery.thumbnail_of(source) is None
