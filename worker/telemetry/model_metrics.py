"""Metrics of what is tagged: clusters, drift, the model in use and its shadow."""

from __future__ import annotations

import dataclasses

from imgclust.model.drift import PARTS
from worker.telemetry.metric_row import Label, MetricRow

MODEL_OUTCOMES = ("changed", "refused")
MODEL_ROLES = ("live", "shadow")

TAGS = MetricRow("imgclust_tags_total", "counter", "tags",
    "Published tags by cluster; -1 is \"other\".", (Label("cluster"),))  # fmt: skip
OTHER_RATIO = MetricRow("imgclust_tags_other_ratio", "gauge", "ratio",
    "Share of \"other\" among the tags of the last 5 minutes; NaN without tags.")  # fmt: skip
NOVEL = MetricRow("imgclust_tags_novel_total", "counter", "tags",
    "Published tags of images that are unlike anything the model was trained on.")  # fmt: skip
PROBABILITY = MetricRow("imgclust_tag_probability_ratio", "histogram", "ratio",
    "Probability of published tags; \"other\" has 0.", (),
    (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0))  # fmt: skip
SIMILARITY = MetricRow("imgclust_similarity_ratio", "histogram", "ratio",
    "Cosine similarity of predicted images to the nearest training image. Novel images are far from all.", (),
    (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0))  # fmt: skip
DRIFT_IMAGES = MetricRow("imgclust_drift_images", "gauge", "images",
    "Images in the drift metrics: those predicted in the last hour, or the last 12,000 if those "
    "are fewer.")  # fmt: skip
DRIFT_PSI = MetricRow("imgclust_drift_psi", "gauge", "index",
    "Population stability index against the model's held-out images, for the clusters, the probabilities and "
    "the similarities to the nearest training image. Below 0.1: steady. Above 0.25: drift. NaN if the model "
    "has no such record.",
    (Label("part", PARTS),))  # fmt: skip
DRIFT_CHANCE = MetricRow("imgclust_drift_psi_chance", "gauge", "index",
    "By chance alone the index stays below this, 99 times of 100. A lower index means nothing.",
    (Label("part", PARTS),))  # fmt: skip
DRIFT_OTHER = MetricRow("imgclust_drift_other_ratio", "gauge", "ratio",
    "Share of \"other\", in the window and among the model's held-out images.",
    (Label("of", ("window", "held-out")),))  # fmt: skip
DRIFT_NOVEL = MetricRow("imgclust_drift_novel_ratio", "gauge", "ratio",
    "Share of novel images, in the window and among the model's held-out images.",
    (Label("of", ("window", "held-out")),))  # fmt: skip
MODEL_INFO = MetricRow("imgclust_model_info", "gauge", "info",
    "1 for the model in use.", (Label("version"), Label("taxonomy"), Label("encoder")))  # fmt: skip
STABILITY = MetricRow("imgclust_cluster_stability_ratio", "gauge", "ratio",
    "How well the model's clusters are found again when a fifth of its training images is left out. 1: "
    "exactly. Do not rely on a cluster below 0.6. Missing if not known.",
    (Label("cluster"),))  # fmt: skip
MODEL_CHANGES = MetricRow("imgclust_model_changes_total", "counter", "changes",
    "Model changes while the worker was running: done (changed) or not possible (refused).",
    (Label("outcome", MODEL_OUTCOMES),))  # fmt: skip
MODEL_REFUSED = MetricRow("imgclust_model_refused", "gauge", "state",
    "1 while the worker cannot use the model that the models topic names, and so uses another one; else 0.",
    (Label("role", MODEL_ROLES),))  # fmt: skip
SHADOW_INFO = MetricRow("imgclust_shadow_info", "gauge", "info",
    "1 for the shadow model, which predicts next to the live model and publishes nothing. Without one: 0, "
    "and empty labels.",
    (Label("version"), Label("taxonomy")))  # fmt: skip
SHADOW_AGREEMENT = MetricRow("imgclust_shadow_agreement_ratio", "gauge", "ratio",
    "Share of the last images that shadow and live model put into the same cluster; \"other\" counts as one. "
    "Clusters of two taxonomies are matched one to one, so that most images agree. NaN without a "
    "shadow.")  # fmt: skip
SHADOW_SKIPPED = MetricRow("imgclust_shadow_skipped_total", "counter", "images",
    "Images that the shadow model did not predict, because it failed or was behind (live tags never wait for "
    "it).")  # fmt: skip
SHADOW_IMAGES = MetricRow("imgclust_shadow_images", "gauge", "images",
    "`imgclust_drift_images`, of the shadow model.")  # fmt: skip
SHADOW_PSI = MetricRow("imgclust_shadow_psi", "gauge", "index",
    "`imgclust_drift_psi`, of the shadow model.", (Label("part", PARTS),))  # fmt: skip
SHADOW_CHANCE = MetricRow("imgclust_shadow_psi_chance", "gauge", "index",
    "`imgclust_drift_psi_chance`, of the shadow model.", (Label("part", PARTS),))  # fmt: skip
SHADOW_OTHER = MetricRow("imgclust_shadow_other_ratio", "gauge", "ratio",
    "`imgclust_drift_other_ratio`, of the shadow model.",
    (Label("of", ("window", "held-out")),))  # fmt: skip
SHADOW_NOVEL = MetricRow("imgclust_shadow_novel_ratio", "gauge", "ratio",
    "`imgclust_drift_novel_ratio`, of the shadow model.",
    (Label("of", ("window", "held-out")),))  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class DriftRows:
    """The gauges of one model's drift."""

    images: MetricRow
    psi: MetricRow
    chance: MetricRow
    other: MetricRow
    novel: MetricRow


LIVE_DRIFT = DriftRows(DRIFT_IMAGES, DRIFT_PSI, DRIFT_CHANCE, DRIFT_OTHER, DRIFT_NOVEL)
SHADOW_DRIFT = DriftRows(SHADOW_IMAGES, SHADOW_PSI, SHADOW_CHANCE, SHADOW_OTHER, SHADOW_NOVEL)
