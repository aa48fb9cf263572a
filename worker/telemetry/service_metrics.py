"""Metrics of the fetchers, the view, the wall and `serve`."""

from __future__ import annotations

from worker.telemetry.metric_row import Label, MetricRow
from worker.telemetry.upload_metrics import PARTITION, STAGE_BUCKETS

VIEW_OUTCOMES = ("applied", "stale", "malformed")
WALL_OUTCOMES = ("ok", "refused", "failed")
SERVE_OUTCOMES = ("tagged", "refused", "failed", "full", "gone")
REDIS_ERRORS = ("away", "timeout", "full", "read-only", "other")

FETCHERS = MetricRow("imgclust_fetchers", "gauge", "processes", "Fetcher processes that run.")
FETCHER_RESTARTS = MetricRow("imgclust_fetcher_restarts_total", "counter", "processes",
    "Fetcher processes that died or hung and were replaced.")  # fmt: skip
SLOTS_USED = MetricRow("imgclust_slots_used", "gauge", "images", "Decoded images held in shared memory.")
VIEW_RECORDS = MetricRow("imgclust_view_records_total", "counter", "records",
    "Records of the tags topic: written to Redis (applied), already there or overtaken (stale), or not a tag "
    "(malformed).", (Label("outcome", VIEW_OUTCOMES),))  # fmt: skip
VIEW_ERRORS = MetricRow("imgclust_view_errors_total", "counter", "errors",
    "Failed writes to Redis; each is tried again.", (Label("error_code", REDIS_ERRORS),))  # fmt: skip
VIEW_LAG_RECORDS = MetricRow("imgclust_view_lag_records", "gauge", "records",
    "Records of the tags topic that are not in Redis yet.", (PARTITION,))  # fmt: skip
VIEW_LAG_SECONDS = MetricRow("imgclust_view_lag_seconds", "gauge", "seconds",
    "Age of the oldest record that was read and is not in Redis yet, or how long Redis has not taken what "
    "waits; 0 when all is there.")  # fmt: skip
VIEW_REDIS_UP = MetricRow("imgclust_view_redis_up", "gauge", "state",
    "1 when the last command to Redis succeeded, else 0.")  # fmt: skip
VIEW_REBUILDS = MetricRow("imgclust_view_rebuilds_total", "counter", "rebuilds",
    "Times that the view read tags again: Redis had lost some, or it was asked to.")  # fmt: skip
VIEW_SWEPT = MetricRow("imgclust_view_swept_total", "counter", "entries",
    "Entries that the sweep removed from Redis: tags that are no longer in the topic, and members of a "
    "cluster that they do not belong to.")  # fmt: skip
START_TIME = MetricRow("imgclust_start_time_seconds", "gauge", "seconds",
    "When the worker started, in seconds since the epoch.")  # fmt: skip

WALL_REQUESTS = MetricRow("imgclust_wall_requests_total", "counter", "requests",
    "Requests to the wall and its API: answered (ok), wrong (refused), or not answered because Redis is away "
    "or too many ask (failed).", (Label("outcome", WALL_OUTCOMES),))  # fmt: skip
WALL_STREAMS = MetricRow("imgclust_wall_streams", "gauge", "streams",
    "Browsers that look at the wall now.")  # fmt: skip
SERVE_REQUESTS = MetricRow("imgclust_serve_requests_total", "counter", "requests",
    "Questions to `imgclust-worker serve` by how they ended: tagged; refused (the question or its picture is "
    "wrong); failed (a server of pictures, or this one); full (429); gone (who asked did not wait).",
    (Label("outcome", SERVE_OUTCOMES),))  # fmt: skip
SERVE_SECONDS = MetricRow("imgclust_serve_seconds", "histogram", "seconds",
    "From a question to `imgclust-worker serve` to its tag.", (), STAGE_BUCKETS)  # fmt: skip
SERVE_WAITING = MetricRow("imgclust_serve_waiting", "gauge", "requests",
    "Questions to `imgclust-worker serve` that wait for their answer.")  # fmt: skip
