"""A folder that is written part by part: a part that is there is whole, and is not made again.

part-00000.parquet   rows, written under another name and renamed
part-00000.json      its marker: what it was made of, how many rows, what failed; written after it
manifest.json        what all of it was made by
failed.csv           what failed, of all parts
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imgclust.engines.batches import EMBEDDED, SKIPPED
from imgclust.errors import ImgclustError
from imgclust.support.spreadsheets import guard
from imgclust.support.tables import remove_unfinished, whole

PART_ROWS = 200_000  # 200 MB of embeddings of 512 numbers; at most a million
MANIFEST, FAILED = "manifest.json", "failed.csv"
COLUMNS = ("id", "source", "code", "message")


def digest_of(batches: Iterable[pa.RecordBatch]) -> str:
    """Of what a part is made of: the same images in the same order, the same digest."""
    found = hashlib.sha256()
    for batch in batches:
        for row in batch.select(["id", "source"]).to_pylist():
            found.update(json.dumps([row["id"], row["source"]]).encode())
        if "embedding" in batch.schema.names:
            found.update(batch.column("embedding").flatten().to_numpy(zero_copy_only=False).tobytes())
    return found.hexdigest()


class Parts:
    """A run's output; a context manager. One process at a time.

    Args:
        folder: made if missing.
        made_by: what makes the rows; parts of something else are refused.

    Raises:
        ImgclustError: the folder is another run's, another process writes to it, or it cannot be written.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any]) -> None:
        self._folder, self._made_by = folder, json.loads(json.dumps(made_by))
        self.rows, self.present = 0, 0
        self.failed: Counter[str] = Counter()
        self._count = 0
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / ".lock").open("w")
        try:
            self._begin()
        except BaseException:
            self._lock.close()
            raise

    def _begin(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ImgclustError(
                f"another process is writing to {str(self._folder)!a}; wait for it, or use another folder"
            ) from None
        remove_unfinished(self._folder)
        before = _read(self._folder / MANIFEST)
        if before is not None and before.get("made_by") != self._made_by:
            raise ImgclustError(
                f"{str(self._folder)!a} was started with {before.get('made_by')}, this run is with "
                f"{self._made_by}: use another folder"
            )
        if before is None and any(self._folder.glob("*.parquet")):
            raise ImgclustError(f"{str(self._folder)!a} holds other Parquet files: use another folder")
        self._write_json(MANIFEST, {"made_by": self._made_by, "complete": False})

    def is_done(self, digest: str) -> bool:
        """Whether the next part is there, made of just this; then it is counted and passed over."""
        marker = _read(self._folder / self._name("json"))
        if (
            marker is None
            or marker["made_of"] != digest
            or not (self._folder / self._name("parquet")).exists()
        ):
            return False
        self.present += marker["rows"]
        self.failed += Counter(marker["failed"])
        self._count += 1
        return True

    def write(self, digest: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[int]:
        """Write the next part; yields the number of rows as they come.

        Args:
            batches: `schema`'s columns, then `code` and `message`; rows whose code is not empty have failed,
                or are files of a folder that are no images, which are passed over.
        """
        (self._folder / self._name("json")).unlink(missing_ok=True)
        failed: Counter[str] = Counter()
        rows = 0
        with (
            self._writing(),
            whole(self._folder / self._name("failed.csv")) as failures,
            whole(self._folder / self._name("parquet")) as part,
            pq.ParquetWriter(part, schema) as out,
        ):
            for batch in batches:
                codes = batch.column("code").to_pylist()
                good = batch.filter(pa.array([code == EMBEDDED for code in codes]))
                if len(good):
                    out.write_batch(good.select(schema.names))
                    rows += len(good)
                for row in batch.select(COLUMNS).to_pylist():
                    if row["code"] not in (EMBEDDED, SKIPPED):
                        failed[row["code"]] += 1
                        failures.write(_csv_line([guard(row[name]) for name in COLUMNS]))
                yield len(codes)
        self._write_json(self._name("json"), {"made_of": digest, "rows": rows, "failed": dict(failed)})
        self.rows += rows
        self.failed += failed
        self._count += 1

    def finish(self, libraries: Mapping[str, str]) -> None:
        """Join the lists of failures, drop what is beyond the last part, and say that all is there."""
        with self._writing():
            lists = [self._folder / f"part-{i:05d}.failed.csv" for i in range(self._count)]
            with whole(self._folder / FAILED) as file:
                file.write(_csv_line(COLUMNS))
                for one in lists:
                    with one.open("rb") as part:
                        shutil.copyfileobj(part, file)
            for beyond in self._folder.glob("part-*"):
                if int(beyond.name[5:10]) >= self._count:
                    beyond.unlink()
        self._write_json(
            MANIFEST,
            {
                "made_by": self._made_by, "complete": True, "parts": self._count,
                "rows": self.rows + self.present, "failed": dict(self.failed), "libraries": dict(libraries),
            },
        )  # fmt: skip

    def _name(self, ending: str) -> str:
        return f"part-{self._count:05d}.{ending}"

    def _write_json(self, name: str, content: object) -> None:
        with self._writing(), whole(self._folder / name) as file:
            file.write(json.dumps(content, indent=1, sort_keys=True).encode())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ImgclustError(
                f"predictions cannot be written to {str(self._folder)!a}: {error.strerror or error}"
            ) from None

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


def _csv_line(cells: Sequence[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().encode()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ImgclustError(f"{str(path)!a} cannot be read: {error}; remove it to create it again") from None
    return found
