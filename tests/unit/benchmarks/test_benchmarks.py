"""The benchmarks' own arithmetic: a wrong sum there would be a wrong figure in RESULTS.md."""

from __future__ import annotations

import json

import pytest

from tests.support.paths import ROOT

FOLDER = ROOT / "benchmarks"


def test_median_spread_and_ratio() -> None:
    """A figure of several runs is the median of each side, its ratio that of the medians."""
    from benchmarks.common import summed_up

    figure = summed_up("b", "f", "images/s", [30.0, 10.0, 20.0], [5.0, 1.0, 2.0])
    assert (figure.value, figure.naive, figure.spread, figure.runs) == (20.0, 2.0, (10.0, 30.0), 3)
    assert json.loads(figure.line())["ratio"] == 10.0


def test_single_run_without_naive_side() -> None:
    """What was not measured does not appear: no spread of one run, no ratio to nothing."""
    from benchmarks.common import summed_up

    line = json.loads(summed_up("b", "f", "ms", [1.5]).line())
    assert set(line) == {"benchmark", "figure", "unit", "value", "runs"}


def test_table_has_a_row_for_every_figure() -> None:
    """Every figure's line is in the table, with its unit and its ratio."""
    from benchmarks.common import summed_up, table

    lines = [json.loads(summed_up("b", f"f{i}", "ms", [i + 1.0], [2.0]).line()) for i in range(3)]
    rows = table(lines).splitlines()
    assert len(rows) == 2 + 3
    assert "3 ms" in rows[-1]
    assert "1.5 ×" in rows[-1]


def test_parent_time_is_split_without_loss() -> None:
    """Time inside the calls of encoder and predictor moves to "compute"; nothing is lost."""
    import threading

    from benchmarks.sides import parent_threads

    me = threading.get_native_id()
    before = {"threads": {me: 1.0}, "encode": 0.5, "predict": 0.0}
    after = {"threads": {me: 4.0, -1: 2.0}, "encode": 1.5, "predict": 0.25}
    found = parent_threads(before, after)
    assert found == {"loop": 3.0, "compute": 2.0 + 1.25, "encode": -1.0, "predict": -0.25}
    assert sum(found.values()) == pytest.approx(5.0)


def test_fixed_encoder_is_a_function_of_the_picture() -> None:
    """The stand-in gives each picture the same unit-norm row of float16 values, whatever batch it is in."""
    import numpy as np

    from benchmarks.fixed_encoder import FixedTimeEncoder
    from imgclust.types import EncoderIdentity, Preprocessing

    random = np.random.default_rng(0)
    identity = EncoderIdentity("mini", "a", "w", Preprocessing(32, 32), "float32", 8)
    encoder = FixedTimeEncoder(identity, random.normal(size=(50, 8)).astype(np.float32), seconds=0.0)
    pictures = random.integers(0, 256, (20, 32, 32, 3), np.uint8)
    rows = encoder.encode(pictures)
    assert np.array_equal(rows, np.concatenate([encoder.encode(p[None]) for p in pictures]))
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 2e-3
    assert np.array_equal(rows.astype(np.float16).astype(np.float32), rows)
    assert len(np.unique(rows, axis=0)) > 1


def test_the_arithmetic_of_capacity_is_that_of_its_page() -> None:
    """docs/capacity.md has the script's table; more uploads never need less, and what is asked for fits."""
    from benchmarks import capacity

    page = ROOT / "docs" / "capacity.md"
    assert capacity.page(page.read_text()) == page.read_text(), "stale; run `make docs`"
    before = (0, 0)
    for uploads in (1, 10, 100, 1_750, 1_751, 5_000, 10_000, 100_000):
        site = capacity.Site(uploads=uploads)
        workers = capacity.workers(site)
        assert workers * site.gpu_images * site.busy >= uploads
        assert capacity.partitions(site) >= 4 * workers
        assert (workers, capacity.partitions(site)) >= before
        before = (workers, capacity.partitions(site))
        assert all(text for row in capacity.needs(site) for text in row)


def test_matched_is_the_share_after_the_best_matching() -> None:
    """Numbers do not matter, "other" counts with "other", and what a method does not know is left out."""
    import numpy as np

    from benchmarks.steadiness import UNKNOWN, matched

    one = np.array([0, 0, 0, 1, 1, -1, -1, 2])
    assert matched(one, np.array([1, 1, 1, 0, 0, -1, -1, 2])) == 1
    assert matched(one, np.array([1, 1, 0, 0, 0, -1, 2, 2])) == 6 / 8
    assert matched(one, np.array([1, 1, UNKNOWN, 0, 0, -1, UNKNOWN, 2])) == 1


def test_a_cluster_is_found_again_where_another_fit_has_most_of_it() -> None:
    """By stability, over all ordered pairs of fits; methods that know no stability have no such lines."""
    import numpy as np

    from benchmarks.steadiness import Found, found_again

    one = Found(np.array([0, 0, 0, 1, 1, 1, -1, -1]), stability=np.array([0.95, 0.5]))
    two = Found(np.array([2, 2, 2, 0, 1, -1, -1, -1]), stability=np.array([0.5, 0.5, 0.85]))
    lines = {line["stability_from"]: line for line in found_again([one, two])}
    assert (lines[0]["clusters"], lines[0]["found_again"]) == (1.5, 0.0)
    assert [lines[least]["found_again"] for least in (0.8, 0.9)] == [1.0, 1.0]
    assert lines[0.9]["pictures"] == pytest.approx(3 / 16)
    assert list(found_again([Found(one.labels), Found(two.labels)])) == []


def test_numbers_kept_are_of_pictures_in_a_cluster_in_both() -> None:
    """What goes to "other" or comes from there counts in no share but its own."""
    import numpy as np

    from benchmarks.steadiness import numbers_kept

    before = np.array([0, 0, 0, 1, 1, 2, -1, -1, 2, 2])
    after = np.array([0, 0, 5, 1, -1, 5, 0, -1, 5, -1])
    assert numbers_kept(before, after) == pytest.approx({"kept": 3 / 6, "retired": 2 / 6, "to_other": 2 / 8})
