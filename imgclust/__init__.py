"""Group images by what they show: embed, fit, freeze, predict, report.

Names are loaded on first use: `import imgclust` costs nothing but the standard library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgclust.embedding.embed import embed
    from imgclust.embedding.encoder import load_encoder
    from imgclust.embedding.store import read_embeddings
    from imgclust.model.model import ClusterModel
    from imgclust.report.page import write_report
    from imgclust.searching.search import search
    from imgclust.training.estimator import ImageClusterer
    from imgclust.training.fit import fit
    from imgclust.types import Prediction

__all__ = [
    "ClusterModel",
    "ImageClusterer",
    "Prediction",
    "__version__",
    "embed",
    "fit",
    "load_encoder",
    "read_embeddings",
    "search",
    "write_report",
]
__version__ = "0.1.0"

_HOME = {
    "ClusterModel": "imgclust.model.model",
    "ImageClusterer": "imgclust.training.estimator",
    "Prediction": "imgclust.types",
    "embed": "imgclust.embedding.embed",
    "fit": "imgclust.training.fit",
    "load_encoder": "imgclust.embedding.encoder",
    "read_embeddings": "imgclust.embedding.store",
    "search": "imgclust.searching.search",
    "write_report": "imgclust.report.page",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imgclust' has no attribute {name!r}; it offers {', '.join(_HOME)}")


def __dir__() -> list[str]:
    return sorted(__all__)
