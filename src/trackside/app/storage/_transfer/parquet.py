"""Exports as Parquet, for those who look at events with other tools: a column for each field, the payload as JSON text.

What the first and the last line of JSON lines say is in the metadata of the file, under `trackside`. A Parquet file
ends with its table of contents, so a file that ends too early is not one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

import msgspec

from trackside.app.storage._rows.encoding import time_of, time_text
from trackside.app.storage._transfer.file_format import (
    ExportedEvent,
    ExportFooter,
    ExportHeader,
    ImportedRow,
    PositionOrder,
    check_count,
    checked_header,
    row_of,
)
from trackside.app.storage.errors import ExportDamagedError, ForeignExportError, MissingParquetError

try:
    import pyarrow as pa  # type: ignore[import-untyped]  # has no stubs
    import pyarrow.parquet as pq  # type: ignore[import-untyped]
except ImportError as exc:
    raise MissingParquetError from exc

_ABOUT: Final = b"trackside"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_GROUP_ROWS: Final = 20_000  # of a row group, or
_GROUP_BYTES: Final = 32 * 1_048_576  # of payloads: what is held in memory at a time
_READ_ROWS: Final = 1_000

_SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("thread_id", pa.string(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("occurred_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("payload", pa.string(), nullable=False),
    ]
)
_TIME: Final = _SCHEMA.field("occurred_at").type


class _About(msgspec.Struct, frozen=True, kw_only=True):
    """What the metadata of the file says."""

    header: ExportHeader
    footer: ExportFooter


_encode_about = msgspec.json.Encoder().encode
_decode_about = msgspec.json.Decoder(_About).decode


class ParquetWriter:
    """Writes a Parquet file."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(file, _SCHEMA, compression="zstd")
        self._header: ExportHeader | None = None
        self._waiting: list[ExportedEvent] = []
        self._size = 0

    def begin(self, header: ExportHeader) -> None:
        """Keep it for the end."""
        self._header = header

    def write(self, events: Sequence[ExportedEvent]) -> None:
        """Write events as soon as there are enough for a row group."""
        for event in events:
            self._waiting.append(event)
            self._size += len(bytes(event.payload))
            if len(self._waiting) == _GROUP_ROWS or self._size >= _GROUP_BYTES:
                self._write_group()

    def finish(self, footer: ExportFooter) -> None:
        """Write the rest, and the table of contents."""
        assert self._header is not None
        self._write_group()
        self._writer.add_key_value_metadata({_ABOUT: _encode_about(_About(header=self._header, footer=footer))})
        self._writer.close()

    def _write_group(self) -> None:
        if self._waiting:
            columns = [
                pa.array([_cell(event, name) for event in self._waiting], type=_SCHEMA.field(name).type)
                for name in _SCHEMA.names
            ]
            self._writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA), row_group_size=_GROUP_ROWS)
        self._waiting, self._size = [], 0


class ParquetReader:
    """Reads a Parquet file. A line of it is a row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._parquet: Any = None
        self._about: _About | None = None

    def begin(self) -> ExportHeader:
        """Read the table of contents.

        Raises:
            ForeignExportError: it is not that of an export.
            ExportTooNewError: it is that of a newer version.
        """
        if not self._file.seekable():
            raise ForeignExportError(why="Parquet is read from its end, and a pipe only from its beginning")
        try:
            self._parquet = pq.ParquetFile(self._file)
            self._about = _decode_about(
                (self._parquet.schema_arrow.metadata or self._parquet.metadata.metadata)[_ABOUT]
            )
        except (pa.ArrowException, OSError, KeyError, TypeError, msgspec.MsgspecError) as exc:
            raise ForeignExportError(why="it is not a whole Parquet file with an export in it") from exc
        header = checked_header(self._about.header)
        if not self._parquet.schema_arrow.equals(_SCHEMA):
            raise ForeignExportError(why="its columns are not those of an export")
        return header

    def rows(self) -> Iterator[ImportedRow]:
        """Read an event from each row, and compare their number with what the file says.

        Raises:
            ExportDamagedError: a row is not what it should be, or some are missing.
        """
        assert self._about is not None
        order = PositionOrder()
        for cells in self._cells():
            *others, microseconds, payload = cells
            event = _event(order.count + 1, others, microseconds, payload)
            order.check(order.count + 1, event.position)
            yield ImportedRow(order.count, event.position, row_of(order.count, event, payload.encode()))
        check_count(order.count, self._about.footer, order.count)

    def _cells(self) -> Iterator[tuple[Any, ...]]:
        row = 0
        try:
            for batch in self._parquet.iter_batches(batch_size=_READ_ROWS):
                columns = [column.cast(pa.int64()) if column.type == _TIME else column for column in batch.columns]
                for cells in zip(*(column.to_pylist() for column in columns), strict=True):
                    row += 1
                    yield cells
        except (pa.ArrowException, OSError) as exc:
            raise ExportDamagedError(line=row + 1, why=f"the file cannot be read any further: {exc}") from exc


def _cell(event: ExportedEvent, name: str) -> Any:
    value = getattr(event, name)
    if name == "occurred_at":
        return (time_of(value) - _EPOCH) // _MICROSECOND
    return bytes(value).decode() if name == "payload" else value


def _event(line: int, others: Sequence[Any], microseconds: int, payload: str) -> ExportedEvent:
    try:
        when = time_text(_EPOCH + microseconds * _MICROSECOND)
    except (OverflowError, TypeError) as exc:
        raise ExportDamagedError(line=line, why="its time is not one of the years 1 to 9999") from exc
    position, event_id, event_type, run_id, thread_id, sequence = others
    as_stored = msgspec.Raw(payload.encode())
    return ExportedEvent(position, event_id, event_type, run_id, thread_id, sequence, when, as_stored)
