"""Writes `deploy/grafana/dashboards/*.json`: `make docs`. A test fails when one of them is stale.

Every query is made from a row of the table in `worker/telemetry/metrics.py`, and a panel's description is
what the rows that it shows say of themselves, so a metric cannot be renamed without its panels.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from worker.telemetry import model_metrics as m
from worker.telemetry import service_metrics as s
from worker.telemetry import upload_metrics as u
from worker.telemetry.metric_row import MetricRow

FOLDER = Path(__file__).resolve().parent / "dashboards"
PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "imgclust"
# what the variables at the top select; labels that a scrape does not set match ".*"
SELECTED = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
PER_SECOND, SECONDS, SHARE, COUNT, BYTES = "suffix: /s", "s", "percentunit", "short", "bytes"
TARGET = ("namespace", "job", "instance")


# ── queries ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One expression, the legend of its series, and the rows of the metric table that it shows."""

    expr: str
    legend: str
    rows: tuple[MetricRow, ...] = ()

    def named(self, legend: str) -> Query:
        return dataclasses.replace(self, legend=legend)

    def __truediv__(self, other: Query) -> Query:
        return Query(f"{self.expr} / {other.expr}", self.legend, self.rows + other.rows)


def select(row: MetricRow, ending: str = "", **labels: str) -> str:
    """A selector; a label's value is a regular expression."""
    more = "".join(f', {name}=~"{value}"' for name, value in labels.items())
    return f"{row.name}{ending}{{{SELECTED}{more}}}"


def legend(by: Sequence[str], otherwise: str) -> str:
    return " ".join(f"{{{{{name}}}}}" for name in by) or otherwise


def aggregate(how: str, what: str, by: Sequence[str]) -> str:
    return f"{how} by ({', '.join(by)}) ({what})" if by else f"{how}({what})"


def rate(row: MetricRow, *by: str, ending: str = "", name: str = "", **labels: str) -> Query:
    """A counter's increase per second."""
    expr = aggregate("sum", f"rate({select(row, ending, **labels)}[$__rate_interval])", by)
    return Query(expr, name or legend(by, row.unit), (row,))


def gauge(how: str, row: MetricRow, *by: str, name: str = "", **labels: str) -> Query:
    return Query(aggregate(how, select(row, **labels), by), name or legend(by, row.unit), (row,))


def quantile(q: float, row: MetricRow, *by: str, **labels: str) -> Query:
    buckets = aggregate("sum", f"rate({select(row, '_bucket', **labels)}[$__rate_interval])", ("le", *by))
    return Query(f"histogram_quantile({q}, {buckets})", f"p{q * 100:g} {legend(by, '')}".strip(), (row,))


def quantiles(row: MetricRow, **labels: str) -> list[Query]:
    return [quantile(q, row, **labels) for q in (0.5, 0.95, 0.99)]


def mean(row: MetricRow, *by: str) -> Query:
    return (rate(row, *by, ending="_sum") / rate(row, *by, ending="_count")).named(legend(by, "mean"))


def of_process(function: str, name: str) -> Query:
    """What the Prometheus client measures by itself."""
    expr = f"{function}({name}{{{SELECTED}}}[$__rate_interval])"
    return Query(aggregate("sum", expr, ("instance",)), "{{instance}}")


def by_version(row: MetricRow, **labels: str) -> Query:
    """A counter per second by the model version of the worker that counted."""
    target = ", ".join(TARGET)
    counted = aggregate("sum", f"rate({select(row, **labels)}[$__rate_interval])", TARGET)
    joined = f"{counted} * on ({target}) group_left (version) {select(m.MODEL_INFO)}"
    return Query(aggregate("sum", joined, ("version",)), "{{version}}", (row, m.MODEL_INFO))


# ── panels ───────────────────────────────────────────────────────────────────────────────────────────────


