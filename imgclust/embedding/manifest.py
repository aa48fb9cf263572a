"""What an embeddings folder was made by: `manifest.json` beside the shards, a line of it for each run.

It is there for people and audits; readers go by the shards, each of which has its encoder in its metadata.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgclust.errors import EmbeddingsError
from imgclust.support.machine import now
from imgclust.support.tables import whole
from imgclust.types import EncoderIdentity

MANIFEST = "manifest.json"
LIBRARIES = ("imgclust", "torch", "open_clip_torch", "pillow", "simplejpeg", "numpy", "pyarrow")
MAX_RUNS = 1000  # the oldest are forgotten


def libraries() -> dict[str, str]:
    """Of all that an embedding depends on, the version, where it is installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs that are recorded, the oldest first; none of a folder from before they were.

    Raises:
        EmbeddingsError: the manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        runs: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["runs"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EmbeddingsError(
            f"{str(path)!a} cannot be read: {type(error).__name__}: {str(error)!a:.200}; remove it, and the "
            "next run begins another"
        ) from None
    return runs


class RunRecord:
    """A run's place in the manifest of its folder: written when it begins, and when it ends.

    Args:
        folder: of embeddings, which this process alone writes to.
        encoder: whose embeddings they are.
        options: what else decides about the embeddings, and where they were made, as JSON's types.
        first_shard: the number of the first that it may write.

    Raises:
        EmbeddingsError: the manifest is damaged, or cannot be written.
    """

    def __init__(
        self, folder: Path, encoder: EncoderIdentity, options: Mapping[str, Any], first_shard: int
    ) -> None:
        self._path, self._encoder = folder / MANIFEST, encoder
        self._earlier = read_runs(folder)[1 - MAX_RUNS :]
        self._run = {
            "began": now(), "complete": False, "first_shard": first_shard, "options": dict(options),
            "libraries": libraries(),
        }  # fmt: skip
        self._write()

    def complete(self, counts: Mapping[str, Any]) -> None:
        """It has ended: with these counts, as JSON's types."""
        self._run |= {"complete": True, **counts}
        self._write()

    def _write(self) -> None:
        content = {"encoder": self._encoder.to_dict(), "runs": [*self._earlier, self._run]}
        try:
            with whole(self._path) as file:
                file.write(json.dumps(content, indent=1, sort_keys=True).encode())
        except OSError as error:
            raise EmbeddingsError(
                f"{str(self._path)!a} cannot be written: {error.strerror or error}"
            ) from None
