"""The table of metrics, and what it is turned into."""

from __future__ import annotations

import math
import re
import threading
import time

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from worker.tagger.drift_gauges import DriftWatch
from worker.tagger.shadow import Shadow
from worker.telemetry.metric_row import MetricRow
from worker.telemetry.metrics import OTHER_WINDOW, POLL_WINDOW, Metrics
from worker.telemetry.metrics_table import TABLE, metrics_table
from worker.telemetry.model_metrics import STABILITY, TAGS
from worker.telemetry.upload_metrics import LAG_RECORDS, STAGE_FINISHED, STAGE_OUTCOMES, STAGES
from worker.telemetry.window import Lateness, Standstill


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_standstill_lasts_until_less_waits() -> None:
    """Whatever comes in beside what waits; nothing that waits is no standstill."""
    clock = Clock()
    standstill = Standstill(clock)
    for waiting, seconds in [(0, 0), (5, 0), (5, 2), (9, 4), (8, 0), (8, 2), (0, 0), (0, 0), (1, 0), (1, 2)]:
        assert standstill.seconds(waiting) == seconds
        clock.now += 2


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_names_follow_prometheus_conventions(row: MetricRow) -> None:
    """Every name has the prefix; counters, and only they, end in _total; seconds and ratios say so."""
    assert re.fullmatch(r"imgclust(_[a-z]+)+", row.name)
    assert row.name.endswith("_total") == (row.kind == "counter")
    if row.unit in ("seconds", "ratio", "bytes"):
        assert row.name.removesuffix("_total").endswith(f"_{row.unit}")
    assert row.help.endswith(".")
    assert (row.kind == "histogram") == bool(row.buckets)
    assert list(row.buckets) == sorted(set(row.buckets))


def test_no_label_can_grow_with_the_uploads() -> None:
    """Labels have a fixed list of values, or are bounded by Kafka (partition) or the model."""
    unbounded = {label.name for row in TABLE for label in row.labels if label.values is None}
    assert unbounded == {"partition", "cluster", "version", "taxonomy", "encoder"}


def test_names_are_unique() -> None:
    """No name is used twice, also not with the endings that histograms get."""
    names = [row.name for row in TABLE]
    names += [f"{row.name}{end}" for row in TABLE if row.kind == "histogram" for end in ("_sum", "_count")]
    assert len(names) == len(set(names))


