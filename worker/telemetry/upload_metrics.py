"""Metrics of the way of an upload: stages, ends, retries, Kafka."""

from __future__ import annotations

from worker.errors import ERROR_CODES
from worker.telemetry.metric_row import Label, MetricRow

STAGES = ("consume", "fetch", "decode", "encode", "predict", "publish", "view")
BUSY_STAGES = ("encode", "predict")
STAGE_OUTCOMES = ("ok", "retry", "dead", "dropped")
UPLOAD_OUTCOMES = ("tagged", "deleted", "dead", "superseded")
COMMIT_OUTCOMES = ("committed", "aborted", "failed", "fenced")

_STAGE = Label("stage", STAGES)
PARTITION = Label("partition")
# 1 ms to 1 min: a decode takes 2 ms, a batch on a GPU 20 ms, a slow server 30 s.
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# a batch waits for WORKER_MAX_WAIT (20 ms) at most, and longer only when the encoder is behind
_WAIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30)
# 10 ms to 1 h: retries are part of an upload's way and may wait for minutes.
_TOTAL_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)

STAGE_RECEIVED = MetricRow("imgclust_stage_received_total", "counter", "items",
    "Items that entered the stage.", (_STAGE,))  # fmt: skip
STAGE_FINISHED = MetricRow("imgclust_stage_finished_total", "counter", "items",
    "Items that left the stage: passed on (ok), to be retried (retry), as dead letters (dead), or given up "
    "because the partition was revoked or a later event of the id arrived (dropped).",
    (_STAGE, Label("outcome", STAGE_OUTCOMES)))  # fmt: skip
STAGE_IN_PROGRESS = MetricRow("imgclust_stage_in_progress", "gauge", "items",
    "Items in the stage now: received minus finished.", (_STAGE,))  # fmt: skip
STAGE_SECONDS = MetricRow("imgclust_stage_seconds", "histogram", "seconds",
    "Time that an item spent in the stage.", (_STAGE,), STAGE_BUCKETS)  # fmt: skip
BATCH_IMAGES = MetricRow("imgclust_batch_images", "histogram", "images",
    "Images per call of the encoder.", (), (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512))  # fmt: skip
BATCH_WAIT = MetricRow("imgclust_batch_wait_seconds", "histogram", "seconds",
    "How long the oldest image of a batch waited before the batch was sent.", (), _WAIT_SECONDS)  # fmt: skip
BUSY_SECONDS = MetricRow("imgclust_stage_busy_seconds_total", "counter", "seconds",
    "Time that the encoder or the predictor was busy. Its rate is the busy share.",
    (Label("stage", BUSY_STAGES),))  # fmt: skip
OUT_OF_MEMORY = MetricRow("imgclust_encoder_out_of_memory_total", "counter", "batches",
    "Batches that did not fit into the device's memory. Each was halved and tried again.")  # fmt: skip
END_TO_END = MetricRow("imgclust_end_to_end_seconds", "histogram", "seconds",
    "From an upload's `uploaded_at` to its published tag.", (), _TOTAL_SECONDS)  # fmt: skip
UPLOADS = MetricRow("imgclust_uploads_total", "counter", "uploads",
    "Uploads by outcome. Every upload has one.", (Label("outcome", UPLOAD_OUTCOMES),))  # fmt: skip
DEAD_LETTERS = MetricRow("imgclust_dead_letters_total", "counter", "uploads",
    "Uploads that became dead letters.", (Label("error_code", ERROR_CODES),))  # fmt: skip
RETRIES = MetricRow("imgclust_retries_total", "counter", "attempts",
    "Failed attempts that will be retried.", (Label("error_code", ERROR_CODES),))  # fmt: skip
RETRIES_PENDING = MetricRow("imgclust_retries_pending", "gauge", "uploads",
    "Uploads that are waiting for another attempt.")  # fmt: skip
RETRIES_DUE = MetricRow("imgclust_retries_due", "gauge", "uploads",
    "Uploads whose next attempt is due but has not begun.")  # fmt: skip
RETRIES_OLDEST = MetricRow("imgclust_retries_oldest_seconds", "gauge", "seconds",
    "Age of the oldest upload that is waiting for another attempt; 0 if there is none.")  # fmt: skip
LAG_RECORDS = MetricRow("imgclust_consumer_lag_records", "gauge", "records",
    "Records of the uploads topic that are not read yet: the worker is behind.", (PARTITION,))  # fmt: skip
HELD_RECORDS = MetricRow("imgclust_consumer_held_records", "gauge", "records",
    "Records that were read but are above the committed offset: held up by a slow image, not by a slow "
    "worker.", (PARTITION,))  # fmt: skip
LAG_SECONDS = MetricRow("imgclust_consumer_lag_seconds", "gauge", "seconds",
    "Upper bound of how long the oldest unread record has waited: since the record before it, or since the "
    "partition's end was reached. 0 at the end.",
    (PARTITION,))  # fmt: skip
ASSIGNED = MetricRow("imgclust_consumer_assigned_partitions", "gauge", "partitions",
    "Partitions of the uploads topic that this worker owns.")  # fmt: skip
WAITING = MetricRow("imgclust_consumer_waiting_partitions", "gauge", "partitions",
    "Partitions that this worker has owned for 10 seconds without beginning to read them. The log gives the "
    "reason.")  # fmt: skip
PAUSED = MetricRow("imgclust_consumer_paused_partitions", "gauge", "partitions",
    "Partitions that are paused because enough uploads are in flight.")  # fmt: skip
POLL_GAP = MetricRow("imgclust_poll_gap_seconds", "gauge", "seconds",
    "Longest time between two polls of Kafka in the last minute, including the current gap; NaN before the "
    "first poll. Beyond `max.poll.interval.ms` the group takes the partitions away.")  # fmt: skip
REBALANCES = MetricRow("imgclust_consumer_rebalances_total", "counter", "rebalances",
    "How often partitions were assigned, revoked or lost.")  # fmt: skip
RECORDS_LOST = MetricRow("imgclust_consumer_records_lost_total", "counter", "records",
    "Records that this group can no longer read: removed by retention, lost with the end of the log, or in a "
    "topic that was deleted.")  # fmt: skip
COMMITS = MetricRow("imgclust_commits_total", "counter", "commits",
    "Transactions. With at-least-once delivery: offset commits.",
    (Label("outcome", COMMIT_OUTCOMES),))  # fmt: skip
COMMIT_SECONDS = MetricRow("imgclust_commit_seconds", "histogram", "seconds",
    "Duration of a commit.", (), STAGE_BUCKETS)  # fmt: skip
PRODUCE_ERRORS = MetricRow("imgclust_produce_errors_total", "counter", "records",
    "Records that Kafka did not acknowledge.")  # fmt: skip
