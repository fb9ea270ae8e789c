"""The commands `export` and `import`: which file to use, how to open it, and what to say at the end."""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, cast

from trackside.app.cli.arguments import ArgumentError, read_since
from trackside.app.cli.failures import ExitCode, ended
from trackside.app.cli.formatting import count
from trackside.app.cli.leftovers import reading_without_end
from trackside.app.cli.loops import run as run_loop
from trackside.app.cli.places import home_of
from trackside.app.cli.records.lookup import find_run, find_thread
from trackside.app.cli.records.stored import StoredRecords
from trackside.app.cli.stopping import interrupt_on_stop_signals
from trackside.app.cli.views.jsonlines import record_object
from trackside.app.cli.views.output import standard_error, standard_output
from trackside.app.cli.views.progress import Progress
from trackside.app.settings import Settings, load_settings
from trackside.app.wiring import open_store
from trackside.harness.errors import Fault, TracksideError
from trackside.harness.types import LifecycleEventType

if TYPE_CHECKING:
    from trackside.app.storage import ExportReport, ImportReport
    from trackside.app.storage.transfer import ExportFormat

_STANDARD = "-"
_FILE = "FILE"
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_OTHER_FORMATS = frozenset(
    {"arrow", "avro", "bz2", "csv", "db", "feather", "sql", "sqlite", "tsv", "xlsx", "xml", "xz", "yaml", "zip", "zst"}
)
"""Formats that a file name may promise but that no export has."""
_left_open: list[ExitStack] = []


class FileError(TracksideError, OSError, code="file-not-usable"):
    """{file} cannot be {what}: {why}."""

    fault: ClassVar[Fault] = "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What was typed after `export`."""

    file: str
    format: ExportFormat | None
    start: int
    to: int | None
    run: str | None
    thread: str | None
    agent: str | None
    types: Sequence[LifecycleEventType] | None
    since: str | None
    force: bool
    database: str | None


def export(options: ExportOptions) -> ExitCode:
    """Write events to a file, or to standard output."""
    interrupt_on_stop_signals()
    settings = load_settings({"database.url": options.database})
    _spare_database(options.file, settings)
    chosen = _format_of(options)
    with (
        _output(options.file, force=options.force) as file,
        Progress("Exporting", "event", total=1, broken_off=partial(_export_broken_off, options)) as progress,
    ):
        report = run_loop(_export, settings, options, file, chosen, progress)
    where = "standard output" if options.file == _STANDARD else options.file
    said = f"Exported {count(report.events, 'event')} of the log up to position {report.to:,} to {where}."
    standard_error().print(said, soft_wrap=True)
    return ExitCode.success


def _format_of(options: ExportOptions) -> ExportFormat:
    """The format that was typed, or else the one that the file's name implies.

    Raises:
        ArgumentError: its name implies a format that no export has.
    """
    named = Path(options.file.removesuffix(".gz")).suffix.removeprefix(".").lower()
    chosen = options.format or ("parquet" if named == "parquet" else "jsonl")
    if chosen == "parquet" and options.file.endswith(".gz"):
        raise ArgumentError(name=_FILE, why="Parquet is compressed already; leave .gz out of its name")
    if options.format is None and named in _OTHER_FORMATS:
        why = f"exports are not written as {named}; call it .jsonl or .parquet, or say which it is with --format"
        raise ArgumentError(name=_FILE, why=why)
    return chosen


def _export_broken_off(options: ExportOptions, events: int) -> str:
    if options.file == _STANDARD or Path(options.file).is_fifo():
        return f"{count(events, 'event')} written, which is not a complete export; the same command starts over."
    return f"{options.file} was not written, because it was not complete; the same command starts over."


def _import_broken_off(events: int) -> str:
    return f"{count(events, 'event')} of the file are in the database; the same command continues with the rest."


async def _export(
    settings: Settings, options: ExportOptions, file: BinaryIO, format: ExportFormat, progress: Progress
) -> ExportReport:
    def written(events: int, position: int, to: int) -> None:
        progress.reach(position - options.start + 1, counted=events, total=max(1, to - options.start + 1))

    since = None if options.since is None else read_since(options.since, now=datetime.now(UTC))
    thread = options.thread
    async with open_store(settings, read_only=True) as store:
        records = StoredRecords(store, home_of(settings))
        return await store.export_events(
            file,
            format=format,
            start=options.start,
            to=options.to,
            run_id=None if options.run is None else (await find_run(records, options.run)).run_id,
            thread_id=None if thread is None else (await find_thread(records, thread, whole=True)).thread_id,
            agent=options.agent,
            types=options.types,
            since=since,
            on_written=written,
        )


def _spare_database(name: str, settings: Settings) -> None:
    """Refuse an export that would replace the database it reads from.

    Raises:
        ArgumentError: it would.
    """
    if name == _STANDARD:
        return
    target = Path(name).resolve()
    if any(target == file or _are_one(target, file) for file in settings.sqlite_files):
        raise ArgumentError(name=_FILE, why=f"{name} belongs to the database that is exported; choose another name")


def _are_one(target: Path, file: Path) -> bool:
    try:
        return target.samefile(file)
    except OSError:  # one of them is missing or inaccessible; opening it reports that
        return False


