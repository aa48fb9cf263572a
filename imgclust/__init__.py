"""Group images by what they show: embed, fit, freeze, predict, report.

Names are loaded on first use: `import imgclust` costs nothing but the standard library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgclust.embedding.encoder import load_encoder
    from imgclust.model.model import ClusterModel
    from imgclust.types import Prediction

__all__ = ["ClusterModel", "Prediction", "__version__", "load_encoder"]
__version__ = "0.1.0"

_HOME = {
    "ClusterModel": "imgclust.model.model",
    "load_encoder": "imgclust.embedding.encoder",
    "Prediction": "imgclust.types",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imgclust' has no attribute {name!r}")
