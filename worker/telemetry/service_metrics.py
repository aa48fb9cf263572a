"""Metrics of the fetchers, the view, the wall and `serve`."""

from __future__ import annotations

from worker.telemetry.metric_row import Label, MetricRow
from worker.telemetry.upload_metrics import PARTITION, STAGE_BUCKETS

VIEW_OUTCOMES = ("applied", "stale", "malformed")
WALL_OUTCOMES = ("ok", "refused", "failed")
SERVE_OUTCOMES = ("tagged", "refused", "failed", "full", "gone")
REDIS_ERRORS = ("away", "timeout", "full", "read-only", "other")

FETCHERS = MetricRow("imgclust_fetchers", "gauge", "processes", "Fetcher processes that are running.")
FETCHER_RESTARTS = MetricRow("imgclust_fetcher_restarts_total", "counter", "processes",
    "Fetcher processes that died or hung and were replaced.")  # fmt: skip
SLOTS_USED = MetricRow("imgclust_slots_used", "gauge", "images", "Decoded images held in shared memory.")
VIEW_RECORDS = MetricRow("imgclust_view_records_total", "counter", "records",
    "Records of the tags topic: written to Redis (applied), already there or outdated (stale), or not a tag "
    "(malformed).", (Label("outcome", VIEW_OUTCOMES),))  # fmt: skip
VIEW_ERRORS = MetricRow("imgclust_view_errors_total", "counter", "errors",
    "Failed writes to Redis; each is tried again.", (Label("error_code", REDIS_ERRORS),))  # fmt: skip
VIEW_LAG_RECORDS = MetricRow("imgclust_view_lag_records", "gauge", "records",
    "Records of the tags topic that are not in Redis yet.", (PARTITION,))  # fmt: skip
VIEW_LAG_SECONDS = MetricRow("imgclust_view_lag_seconds", "gauge", "seconds",
    "Age of the oldest record that was read but is not in Redis yet, or how long Redis has not accepted the "
    "waiting records. 0 if Redis has everything.")  # fmt: skip
VIEW_REDIS_UP = MetricRow("imgclust_view_redis_up", "gauge", "state",
    "1 if the last command to Redis succeeded, else 0.")  # fmt: skip
VIEW_REBUILDS = MetricRow("imgclust_view_rebuilds_total", "counter", "rebuilds",
    "How often the view read tags again, because Redis had lost some or a rebuild was "
    "requested.")  # fmt: skip
VIEW_SWEPT = MetricRow("imgclust_view_swept_total", "counter", "entries",
    "Entries that the sweep removed from Redis: tags that are no longer in the topic, and ids in a cluster "
    "where they do not belong.")  # fmt: skip
START_TIME = MetricRow("imgclust_start_time_seconds", "gauge", "seconds",
    "When the worker started, in seconds since the epoch.")  # fmt: skip

WALL_REQUESTS = MetricRow("imgclust_wall_requests_total", "counter", "requests",
    "Requests to the wall and its API: answered (ok), invalid (refused), or not answered because Redis is "
    "down or there are too many requests (failed).", (Label("outcome", WALL_OUTCOMES),))  # fmt: skip
WALL_STREAMS = MetricRow("imgclust_wall_streams", "gauge", "streams",
    "Browsers that are watching the wall now.")  # fmt: skip
SERVE_REQUESTS = MetricRow("imgclust_serve_requests_total", "counter", "requests",
    "Requests to `imgclust-worker serve` by outcome: tagged; refused (the request or its picture is "
    "invalid); failed (an image server failed, or this one); full (429); gone (the client did not wait).",
    (Label("outcome", SERVE_OUTCOMES),))  # fmt: skip
SERVE_SECONDS = MetricRow("imgclust_serve_seconds", "histogram", "seconds",
    "Time from a request to `imgclust-worker serve` to its tag.", (), STAGE_BUCKETS)  # fmt: skip
SERVE_WAITING = MetricRow("imgclust_serve_waiting", "gauge", "requests",
    "Requests to `imgclust-worker serve` that are waiting for an answer.")  # fmt: skip
