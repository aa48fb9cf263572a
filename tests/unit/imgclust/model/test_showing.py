"""A model in a terminal, a notebook, a table, a plot and a copy."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pytest

from imgclust.model.model import ClusterModel
from tests.support.fitted import fitted, grouped
from tests.support.report_sample import ATTACKS, webp


@cache
def model() -> ClusterModel:
    found = fitted().model
    pictures = {image: webp((200, 40, 40)) for c in found.clusters for image in c.exemplars}
    named = dataclasses.replace(found, thumbnails=pictures)
    return named.renamed({c.id: a.splitlines()[0] for c, a in zip(found.clusters, ATTACKS, strict=False)})


def test_repr_is_one_line() -> None:
    """Not the megabytes that the model holds."""
    text = repr(model())
    assert len(text) < 200
    assert "\n" not in text
    assert model().version in text
    assert "in 6 clusters" in text


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_notebook_shows_pictures_and_hostile_names_as_text() -> None:
    page = Elements()
    page.feed(model()._repr_html_())
    assert set(page.tags) == {"p", "b", "table", "tr", "th", "td", "img"}
    assert page.tags.count("img") == 36
    assert {c.name for c in model().clusters if c.name} <= set(page.texts)


def test_tables_say_what_is_fitted_and_what_is_predicted() -> None:
    pandas = pytest.importorskip("pandas")
    clusters = model().to_pandas()
    assert isinstance(clusters, pandas.DataFrame)
    assert clusters.columns.tolist() == ["cluster", "name", "fitted_images", "typical"]
    assert clusters.fitted_images.sum() == (model().labels_ >= 0).sum()
    prediction = model().predict(grouped()[0])
    table = prediction.to_pandas([f"image {i}" for i in range(len(prediction))])
    assert table.columns.tolist()[:2] == ["id", "predicted_cluster"]
    assert np.array_equal(table.predicted_cluster, prediction.labels)
    assert table.candidates[0].tolist() == prediction.candidates[0].tolist()
    assert prediction.to_arrow().column_names[0] == "predicted_cluster"


def test_the_map_is_drawn() -> None:
    """Every image is a point, every cluster carries its name, as text even where it looks like a formula."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    named = model().renamed({0: "$a$"})
    ax = named.plot_map()
    assert sum(len(points.get_offsets()) for points in ax.collections) == len(named.map)
    assert len(ax.texts) == 6
    ax.figure.canvas.draw()
    matplotlib.pyplot.close(ax.figure)


def predicted(one: ClusterModel) -> np.ndarray:
    return one.predict(grouped(5)[0][:30]).labels


def test_copies_and_threads_predict_the_same() -> None:
    """A copy, a pickle and several threads at once: the same labels, also after the model has predicted."""
    expected = predicted(model())
    for one in (copy.copy(model()), copy.deepcopy(model()), pickle.loads(pickle.dumps(model()))):
        assert np.array_equal(predicted(one), expected)
        assert one.version == model().version
    fresh = copy.copy(model())
    with ThreadPoolExecutor(4) as threads:
        assert all(np.array_equal(found, expected) for found in threads.map(predicted, [fresh] * 8))
