"""One file of a spool: appended to, locked, read back. Everything here blocks, and is used by one thread at a time.

A process has one file and keeps it locked (`flock`) while it lives, whatever ends it. So a file that can be locked is
one whose process has gone.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from trackside.app.spool._records import DamagedLineError, Done, Waiting, decode, encode, id_of_damaged
from trackside.harness.ids import new_id

_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_PREFIX, _SUFFIX = "waiting-", ".jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where in a file something is to be done: a record that waits, or a line that is not a record."""

    id: str
    offset: int
    length: int


class SpoolFile:
    """An open file, locked until it is closed."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Create a new file in this folder, and the folder if need be; the file is empty, but survives a power cut."""
        while True:
            try:
                folder.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            except FileExistsError:
                if os.path.lexists(folder) and not folder.is_dir():
                    raise
                continue  # another process has removed it between two looks at what is there
            path = folder / f"{_PREFIX}{new_id()}{_SUFFIX}"
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, _FILE_MODE)
            except FileNotFoundError:  # another process has just removed the folder, which was empty
                continue
            if _lock(descriptor):
                file = cls(path, descriptor)
                try:
                    sync_folder(folder)
                    sync_folder(folder.parent)
                except OSError:
                    file.remove_if_empty()
                    raise
                return file
            os.close(descriptor)  # another process took the file for one that was left behind, before it was locked

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """Open a file that its process left behind; None if it did not, or if there is no such file any more."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            file = cls(path, descriptor) if _lock(descriptor) else None
        except OSError:
            os.close(descriptor)
            raise
        if file is None:
            os.close(descriptor)
        return file

    @property
    def is_gone(self) -> bool:
        """Whether somebody has removed the file meanwhile."""
        return os.fstat(self._descriptor).st_nlink == 0

    def append(self, line: bytes) -> None:
        """Add a line; when this returns, it is on disk."""
        append_line(self._descriptor, line)

    def remove_if_empty(self) -> bool:
        """Remove and close the file if nothing could be written to it; returns whether it did."""
        if os.fstat(self._descriptor).st_size:
            return False
        self.path.unlink(missing_ok=True)
        self.close()
        return True

    def entries(self) -> list[Entry]:
        """What is still to be done, in order."""
        return entries_in(self.path)

    def read(self, entry: Entry) -> Waiting:
        """The record at an entry.

        Raises:
            DamagedLineError: it is no longer what it was.
        """
        _, record = decode(self.read_line(entry))
        if not isinstance(record, Waiting):
            raise DamagedLineError("it is not a record that waits")
        return record

    def read_line(self, entry: Entry) -> bytes:
        """The line at an entry, as it is."""
        return os.pread(self._descriptor, entry.length, entry.offset)

    def settle(self, done: tuple[str, ...]) -> list[Entry]:
        """Remember what is done; returns what is left. With nothing left, the file is removed and closed."""
        finished = set(done)
        left = [entry for entry in self.entries() if entry.id not in finished]
        if not left:
            self.path.unlink()
            with contextlib.suppress(OSError):  # if it is there again after a power cut, the log has it already
                sync_folder(self.path.parent)
            self.close()
        elif done:
            self.append(encode(Done(ids=done))[1])
        return left

    def close(self) -> None:
        """Let go of the file, and of its lock; may be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def entries_in(path: Path) -> list[Entry]:
    """What is still to be done in a file, in order; takes no lock."""
    found: list[Entry] = []
    done: set[str] = set()
    offset = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                key, record = decode(line)
            except DamagedLineError:
                if line.strip():
                    found.append(Entry(id_of_damaged(line), offset, len(line)))
            else:
                if isinstance(record, Done):
                    done.update(record.ids)
                else:
                    found.append(Entry(key, offset, len(line)))
            offset += len(line)
    return [entry for entry in found if entry.id not in done]


def waiting_files(folder: Path) -> list[Path]:
    """All files with records that wait, the oldest first; none, if there is no folder.

    Raises:
        OSError: the folder cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())  # ids of files are in the order of time
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in paths if path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX)]


def bytes_in(folder: Path) -> int:
    """How many bytes all files of a spool take."""
    size = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                size += file.stat().st_size
    return size


def set_aside(path: Path, line: bytes) -> None:
    """Add a line to a file that several processes may add to."""
    import fcntl  # not at the top: Windows has none, and there, too, only what really has to be spooled fails

    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        append_line(descriptor, line)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def append_line(descriptor: int, line: bytes) -> None:
    """Append a line, wholly or not at all, and flush it to the disk."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":  # the writer before was killed in the middle of a line
        line = b"\n" + line
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):  # then it stays as a torn line, from which the next one is told apart
            os.ftruncate(descriptor, size)
        raise


def sync_folder(folder: Path) -> None:
    """Flush to the disk which files are in a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file; False if somebody else has it, or has removed it."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(descriptor).st_nlink > 0