def describe(queries: Sequence[Query], note: str) -> str:
    rows = list(dict.fromkeys(row for query in queries for row in query.rows))
    return "\n\n".join([*([note] if note else []), *(f"`{row.name}`: {row.help}" for row in rows)])


def target(query: Query, number: int) -> prometheus.Dataquery:
    made = prometheus.Dataquery().datasource(PROMETHEUS).ref_id(chr(ord("A") + number))
    return made.expr(query.expr).legend_format(query.legend).range()


def lines(
    title: str,
    *queries: Query,
    unit: str = COUNT,
    width: int = 8,
    stacked: bool = False,
    share: bool = False,
    log: bool = False,
    note: str = "",
) -> timeseries.Panel:
    """Series over time; `stacked` on each other, or as a `share` of a whole between 0 and 1."""
    panel = timeseries.Panel().title(title).description(describe(queries, note)).datasource(PROMETHEUS)
    panel.unit(SHARE if share else unit).span(width).height(8).min(0)
    panel.show_points(VisibilityMode.NEVER).line_width(1)
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    shown = common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM)
    panel.legend(shown.display_mode(LegendDisplayMode.LIST))
    if share:
        panel.max(1)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(40)
    else:
        panel.fill_opacity(8)
    if log:
        panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    for number, query in enumerate(queries):
        panel.with_target(target(query, number))
    return panel


def number(title: str, query: Query, *, unit: str = COUNT, decimals: int | None = None) -> stat.Panel:
    """The last value, large, over its course."""
    panel = stat.Panel().title(title).description(describe([query], "")).datasource(PROMETHEUS)
    panel.unit(unit).span(4).height(4).graph_mode(BigValueGraphMode.AREA)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.FIXED).fixed_color("blue"))
    if decimals is not None:
        panel.decimals(decimals)
    return panel.with_target(target(query, 0))


def buckets(title: str, row: MetricRow, *, unit: str, width: int = 8) -> heatmap.Panel:
    """A histogram over time."""
    query = rate(row, "le", ending="_bucket")
    panel = heatmap.Panel().title(title).description(describe([query], "")).datasource(PROMETHEUS)
    panel.span(width).height(8).y_axis(heatmap.YAxisConfig().unit(unit))
    colors = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues")
    panel.color(colors.scale(HeatmapColorScale.EXPONENTIAL).exponent(0.5).steps(64))
    return panel.with_target(target(query, 0).format(PromQueryFormat.HEATMAP))


# ── dashboards ───────────────────────────────────────────────────────────────────────────────────────────


