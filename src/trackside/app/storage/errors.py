"""What can go wrong in a store. No exception of a database or a driver ever leaves this package.

`retryable` tells two kinds apart: a locked database or a full disk may be all right again in a moment; a foreign file,
a bad argument or an event that cannot follow will fail for ever.
"""

from __future__ import annotations

from typing import ClassVar

from trackside.harness.errors import Fault, TracksideError


class StorageError(TracksideError):
    """The store {database} failed: {why}."""

    fault: ClassVar[Fault] = "store"


class DatabaseUrlError(StorageError, ValueError):
    """{url!r} is not the address of a database that can be used: {why}. Write sqlite:///relative/path.db or sqlite:////absolute/path.db."""

    fault = "caller"


class StoreOptionError(StorageError, ValueError):
    """A store cannot be opened with {option}={value!r}: {why}."""

    fault = "caller"


class FolderMissingError(StorageError, LookupError):
    """There is no folder {folder} for the database {database}: make it, or give another path."""

    fault = "caller"


class DatabaseMissingError(StorageError, LookupError):
    """There is no database {database}: check the path, or record a run first."""

    fault = "caller"


class ReadOnlyDatabaseError(StorageError):
    """The database {database} cannot be written: {why}. Give this user the right to write there, or choose another path."""


class ReadOnlyStoreError(StorageError):
    """The store {database} was opened to look into it, and writes nothing: open it without `read_only` to write."""

    fault = "caller"


class UnreadableDatabaseError(StorageError):
    """The database {database} cannot be read: {why}. Get the right to read there, or look into a copy of it and all files named {name}-… in a folder of your own."""  # noqa: E501


class NotADatabaseError(StorageError):
    """{database} is not an SQLite database and stays as it is: {why}. Move it away, or choose another path."""


class ForeignDatabaseError(StorageError):
    """{database} is a database of another program and stays as it is: {why}. Choose another path."""


class NewerDatabaseError(StorageError):
    """{database} was written by a newer version of Trackside (schema {found}; this version knows up to {known}): upgrade Trackside."""  # noqa: E501


class OlderDatabaseError(StorageError):
    """{database} was written by an older version of Trackside (schema {found}; this version reads {known}), and looking changes nothing: `trackside run`, or whatever opens it to write, brings it up to date."""  # noqa: E501


class SqliteTooOldError(StorageError):
    """This Python comes with SQLite {found}; the store needs {needed} or newer. Use another Python, for example one that uv installs."""  # noqa: E501


class DatabaseBusyError(StorageError):
    """The database {database} stayed locked by another process for {seconds:g} s; nothing was written. Try again."""

    retryable = True


class DatabaseFullError(StorageError):
    """There is no room left for the database {database} ({why}); nothing was written. Make room and try again."""

    retryable = True


class DatabaseIOError(StorageError):
    """The database {database} could not be read or written: {why}. Check the disk, its quota and its mount, then try again."""  # noqa: E501

    retryable = True


class DamagedDatabaseError(StorageError):
    """The database {database} is damaged: {why}. Stop writing, keep a copy, and restore a backup or use `.recover` of the sqlite3 shell."""  # noqa: E501


class ForeignLoopError(StorageError, RuntimeError):
    """The store {database} was opened in another event loop or before a fork; open one here and use that."""

    fault = "caller"


class InvalidEventError(StorageError, ValueError):
    """An event with {field}={value!r:.100} cannot be stored: {why}."""

    fault = "caller"


class EventConflictError(StorageError, ValueError):
    """Event id {event_id!r} is taken by another event, {sequence} of run {run_id!r}: an id names one event for ever."""

    fault = "caller"


class StateTooLargeError(StorageError, ValueError):
    """Thread {thread_id!r} cannot remember {size} bytes: the limit is {limit}. Let the agent return less, or keep the rest elsewhere."""  # noqa: E501

    fault = "agent"


class InvalidQueryError(StorageError, ValueError):
    """Nothing can be looked up with {field}={value!r:.100}: {why}."""

    fault = "caller"