def test_a_scrape_shows_every_row_and_nothing_else() -> None:
    """The exposition parses, and holds exactly the table and the process metrics."""
    metrics = Metrics()
    metrics.set_model("v1", "t1", "mini", {0: 0.9})
    DriftWatch(metrics)
    Shadow(metrics, time.monotonic)
    metrics.set_shadow(("v2", "t1"))
    metrics.set_lag(0, 1, 2, 3.0)
    metrics.set_view_lag(0, 5)
    text = generate_latest(metrics.registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    ours = {name for name in families if not name.startswith("process_")}
    assert ours == {row.name.removesuffix("_total") if row.kind == "counter" else row.name for row in TABLE}
    for row in TABLE:
        family = families[row.name.removesuffix("_total") if row.kind == "counter" else row.name]
        assert family.type == row.kind
        assert family.samples, row.name


def test_bounded_series_start_at_zero() -> None:
    """A rate over a series is right from the first event on, because the series is there before it."""
    metrics = Metrics()
    for stage in STAGES:
        for outcome in STAGE_OUTCOMES:
            assert metrics.value(STAGE_FINISHED.name, stage=stage, outcome=outcome) == 0
    metrics.set_model("v1", "t1", "mini", dict.fromkeys(range(3)))
    assert [metrics.value(TAGS.name, cluster=str(n)) for n in (-1, 0, 1, 2)] == [0, 0, 0, 0]


def test_stability_is_that_of_the_model_at_work() -> None:
    """A cluster that the new model does not have, or whose stability it does not know, has no series."""
    metrics = Metrics()
    metrics.set_model("v1", "t1", "mini", {0: 0.9, 3: 0.55, 4: 0.8})
    metrics.set_model("v2", "t1", "mini", {0: 0.7, 3: None})
    found = {n: metrics.value(STABILITY.name, cluster=str(n)) for n in (-1, 0, 3, 4)}
    assert found == {-1: None, 0: 0.7, 3: None, 4: None}


def test_the_model_is_told_once() -> None:
    """After another model is loaded only that one has an info series."""
    metrics = Metrics()
    metrics.set_model("v1", "t1", "mini")
    metrics.set_model("v2", "t1", "mini")
    assert metrics.value("imgclust_model_info", version="v1", taxonomy="t1", encoder="mini") is None
    assert metrics.value("imgclust_model_info", version="v2", taxonomy="t1", encoder="mini") == 1


def test_a_stage_counts_what_is_in_it() -> None:
    """In progress is what came in and has not left, whatever the outcome; times count for each item."""
    metrics = Metrics()
    stage = metrics.stages["fetch"]
    stage.enter(10)
    stage.leave(6, "ok", seconds=0.02)
    stage.leave(1, "dead")
    assert metrics.value("imgclust_stage_in_progress", stage="fetch") == 3
    assert metrics.value("imgclust_stage_seconds_count", stage="fetch") == 6
    assert metrics.value("imgclust_stage_seconds_sum", stage="fetch") == pytest.approx(0.12)
    assert metrics.value("imgclust_stage_seconds_bucket", stage="fetch", le="0.01") == 0
    assert metrics.value("imgclust_stage_seconds_bucket", stage="fetch", le="0.025") == 6


def test_unknown_labels_and_kinds_are_refused() -> None:
    """A typing error in a stage's name or a wrong kind is an error at once, not a new series."""
    metrics = Metrics()
    with pytest.raises(ValueError, match="must be one of"):
        metrics.counter(STAGE_FINISHED, "fetchh", "ok")
    with pytest.raises(ValueError, match="has the labels"):
        metrics.counter(STAGE_FINISHED, "fetch")
    with pytest.raises(TypeError, match="is a counter"):
        metrics.gauge(TAGS, "1")


def test_tags_are_counted_by_cluster() -> None:
    """One call counts a whole batch: clusters, probabilities, novel ones."""
    metrics = Metrics()
    metrics.count_tags([3, -1, 3, 5], [0.5, 0.0, 0.95, 1.0], novel=1)
    assert metrics.value("imgclust_tags_total", cluster="3") == 2
    assert metrics.value("imgclust_tags_total", cluster="-1") == 1
    assert metrics.value("imgclust_tags_novel_total") == 1
    assert metrics.value("imgclust_tag_probability_ratio_count") == 4
    assert metrics.value("imgclust_tag_probability_ratio_bucket", le="0.5") == 2


def test_the_share_of_other_forgets() -> None:
    """The ratio is over the window only, and undefined without tags in it."""
    clock = Clock()
    metrics = Metrics(clock=clock)
    ratio = "imgclust_tags_other_ratio"
    assert math.isnan(metrics.value(ratio) or 0.0)
    metrics.count_tags([-1, -1, -1, 1], [0, 0, 0, 1], 0)
    assert metrics.value(ratio) == 0.75
    clock.now += OTHER_WINDOW / 2
    metrics.count_tags([1, 1, 1, 1], [1, 1, 1, 1], 0)
    assert metrics.value(ratio) == 3 / 8
    clock.now += OTHER_WINDOW / 2 + 1
    assert metrics.value(ratio) == 0
    clock.now += OTHER_WINDOW
    assert math.isnan(metrics.value(ratio) or 0.0)


def test_lateness_is_that_of_the_oldest_unread_record() -> None:
    """0 at the end; a record that comes into a silent partition is as late as the end is behind; with more
    unread, as late as the one before; and before the first one is read, as long as the partition is ours."""
    late = Lateness(assigned=1_000)
    assert late.seconds(3_000, unread=5) == 2
    late.read = 2_500
    assert late.seconds(3_000, unread=4) == 0.5
    assert late.seconds(60_000, unread=0) == 0
    assert late.seconds(60_500, unread=1) == 0.5
    late.read = 60_400
    assert late.seconds(90_400, unread=1) == 30
    assert late.seconds(60_000, unread=1) == 0, "clocks may differ"


def test_the_poll_gap_shows_the_longest_pause_also_while_it_lasts() -> None:
    """Undefined before the first poll; then the longest pause of the last minute or the one that goes on."""
    clock = Clock()
    metrics = Metrics(clock=clock)
    gap = "imgclust_poll_gap_seconds"
    assert math.isnan(metrics.value(gap) or 0.0)
    metrics.polls.beat()
    clock.now += 5
    assert metrics.value(gap) == 5
    metrics.polls.beat()
    for _ in range(POLL_WINDOW // 2):
        clock.now += 0.5
        metrics.polls.beat()
    assert metrics.value(gap) == 5
    for _ in range(POLL_WINDOW * 2):
        clock.now += 0.5
        metrics.polls.beat()
    assert metrics.value(gap) == 0.5


def test_partitions_of_others_are_forgotten() -> None:
    """A partition that moved to another worker leaves no stale lag behind."""
    metrics = Metrics()
    metrics.set_lag(3, 10, 2, 1.5)
    assert metrics.value(LAG_RECORDS.name, partition="3") == 10
    metrics.drop_partition(3)
    assert metrics.value(LAG_RECORDS.name, partition="3") is None
    metrics.set_view_lag(3, 7)
    metrics.set_view_lag(3, None)
    assert metrics.value("imgclust_view_lag_records", partition="3") is None


def test_updates_from_many_threads_are_all_counted() -> None:
    """Counters lose nothing when several threads count at once."""
    metrics = Metrics()

    def count() -> None:
        for _ in range(5000):
            metrics.uploads["tagged"].inc()
            metrics.end_to_end.observe(0.3)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.value("imgclust_uploads_total", outcome="tagged") == 20_000
    assert metrics.value("imgclust_end_to_end_seconds_count") == 20_000


def test_the_readme_table_has_every_metric() -> None:
    """The Markdown table has a row of five cells for each metric."""
    lines = metrics_table().splitlines()
    assert len(lines) == 2 + len(TABLE)
    for line, row in zip(lines[2:], TABLE, strict=True):
        assert line.startswith(f"| `{row.name}` | {row.kind} |")
        assert line.replace("\\|", "").count("|") == 6