def variable(name: str, label: str, of: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(label).datasource(PROMETHEUS)
    made.query(f"label_values({of}, {name})").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    made.current(VariableOption(selected=True, text="All", value="$__all"))
    return made.sort(VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True).all_value(".*")


def page(uid: str, title: str, description: str, *rows: tuple[str, Sequence[Any]]) -> dict[str, Any]:
    """A dashboard of titled rows of panels."""
    start = s.START_TIME.name
    board = dashboard.Dashboard(f"imgclust: {title}").uid(f"imgclust-{uid}").description(description)
    board.tags([TAG]).refresh("30s").time("now-1h", "now").timezone("browser").readonly()
    board.tooltip(DashboardCursorSync.CROSSHAIR)
    board.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    board.with_variable(variable("namespace", "Namespace", start))
    board.with_variable(variable("job", "Job", f'{start}{{namespace=~"$namespace"}}'))
    board.with_variable(variable("instance", "Worker", f'{start}{{namespace=~"$namespace", job=~"$job"}}'))
    links = dashboard.DashboardLink("imgclust").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    board.link(links.as_dropdown(False).include_vars(True).keep_time(True))
    for name, expr, color in (
        ("Alerts", 'ALERTS{alertname=~"Imgclust.*", alertstate="firing", job=~"$job|"}', "red"),
        ("Worker starts", f"changes({select(s.START_TIME)}[$__rate_interval]) > 0", "blue"),
    ):
        marks = dashboard.AnnotationQuery().name(name).datasource(PROMETHEUS).expr(expr)
        board.annotation(marks.enable(True).icon_color(color))
    ids = itertools.count(1)
    for row, panels in rows:
        board.with_row(dashboard.Row(row).id(next(ids)))
        for panel in panels:
            board.with_panel(panel.id(next(ids)))
    made: dict[str, Any] = json.loads(json.dumps(board.build(), cls=JSONEncoder))
    return made


def overview() -> dict[str, Any]:
    read = rate(u.STAGE_RECEIVED, stage="consume", name="read")
    ended = rate(u.UPLOADS, "outcome")
    tagged = rate(u.UPLOADS, outcome="tagged", name="tagged")
    return page(
        "overview", "overview", "Does the worker keep up, how late are tags, and what goes wrong?",
        ("Now", [
            number("Workers", gauge("count", s.START_TIME)),
            number("Uploads read", read, unit=PER_SECOND, decimals=1),
            number("Tags", tagged, unit=PER_SECOND, decimals=1),
            number("End to end, p95", quantile(0.95, u.END_TO_END), unit=SECONDS),
            number("Lag", gauge("max", u.LAG_SECONDS), unit=SECONDS),
            number("Dead letters", rate(u.DEAD_LETTERS), unit=PER_SECOND, decimals=2),
        ]),
        ("Flow", [
            lines("Uploads read and tags published", read, tagged, unit=PER_SECOND),
            lines("Uploads by outcome", ended, unit=PER_SECOND, stacked=True),
            lines("End to end", *quantiles(u.END_TO_END), unit=SECONDS,
                note="From `uploaded_at` to the published tag: includes the time before the event was sent."),
        ]),
        ("Lag", [
            lines("Lag, seconds", gauge("max", u.LAG_SECONDS, "instance"), unit=SECONDS),
            lines("Lag, records", gauge("sum", u.LAG_RECORDS, name="not read"),
                gauge("sum", u.HELD_RECORDS, name="read, not committed")),
            lines("Redis view, seconds behind", gauge("max", s.VIEW_LAG_SECONDS, "instance"), unit=SECONDS),
        ]),
        ("Errors", [
            lines("Dead letters by code", rate(u.DEAD_LETTERS, "error_code"), unit=PER_SECOND, stacked=True),
            lines("Retries by code", rate(u.RETRIES, "error_code"), unit=PER_SECOND, stacked=True),
            lines("Redis errors by code", rate(s.VIEW_ERRORS, "error_code"), unit=PER_SECOND, stacked=True),
        ]),
        ("Tags over HTTP", [
            lines("Requests by outcome", rate(s.SERVE_REQUESTS, "outcome"), unit=PER_SECOND,
                stacked=True, note="full: answered with 429, because too many were waiting."),
            lines("Time to the tag", *quantiles(s.SERVE_SECONDS), unit=SECONDS),
            lines("Waiting requests", gauge("sum", s.SERVE_WAITING, "instance"), stacked=True),
        ]),
        ("The wall", [
            lines("Requests", rate(s.WALL_REQUESTS, "outcome"), unit=PER_SECOND, stacked=True),
            lines("Viewers", gauge("sum", s.WALL_STREAMS, "instance"), stacked=True),
        ]),
        ("Stages", [
            lines("In progress", gauge("sum", u.STAGE_IN_PROGRESS, "stage"), stacked=True,
                note="Uploads pile up before the stage that is the bottleneck."),
            lines("Time in a stage, p95", quantile(0.95, u.STAGE_SECONDS, "stage"), unit=SECONDS, log=True),
            lines("Redis view, records", rate(s.VIEW_RECORDS, "outcome"), unit=PER_SECOND, stacked=True),
        ]),
    )  # fmt: skip


def gpu() -> dict[str, Any]:
    busy = rate(u.BUSY_SECONDS, "instance", stage="encode")
    predicting = rate(u.BUSY_SECONDS, "instance", stage="predict")
    decoding = rate(u.STAGE_SECONDS, "instance", ending="_sum", stage="decode")
    return page(
        "gpu", "GPU and batches", "Is the accelerator busy, and how large are its batches?",
        ("Encoder", [
            lines("Images encoded", rate(u.STAGE_FINISHED, "instance", stage="encode", outcome="ok"),
                unit=PER_SECOND),
            lines("Encoder busy", busy, share=True,
                note="Near 1, the accelerator is the bottleneck. Low with lag: the stages before it are."),
            lines("Images per second of encoder time",
                rate(u.STAGE_FINISHED, "instance", stage="encode", outcome="ok") / busy, unit=PER_SECOND,
                note="The speed of the accelerator if it never had to wait."),
        ]),
        ("Batches", [
            buckets("Images in a batch", u.BATCH_IMAGES, unit=COUNT),
            lines("Images in a batch, mean", mean(u.BATCH_IMAGES, "instance")),
            lines("Wait for a batch to leave", *quantiles(u.BATCH_WAIT), unit=SECONDS),
        ]),
        ("Before the encoder", [
            lines("Fetchers busy decoding",
                decoding / gauge("sum", s.FETCHERS, "instance").named("{{instance}}"), share=True,
                note="Share of the fetcher processes' time. Near 1, they need more cores."),
            lines("Fetch and decode, p95", quantile(0.95, u.STAGE_SECONDS, "stage", stage="fetch|decode"),
                unit=SECONDS, log=True),
            lines("Decoded images waiting in shared memory", gauge("sum", s.SLOTS_USED, "instance")),
        ]),
        ("After the encoder", [
            lines("Predictor busy", predicting, share=True),
            lines("Encode and predict, p95",
                quantile(0.95, u.STAGE_SECONDS, "stage", stage="encode|predict"), unit=SECONDS, log=True,
                note="An image's share of the time that its batch waited and was processed."),
            lines("Images waiting for encoder and predictor",
                gauge("sum", u.STAGE_IN_PROGRESS, "stage", stage="encode|predict")),
        ]),
        ("Processes", [
            lines("Fetcher processes", gauge("sum", s.FETCHERS, "instance"),
                rate(s.FETCHER_RESTARTS, "instance").named("{{instance}}, replaced per second"), width=6),
            lines("Batches out of memory", rate(u.OUT_OF_MEMORY, "instance"), unit=PER_SECOND, width=6),
            lines("CPU of the parent process", of_process("rate", "process_cpu_seconds_total"), width=6,
                note="Cores in use, without the fetcher processes."),
            lines("Memory of the parent process",
                of_process("last_over_time", "process_resident_memory_bytes"), unit=BYTES, width=6,
                note="Resident memory, without the fetcher processes."),
        ]),
    )  # fmt: skip


def quality() -> dict[str, Any]:
    tags = rate(m.TAGS)
    top = rate(m.TAGS, "cluster")
    # chosen once for all the time shown, so that they do not change from step to step
    in_range = f"increase({select(m.TAGS)}[$__range] @ end())"
    largest = f"topk(12, {aggregate('sum', in_range, ('cluster',))})"
    by_model, other_by_model = by_version(m.TAGS), by_version(m.TAGS, cluster="-1")
    by_chance = gauge("max", m.DRIFT_CHANCE, "part", name="{{part}}, by chance")
    models = gauge("count", m.MODEL_INFO, "version", "taxonomy")
    steady = gauge("min", m.STABILITY, "cluster")
    return page(
        "quality", "quality", "What the tags look like, and whether the model still fits the uploads.",
        ("Clusters", [
            lines("The twelve largest clusters",
                Query(f"{top.expr} and {largest}", "{{cluster}}", top.rows),
                unit=PER_SECOND, stacked=True, width=12),
            lines("Share of \"other\"",
                (rate(m.TAGS, cluster="-1") / tags).named("now"),
                gauge("avg", m.OTHER_RATIO, name="last 5 minutes"), share=True, width=12),
            lines("The twelve least stable clusters",
                Query(f"bottomk(12, {steady.expr})", steady.legend, steady.rows), share=True, width=24),
        ]),
        ("Probability", [
            buckets("Probability", m.PROBABILITY, unit=SHARE),
            lines("Probability, quantiles",
                *(quantile(q, m.PROBABILITY) for q in (0.1, 0.25, 0.5)), share=True),
            lines("Share of novel images", (rate(m.NOVEL) / tags).named("novel"), share=True,
                note="Unlike anything in the training set. Rises when a new kind of picture arrives."),
        ]),
        ("Drift, against the model's held-out images", [
            lines("Population stability index", gauge("max", m.DRIFT_PSI, "part"), by_chance,
                width=16, log=True,
                note="Below 0.1: steady. Above 0.25: drift, if it is also above chance."),
            lines("Images compared", gauge("min", m.DRIFT_IMAGES, name="worker with the fewest")),
            lines("Share of \"other\", now and held out", gauge("avg", m.DRIFT_OTHER, "of"), share=True),
            lines("Share of novel images, now and held out", gauge("avg", m.DRIFT_NOVEL, "of"), share=True),
            buckets("Similarity to the nearest training image", m.SIMILARITY, unit=SHARE),
        ]),
        ("Model versions side by side", [
            lines("Workers by model version", models, stacked=True, width=6),
            lines("Tags by model version", by_model, unit=PER_SECOND, stacked=True, width=6),
            lines("Share of \"other\" by model version", other_by_model / by_model, share=True, width=6),
            lines("Share of novel images by model version",
                by_version(m.NOVEL) / by_model, share=True, width=6),
            lines("Model changes", rate(m.MODEL_CHANGES, "outcome"), unit=PER_SECOND, width=6),
            lines("Workers that refuse the named model", gauge("sum", m.MODEL_REFUSED, "role"),
                width=6),
        ]),
        ("The shadow model, next to the live one", [
            lines("Agreement with the live model", gauge("avg", m.SHADOW_AGREEMENT, name="agree"), share=True,
                note="Between two taxonomies, clusters are matched one to one first."),
            lines("Share of \"other\", now and held out", gauge("avg", m.SHADOW_OTHER, "of"), share=True),
            lines("Share of novel images, now and held out", gauge("avg", m.SHADOW_NOVEL, "of"), share=True),
            lines("Population stability index", gauge("max", m.SHADOW_PSI, "part"),
                gauge("max", m.SHADOW_CHANCE, "part", name="{{part}}, by chance"), log=True,
                note="Against the shadow model's own held-out images. Lower than for the live model: it fits "
                "better."),
            lines("Workers by shadow model", gauge("sum", m.SHADOW_INFO, "version", "taxonomy"),
                stacked=True),
            lines("Images", gauge("sum", m.SHADOW_IMAGES, name="compared"),
                rate(m.SHADOW_SKIPPED, name="skipped per second"),
                note="Skipped: the shadow model was behind. Live tags never wait for it."),
        ]),
    )  # fmt: skip


def kafka() -> dict[str, Any]:
    refused = rate(u.COMMITS, outcome="aborted|failed|fenced") / rate(u.COMMITS)
    return page(
        "kafka", "Kafka", "The group, its partitions, the transactions for results, and the Redis view.",
        ("Group", [
            lines("Partitions by worker", gauge("sum", u.ASSIGNED, "instance"), stacked=True),
            lines("Rebalances", rate(u.REBALANCES, "instance"), unit=PER_SECOND),
            lines("Longest time between polls", gauge("max", u.POLL_GAP, "instance"), unit=SECONDS),
        ]),
        ("Transactions", [
            lines("Commits by outcome", rate(u.COMMITS, "outcome"), unit=PER_SECOND, stacked=True),
            lines("Share not committed", refused.named("aborted, failed, fenced"), share=True),
            lines("Duration of a commit", *quantiles(u.COMMIT_SECONDS), unit=SECONDS),
        ]),
        ("Intake", [
            lines("Partitions that cannot begin", gauge("sum", u.WAITING, "instance"), stacked=True),
            lines("Paused partitions", gauge("sum", u.PAUSED, "instance"), stacked=True,
                note="Often paused: enough is in flight, and the worker is at its limit."),
            lines("Lag by partition, records", gauge("sum", u.LAG_RECORDS, "partition")),
            lines("Lag by partition, seconds", gauge("max", u.LAG_SECONDS, "partition"), unit=SECONDS),
            lines("Read but not committed, by partition", gauge("sum", u.HELD_RECORDS, "partition")),
            lines("Records lost to retention", rate(u.RECORDS_LOST, "instance"), unit=PER_SECOND),
            lines("Results not acknowledged by Kafka", rate(u.PRODUCE_ERRORS, "instance"), unit=PER_SECOND),
        ]),
        ("Redis view", [
            lines("View by partition, records behind", gauge("sum", s.VIEW_LAG_RECORDS, "partition")),
            lines("Redis answers", gauge("min", s.VIEW_REDIS_UP, "instance"),
                note="0 for a worker without a view."),
            lines("Rebuilds, and entries swept", rate(s.VIEW_REBUILDS, name="rebuilds"),
                rate(s.VIEW_SWEPT, name="swept"), unit=PER_SECOND),
        ]),
    )  # fmt: skip


def dead_letters() -> dict[str, Any]:
    codes = rate(u.DEAD_LETTERS, "error_code")
    fetched = rate(u.STAGE_FINISHED, stage="fetch")
    failing = rate(u.STAGE_FINISHED, stage="fetch", outcome="dead|retry") / fetched
    in_range = aggregate("sum", f"increase({select(u.DEAD_LETTERS)}[$__range])", ("error_code",))
    return page(
        "dead-letters", "dead letters", "What could not be tagged, and what is being tried again.",
        ("Dead letters", [
            lines("By code", codes, unit=PER_SECOND, stacked=True),
            lines("Share of uploads, by code",
                Query(f"{codes.expr} / ignoring (error_code) group_left {rate(u.UPLOADS).expr}", codes.legend,
                    (u.DEAD_LETTERS, u.UPLOADS)), unit=SHARE),
            lines("In the time shown, by code", Query(f"{in_range} > 0", codes.legend, codes.rows),
                note="A running total of as long a time as the dashboard shows."),
        ]),
        ("Retries", [
            lines("Failed attempts by code", rate(u.RETRIES, "error_code"), unit=PER_SECOND, stacked=True),
            lines("Pending", gauge("sum", u.RETRIES_PENDING, name="wait for their time"),
                gauge("sum", u.RETRIES_DUE, name="due")),
            lines("Age of the oldest", gauge("max", u.RETRIES_OLDEST, "instance"), unit=SECONDS),
        ]),
        ("Where", [
            lines("Dead letters by stage", rate(u.STAGE_FINISHED, "stage", outcome="dead"), unit=PER_SECOND,
                stacked=True, note="A fetch that fails counts here too when it will be tried again."),
            lines("Fetches that fail", failing.named("share"), share=True),
            lines("Fetchers replaced", rate(s.FETCHER_RESTARTS, "instance"), unit=PER_SECOND),
        ]),
    )  # fmt: skip


def dashboards() -> dict[Path, dict[str, Any]]:
    made = [overview(), gpu(), quality(), kafka(), dead_letters()]
    return {FOLDER / f"{board['uid'].removeprefix('imgclust-')}.json": board for board in made}


def files() -> dict[Path, str]:
    """Path → content of everything that is made here."""
    return {
        path: json.dumps(board, indent=1, ensure_ascii=False) + "\n" for path, board in dashboards().items()
    }


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)
