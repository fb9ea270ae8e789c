"""The file format of exports: JSON lines.

    {"format":"trackside.events","version":1,"to":4711,"chosen":{}}
    {"position":1,"event_id":"…","event_type":"run_started","run_id":"…","thread_id":"…","sequence":1,"occurred_at":"…","payload":{…}}
    …
    {"events":4711}

The first line says what follows: the end of the log when it was exported, and which of its events were chosen, if not
all were. Then comes one event a line, in order of position. The last line counts them, so that a file that ends too
early can be told from a whole one. Times are UTC with microseconds; payloads are the bytes that are stored. A version
changes when an older Trackside would misunderstand the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final, Protocol

import msgspec

from trackside.app.storage._rows.encoding import EventRow, encode_events, time_of
from trackside.app.storage.errors import (
    ExportDamagedError,
    ExportTooNewError,
    ForeignExportError,
    InvalidEventError,
)
from trackside.harness.errors import PayloadError
from trackside.harness.observer import RunLifecycleEvent

FORMAT: Final = "trackside.events"
VERSION: Final = 1
MAX_POSITION: Final = 2**62
"""A log can have as many positions again behind this one: it goes on from there."""
MAX_LINE: Final = 64 * 1_048_576
"""Bytes of one line: more than the largest event that a store takes."""


class ExportHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What an export says of itself."""

    format: str = FORMAT
    version: int = VERSION
    to: int
    chosen: dict[str, Any]


class ExportFooter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many events an export has."""

    events: int


class ExportedEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event as it stands in an export."""

    position: int
    event_id: str
    event_type: str
    run_id: str
    thread_id: str
    sequence: int
    occurred_at: str
    payload: msgspec.Raw


class ImportedRow(msgspec.Struct, frozen=True):
    """An event of an export, where it was in its log, and the line (or row) on which it stands."""

    line: int
    position: int
    row: EventRow


class ExportWriter(Protocol):
    """Writes an export, of whatever format."""

    def begin(self, header: ExportHeader) -> None:
        """Say what follows."""
        ...

    def write(self, events: Sequence[ExportedEvent]) -> None:
        """Write events, in order of position."""
        ...

    def finish(self, footer: ExportFooter) -> None:
        """Say that this was all."""
        ...


class ExportReader(Protocol):
    """Reads an export, of whatever format. All methods raise what is wrong with the file, and name the line."""

    def begin(self) -> ExportHeader:
        """What the export says of itself."""
        ...

    def rows(self) -> Iterator[ImportedRow]:
        """Its events, to the end; by then the export must be whole."""
        ...


_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # the last for what is nested too deep
_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(ExportHeader).decode
_decode_event = msgspec.json.Decoder(ExportedEvent).decode
_decode_footer = msgspec.json.Decoder(ExportFooter).decode
_decode_payload = msgspec.json.Decoder().decode


