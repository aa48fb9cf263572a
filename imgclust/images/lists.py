"""Lists of images, in CSV or Parquet → rows, of which a bad one costs nothing but itself.

A CSV file is read record by record. Where one cannot be read (a stray quote, a cell above the csv module's
limit), its first line is the bad row, and reading goes on with the next line; so a quote that is never closed
does not swallow the rest of the file.
"""

from __future__ import annotations

import codecs
import csv
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from imgclust.errors import ImgclustError

MAX_RECORD = 1 << 20  # characters of one record, over all its lines: what an open quote may swallow

Row = Mapping[str, Any] | str  # the cells by column, or what is wrong with the row


def csv_rows(path: Path) -> Iterator[Row]:
    """The records of a CSV or TSV file in UTF-8, or in UTF-16 with a byte order mark, as Excel writes it.

    Bytes that are not UTF-8 come as lone surrogates, as in file names.

    Raises:
        ImgclustError: the file cannot be read.
    """
    try:
        with _opened(path) as file:
            records = _Records(file, "\t" if path.suffix.lower() == ".tsv" else ",")
            header = next(records, None)
            while header == []:
                header = next(records, None)
            if not header or isinstance(header, str):
                raise ImgclustError(f"{str(path)!a} has no header line with the names of its columns")
            records.width = len(header)
            for record in records:
                if record:  # no blank line
                    yield record if isinstance(record, str) else dict(zip(header, record, strict=False))
    except (OSError, UnicodeError) as error:
        raise ImgclustError(f"{str(path)!a} cannot be read as a CSV file: {str(error)!a}") from None


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    if wide:
        return path.open(newline="", encoding="utf-16", errors="replace")
    return path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")


class _Records(Iterator[list[str] | str]):
    """The records of an open file; a string says what is wrong with the line that stands there.

    Attributes:
        width: columns of the header; 0: not read yet.
    """

    def __init__(self, file: IO[str], delimiter: str) -> None:
        self._file, self._delimiter = file, delimiter
        self._again: deque[str] = deque()  # lines to be read once more
        self._taken: list[str] = []  # lines of the record that is being read
        self._reader = self._new_reader()
        self.width = 0

    def __next__(self) -> list[str] | str:
        try:
            record = next(self._reader)
        except (csv.Error, _TooLongError) as error:
            return self._first_line_alone(str(error))
        if len(self._taken) > 1 and self.width and len(record) != self.width:
            return self._first_line_alone("a quote is opened there and closed in another row")
        self._taken.clear()
        return record

    def _first_line_alone(self, reason: str) -> list[str] | str:
        """Read the rest again later; the line itself may pass by the rules of more lenient readers."""
        line = self._taken[0]
        self._again.extendleft(reversed(self._taken[1:]))
        self._taken.clear()
        self._reader = self._new_reader()
        try:
            record = next(csv.reader([line.rstrip("\r\n") + "\n"], delimiter=self._delimiter))
        except csv.Error:
            return reason
        if record and record[-1].endswith("\n"):
            return "a quote is opened there and never closed"
        return record if len(record) == self.width else reason

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), delimiter=self._delimiter, strict=True)

    def _lines(self) -> Iterator[str]:
        size = 0
        while True:
            line = self._again.popleft() if self._again else self._file.readline(2 * MAX_RECORD)
            if not line:
                return
            size = size + len(line) if self._taken else len(line)
            self._taken.append(line)
            if len(self._taken) > 1 and size > MAX_RECORD:
                raise _TooLongError(f"does not end within {MAX_RECORD} characters")
            yield line


class _TooLongError(Exception):
    """A record that does not end."""


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file; a part of it that cannot be read is one bad row.

    Raises:
        ImgclustError: it is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ImgclustError(f"{str(path)!a} is not a Parquet file: {ascii(str(error))[:200]}") from None
    with file:
        for group in range(file.num_row_groups):
            try:
                for batch in file.iter_batches(4096, row_groups=[group]):
                    yield from _batch_rows(batch)
            except (OSError, pa.ArrowException) as error:
                lost = file.metadata.row_group(group).num_rows
                yield f"(a part of) {lost} rows cannot be read: {ascii(str(error))[:200]}"


def _batch_rows(batch: Any) -> Iterator[Row]:
    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if batch.num_rows == 1:  # text that is not UTF-8, a time beyond Python's
            yield f"a value cannot be read: {type(error).__name__}: {ascii(str(error))[:200]}"
            return
        for index in range(batch.num_rows):
            yield from _batch_rows(batch.slice(index, 1))
        return
    yield from rows
