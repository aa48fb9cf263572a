"""A model in a terminal, a notebook, a table and a plot."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from imgclust.errors import ImgclustError
from imgclust.types import OTHER, EncoderIdentity, Ints

if TYPE_CHECKING:
    import pyarrow as pa

    from imgclust.model.parts import Cluster

PICTURES = 6  # of each cluster in a notebook
SHOWN = 40  # clusters in a notebook, the largest ones
LABELLED = 30  # clusters that carry their name on a plot


class Shown(Protocol):
    """What is shown of a model; see `imgclust.model.model.ClusterModel`."""

    @property
    def version(self) -> str: ...
    @property
    def encoder(self) -> EncoderIdentity | None: ...
    @property
    def clusters(self) -> tuple[Cluster, ...]: ...
    @property
    def labels_(self) -> Ints: ...
    @property
    def thumbnails(self) -> Mapping[str, bytes]: ...
    @property
    def map(self) -> pa.Table: ...


def text(model: Shown) -> str:
    """One short line."""
    encoder = f", encoder {model.encoder.name}" if model.encoder else ""
    return f"<ClusterModel {model.version}: {_counts(model)}{encoder}>"


def _counts(model: Shown) -> str:
    images, other = len(model.labels_), int((model.labels_ == OTHER).sum())
    return (
        f"{images:,} training images, {images - other:,} in {len(model.clusters)} clusters, {other:,} in none"
    )


def by_size(clusters: Sequence[Cluster]) -> list[Cluster]:
    """The largest first."""
    return sorted(clusters, key=lambda cluster: (-cluster.size, cluster.id))


def as_html(model: Shown) -> str:
    """A table of the largest clusters with typical pictures; names and ids are text, whatever they hold."""
    rows = "".join(_row(model, cluster) for cluster in by_size(model.clusters)[:SHOWN])
    more = len(model.clusters) - SHOWN
    rest = f"<p>and {more} smaller clusters</p>" if more > 0 else ""
    head = f"<p><b>Model {html.escape(model.version)}</b>: {html.escape(_counts(model))}</p>"
    columns = "<tr><th>cluster</th><th>name</th><th>images</th><th>typical pictures</th></tr>"
    return f"{head}<table>{columns}{rows}</table>{rest}"


def _row(model: Shown, cluster: Cluster) -> str:
    stored = [image for image in cluster.exemplars if image in model.thumbnails][:PICTURES]
    pictures = "".join(
        f'<img height="56" alt="{html.escape(image, quote=True)}" title="{html.escape(image, quote=True)}" '
        f'src="data:image/webp;base64,{base64.b64encode(model.thumbnails[image]).decode()}">'
        for image in stored
    )
    name = html.escape(cluster.name or "")
    return f"<tr><td>{cluster.id}</td><td>{name}</td><td>{cluster.size:,}</td><td>{pictures}</td></tr>"


def as_table(model: Shown) -> pa.Table:
    """See `ClusterModel.to_arrow`."""
    import pyarrow as pa

    clusters = model.clusters
    return pa.table(
        {
            "cluster": pa.array([c.id for c in clusters], pa.int32()),
            "name": pa.array([c.name for c in clusters], pa.string()),
            "fitted_images": pa.array([c.size for c in clusters], pa.int64()),
            "typical": pa.array([list(c.exemplars) for c in clusters], pa.list_(pa.string())),
        }
    )


def plot_map(model: Shown, ax: Any = None) -> Any:
    """See `ClusterModel.plot_map`."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImgclustError("plots need matplotlib: pip install 'imgclust[notebook]'") from None
    ax = ax if ax is not None else plt.subplots(figsize=(9, 9))[1]
    x, y, labels = (np.asarray(model.map.column(name)) for name in ("x", "y", "cluster"))
    other = labels == OTHER
    ax.scatter(x[other], y[other], s=3, c="0.8", linewidths=0)
    colour = plt.get_cmap("tab20")
    for rank, cluster in enumerate(by_size(model.clusters)):
        rows = labels == cluster.id
        ax.scatter(x[rows], y[rows], s=4, color=colour(rank % 20), linewidths=0)
        if rows.any() and rank < LABELLED:
            place = float(np.median(x[rows])), float(np.median(y[rows]))
            # a name with two dollar signs would be set as a formula
            name = (cluster.name or f"cluster {cluster.id}").replace("$", r"\$")
            ax.annotate(name, place, fontsize=8, ha="center")
    ax.set_axis_off()
    ax.set_aspect("equal")
    return ax