class JsonLinesWriter:
    """Writes JSON lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def begin(self, header: ExportHeader) -> None:
        """Write the first line."""
        self._file.write(_encode(header) + b"\n")

    def write(self, events: Sequence[ExportedEvent]) -> None:
        """Write a line for each event."""
        self._file.write(b"".join([_encode(event) + b"\n" for event in events]))

    def finish(self, footer: ExportFooter) -> None:
        """Write the last line."""
        self._file.write(_encode(footer) + b"\n")


class JsonLinesReader:
    """Reads JSON lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._line = 0

    def begin(self) -> ExportHeader:
        """Read the first line.

        Raises:
            ForeignExportError: it is not that of an export.
            ExportTooNewError: it is that of a newer version.
            ExportDamagedError: the file cannot be read.
        """
        try:
            return checked_header(_decode_header(self._next() or b""))
        except _UNREADABLE as exc:
            raise ForeignExportError(why="its first line is not that of an export") from exc

    def rows(self) -> Iterator[ImportedRow]:
        """Read an event from each line, and compare their number with that in the last line.

        Raises:
            ExportDamagedError: a line is not what it should be, or the last one is missing.
        """
        order = PositionOrder()
        while line := self._next():
            if line.startswith(b'{"events":'):
                self._end(line, order.count)
                return
            try:
                event = _decode_event(line)
            except _UNREADABLE as exc:
                raise ExportDamagedError(line=self._line, why=f"it is not an event: {exc}") from exc
            order.check(self._line, event.position)
            yield ImportedRow(self._line, event.position, row_of(self._line, event, bytes(event.payload)))
        raise ExportDamagedError(line=self._line, why="the file ends here, and its last line is missing")

    def _end(self, line: bytes, count: int) -> None:
        try:
            footer = _decode_footer(line)
        except _UNREADABLE as exc:
            raise ExportDamagedError(line=self._line, why=f"it is not the last line of an export: {exc}") from exc
        check_count(self._line, footer, count)
        if self._next():
            raise ExportDamagedError(line=self._line, why="something follows the last line")

    def _next(self) -> bytes:
        try:
            line = self._file.readline(MAX_LINE)
        except (EOFError, zlib.error, OSError) as exc:  # BadGzipFile is an OSError
            raise ExportDamagedError(line=self._line + 1, why=f"the file cannot be read any further: {exc}") from exc
        if line:
            self._line += 1
            if not line.endswith(b"\n"):
                why = "it is longer than any event" if len(line) == MAX_LINE else "it ends in the middle"
                raise self._unfinished(why)
        return line

    def _unfinished(self, why: str) -> ExportDamagedError | ForeignExportError:
        if self._line == 1:
            return ForeignExportError(why="its first line is not that of an export")
        return ExportDamagedError(line=self._line, why=why)


class PositionOrder:
    """Checks that positions grow, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._last = 0

    def check(self, line: int, position: int) -> None:
        """Take the next position.

        Raises:
            ExportDamagedError: it does not come after the one before.
        """
        if not self._last < position <= MAX_POSITION:
            why = f"its position {position} does not come after {self._last}"
            raise ExportDamagedError(line=line, why=why)
        self._last = position
        self.count += 1


def checked_header(header: ExportHeader) -> ExportHeader:
    """The header, if this version can read what follows it.

    Raises:
        ForeignExportError: it is not that of an export.
        ExportTooNewError: it is that of a newer version.
    """
    if header.format != FORMAT or header.version < 1 or not 0 <= header.to <= MAX_POSITION:
        raise ForeignExportError(why="it says that it is something else")
    if header.version > VERSION:
        raise ExportTooNewError(found=header.version, known=VERSION)
    return header


def check_count(line: int, footer: ExportFooter, count: int) -> None:
    """Check that there were as many events as there should be.

    Raises:
        ExportDamagedError: there were not.
    """
    if footer.events != count:
        raise ExportDamagedError(line=line, why=f"the file should have {footer.events} events, and has {count}")


def row_of(line: int, event: ExportedEvent, payload: bytes) -> EventRow:
    """The event of a line as a store takes it, with all that `Store.append` checks.

    Raises:
        ExportDamagedError: a store does not take it.
    """
    try:
        made = _event(line, event, _decode_payload(payload))
        (row,) = encode_events([made])
    except _UNREADABLE as exc:
        raise ExportDamagedError(line=line, why=f"its payload is not JSON: {exc}") from exc
    except (InvalidEventError, PayloadError) as exc:
        raise ExportDamagedError(line=line, why=str(exc).rstrip(".")) from exc
    return row


def _event(line: int, event: ExportedEvent, payload: Mapping[str, Any]) -> RunLifecycleEvent:
    try:
        occurred_at = time_of(event.occurred_at)
    except ValueError as exc:
        why = f"its occurred_at {event.occurred_at!r:.100} is not a time"
        raise ExportDamagedError(line=line, why=why) from exc
    return RunLifecycleEvent(
        event.event_id,
        event.event_type,  # type: ignore[arg-type]  # checked by `encode_events`, which says what is wrong with it
        event.run_id,
        event.thread_id,
        event.sequence,
        occurred_at,
        payload,
    )