@contextmanager
def _output(name: str, *, force: bool) -> Generator[BinaryIO]:
    """The output of an export; a file appears only when it is complete, and only this user can read it."""
    if name == _STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    try:
        with _device(path) if _is_device(path, force=force) else _new_file(path) as file:
            if not name.endswith(".gz"):
                yield file
                return
            # No name or time inside, so that the same events give the same bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                yield cast("BinaryIO", packed)
    except FileError:
        raise
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise ArgumentError(name=_FILE, why=f"{name} cannot be written: {exc.strerror}") from exc
    except OSError as exc:
        raise FileError(file=name, what="written", why=exc.strerror or str(exc)) from exc


def _is_device(path: Path, *, force: bool) -> bool:
    """Whether this is not a file but something to write to rather than replace, such as a pipe.

    Raises:
        ArgumentError: it is a file or folder that may not be replaced.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise ArgumentError(name=_FILE, why=f"{path} is a folder")
    if stat.S_ISREG(mode) and not force:
        raise ArgumentError(name=_FILE, why=f"{path} is there already; --force replaces it")
    return not stat.S_ISREG(mode)


@contextmanager
def _device(path: Path) -> Generator[BinaryIO]:
    with path.open("wb") as file:
        yield file


@contextmanager
def _new_file(path: Path) -> Generator[BinaryIO]:
    """A file that gets its name when it is complete and on disk; if writing fails, nothing is left of it."""
    target = path.resolve()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        made = Path(file.name)
        try:
            yield cast("BinaryIO", file)
            file.flush()
            os.fsync(file.fileno())
            made.replace(target)
        except BaseException:
            made.unlink(missing_ok=True)
            raise


def import_(name: str, database: str | None, *, json: bool) -> ExitCode:
    """Append the events of an export that are not in the database yet."""
    from trackside.app.storage.transfer import open_export

    interrupt_on_stop_signals()
    settings = load_settings({"database.url": database})
    with _input(name) as (file, found):
        export = open_export(file, format=found)  # before a database is created for it
        how_far = _HowFar.of(name, file, found)

        async def read() -> ImportReport:
            def imported(events: int) -> None:
                progress.reach(events if how_far is None else how_far.read, counted=events)

            async with open_store(settings) as store:
                return await store.import_events(export, on_imported=imported)

        total = None if how_far is None else how_far.size
        with (
            Progress("Importing", "event", total=total, broken_off=_import_broken_off) as progress,
            reading_without_end() as runner,
        ):
            report = runner.run(read())
    console = standard_output()
    if json:
        console.print_json_lines([record_object(report)])
    else:
        for line in _said(report):
            console.print(line, soft_wrap=True)
    return ended(console)


def _said(report: ImportReport) -> Iterator[str]:
    imported = f"Imported {count(report.imported, 'event')}"
    if report.imported:
        imported += " at the positions that they had" if report.kept_positions else " at new positions"
    known, were = count(report.known, "event"), "was" if report.known == 1 else "were"
    yield f"{imported}; {known} of the file {were} there already."
    if report.unfinished:
        them = "it" if report.unfinished == 1 else "them"
        yield f"{count(report.unfinished, 'run')} without an end in the file: nobody executes {them} here."


@dataclass(frozen=True, slots=True)
class _HowFar:
    """How many bytes a file has, and how many have been read so far, compressed or not."""

    descriptor: int
    size: int

    @classmethod
    def of(cls, name: str, file: BinaryIO, format: ExportFormat) -> _HowFar | None:
        """None for input that has no known end, or is not read in order."""
        if name == _STANDARD or format == "parquet":
            return None
        status = os.fstat(file.fileno())
        return cls(file.fileno(), status.st_size) if stat.S_ISREG(status.st_mode) else None

    @property
    def read(self) -> int:
        return os.lseek(self.descriptor, 0, os.SEEK_CUR)


@contextmanager
def _input(name: str) -> Generator[tuple[BinaryIO, ExportFormat]]:
    """The input of an import, and its format, which its first bytes show."""
    if name == _STANDARD:
        yield _recognized(cast("io.BufferedReader", sys.stdin.buffer))
        return
    with ExitStack() as opened:
        try:
            file = opened.enter_context(Path(name).open("rb"))
            found = _recognized(file)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as exc:
            raise ArgumentError(name=_FILE, why=f"{name} cannot be read: {exc.strerror}") from exc
        except OSError as exc:
            raise FileError(file=name, what="read", why=exc.strerror) from exc
        try:
            yield found
        except KeyboardInterrupt:
            if not stat.S_ISREG(Path(name).stat().st_mode):
                # A thread is still reading the pipe, and closing would wait for it; the process ends now.
                warnings.simplefilter("ignore", ResourceWarning)
                _left_open.append(opened.pop_all())
            raise


def _recognized(file: io.BufferedReader) -> tuple[BinaryIO, ExportFormat]:
    beginning = file.peek(len(_PARQUET))
    if beginning.startswith(_GZIP):
        return cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb")), "jsonl"
    return file, "parquet" if beginning.startswith(_PARQUET) else "jsonl"
