"""Distributions over clusters: they add up, for every image and for every group."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import ImgclustError
from imgclust.exporting import distributions
from imgclust.exporting.distributions import weights_of, write_distributions
from imgclust.model.model import ClusterModel
from imgclust.tagging.rows import Guess, Row

MODEL = cast(
    ClusterModel,
    SimpleNamespace(
        version="m1", taxonomy="t1", clusters=[SimpleNamespace(id=n, name=f"n{n}") for n in (0, 3)]
    ),
)


def row(id: str, scores: dict[int, float], **attributes: Any) -> Row:
    candidates = tuple(Guess(cluster, None, score) for cluster, score in scores.items())
    return Row(id, "", -1, None, 0.0, False, candidates, "m1", "t1", attributes)


@given(st.dictionaries(st.integers(0, 50), st.floats(0, 1, width=32), max_size=3))
def test_weights_add_up(scores: dict[int, float]) -> None:
    """To 1, whatever the scores; none is negative, and the order of the clusters is that of the scores."""
    weights = weights_of(row("a", scores))
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= 0
    clusters = sorted(scores, key=lambda cluster: scores[cluster])
    assert [weights[c] for c in clusters] == sorted(weights[c] for c in clusters)


def test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each image and cluster, in several pieces; the rest is −1."""
    monkeypatch.setattr(distributions, "PIECE", 2)
    rows = [row(f"{n}", {0: 0.5, 3: 0.25}) for n in range(5)] + [row("5", {})]
    done = write_distributions(iter(rows), tmp_path / "d.parquet", MODEL)
    assert (done.keys, done.images) == (6, 6)
    table = pq.read_table(tmp_path / "d.parquet")
    assert table.schema.metadata[b"imgclust.taxonomy"] == b"t1"
    assert table.to_pylist()[:3] == [
        {"id": "0", "cluster": 0, "name": "n0", "weight": 0.5},
        {"id": "0", "cluster": -1, "name": None, "weight": 0.25},
        {"id": "0", "cluster": 3, "name": "n3", "weight": 0.25},
    ]
    assert table.to_pylist()[-1] == {"id": "5", "cluster": -1, "name": None, "weight": 1.0}


def test_groups(tmp_path: Path) -> None:
    """A group's weights are the mean of its images'; those without the attribute are counted."""
    rows = [
        row("a", {0: 1.0}, user=7),
        row("b", {3: 0.5}, user=7),
        row("c", {3: 1.0}, user="x"),
        row("d", {}),
    ]
    done = write_distributions(iter(rows), tmp_path / "d.parquet", MODEL, by="user")
    assert (done.keys, done.images, done.without) == (2, 3, 1)
    found: defaultdict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for one in pq.read_table(tmp_path / "d.parquet").to_pylist():
        found[one["group"], one["images"]][one["cluster"]] = one["weight"]
    assert found == {("7", 2): {0: 0.5, 3: 0.25, -1: 0.25}, ("x", 1): {3: 1.0}}


def test_an_attribute_that_nobody_has(tmp_path: Path) -> None:
    with pytest.raises(ImgclustError, match=r"none of 1 images has the attribute 'usr'.*: 'lang', 'user'"):
        write_distributions([row("a", {}, user=1, lang="de")], tmp_path / "d.parquet", MODEL, by="usr")
    assert list(tmp_path.iterdir()) == []
