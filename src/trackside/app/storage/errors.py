"""What can go wrong in a store. No exception of a database or a driver ever leaves this package.

`retryable` tells two kinds apart: a locked database or a full disk may be all right again in a moment; a foreign file,
a bad argument or an event that cannot follow will fail for ever.
"""

from __future__ import annotations

from typing import ClassVar

from trackside.app.command_lines import command_line
from trackside.harness.errors import EventOrderError, Fault, TracksideError


class StorageError(TracksideError):
    """The store {database} failed: {why}."""

    fault: ClassVar[Fault] = "store"


class DatabaseUrlError(StorageError, ValueError):
    """{url!r} is not the address of a database that can be used: {why}. Write sqlite:///relative/path.db, sqlite:////absolute/path.db or postgresql://user@host/database."""  # noqa: E501

    fault = "caller"


class StoreOptionError(StorageError, ValueError):
    """A store cannot work with {option}={value!r}: {why}."""

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
    """The store {database} was opened only to be read, and writes nothing: open it without `read_only` to write."""

    fault = "caller"


class UnreadableDatabaseError(StorageError):
    """The database {database} cannot be read: {why}. Get the right to read there, or look into a copy of it and all files named {name}-… in a folder of your own."""  # noqa: E501


class DriverMissingError(StorageError, ImportError):
    """Storing in PostgreSQL needs {package}, which is not installed: pip install 'trackside[postgres]'."""

    fault = "caller"


class ServerUnreachableError(StorageError):
    """The server of {database} cannot be reached: {why}. Check that it runs and takes connections from here, then try again."""  # noqa: E501

    retryable = True


class AccessRefusedError(StorageError):
    """The server does not let this user in to {database}: {why}. Check the user's name, the password and pg_hba.conf."""


class ConnectionSetupError(StorageError):
    """No connection to {database} can be tried: {why}. Check the options of its address, the PG… variables and the files that they name."""  # noqa: E501


class NoSuchDatabaseError(StorageError, LookupError):
    """The server has no database {name!r}: make it (`createdb {name}`), or check the address {database}."""

    fault = "caller"


class RightMissingError(StorageError):
    """The user of {database} may not do that: {why}. Let its owner GRANT the right, or connect as another user."""


class TooManyConnectionsError(StorageError):
    """The server of {database} takes no more connections: {why}. Close some, or raise its `max_connections`, and try again."""  # noqa: E501

    retryable = True


class ReadersBusyError(StorageError):
    """All {count} connections that read from {database} stayed busy for {seconds:g} s. Ask for less at once, and try again."""  # noqa: E501

    retryable = True


class StatementStoppedError(StorageError):
    """The server of {database} stopped a statement: {why}; nothing was written. Try again, or raise its `statement_timeout`."""  # noqa: E501

    retryable = True


class ReadStoppedError(StatementStoppedError):
    """The server of {database} stopped a read: {why}. Ask for less at once, or raise its `statement_timeout`."""


class TransactionConflictError(StorageError):
    """Transactions on {database} conflicted: {why}; nothing was written. Try again."""

    retryable = True


class ReadConflictError(TransactionConflictError):
    """A read of {database} conflicted with a change: {why}. Try again."""


class ConnectionLostError(StorageError):
    """The connection to {database} was lost: {why}; nothing was written. Try again."""

    retryable = True


class ReadLostError(ConnectionLostError):
    """The connection to {database} was lost in a read: {why}. Check that its server runs, then try again."""


class OutcomeUnknownError(StorageError):
    """The connection to {database} was lost during a commit, so it is not known whether it was written: {why}. Do the same again: events that are there already are found by their ids."""  # noqa: E501

    retryable = True


class NotADatabaseError(StorageError):
    """{database} is not an SQLite database and stays as it is: {why}. Move it away, or choose another path."""


class ForeignDatabaseError(StorageError):
    """{database} is a database of another program and stays as it is: {why}. Choose another path."""


class NewerDatabaseError(StorageError):
    """{database} was written by a newer version of Trackside (schema {found}; this version knows up to {known}): upgrade Trackside."""  # noqa: E501


class NoFleetError(StorageError):
    """Only a worker of a fleet takes runs of {database}: make its coordinator with `fleet=FleetMember(…)`, and attach its manager."""  # noqa: E501


class SchemaMovedOnError(StorageError):
    """A newer version of Trackside has changed the tables of {database} (schema {found}; this process knows {known}): it takes no more runs, and should end and come back as that version."""  # noqa: E501


class OlderDatabaseError(StorageError):
    """{database} was written by an older version of Trackside (schema {found}; this version reads {known}), and reading changes nothing: `trackside db upgrade` brings it up to date, as does any process that opens it to write."""  # noqa: E501


class SqliteTooOldError(StorageError):
    """This Python comes with SQLite {found}; the store needs {needed} or newer. Use another Python, for example one that uv installs."""  # noqa: E501


class ServerTooOldError(StorageError):
    """The server of {database} is PostgreSQL {found}; the store needs {needed} or newer."""


class UnfitEncodingError(StorageError):
    """The database {database} is encoded as {found}, in which not every text can be kept. Make one with `createdb --encoding=UTF8 --locale=C --template=template0 NAME`, and name that."""  # noqa: E501


class NoBusError(StorageError):
    """Processes that share {database} cannot notify each other through it: keep the runs in PostgreSQL."""

    fault = "caller"


class NoSchemaError(StorageError, LookupError):
    """The search path of {database} names no schema that is there: make one (CREATE SCHEMA), or name another with ?search_path=NAME."""  # noqa: E501

    fault = "caller"


class DatabaseBusyError(StorageError):
    """The database {database} stayed locked by another process for {seconds:g} s; nothing was written. Try again."""

    retryable = True


class ReadBlockedError(DatabaseBusyError):
    """The database {database} could not be read for {seconds:g} s, as another process had locked it. Try again."""


class CompactBlockedError(DatabaseBusyError):
    """The database {database} was rewritten, but others still read it after {seconds:g} s: as long as they do, the disk does not get the space back. Try again without them."""  # noqa: E501


class DatabaseFullError(StorageError):
    """There is no room left for the database {database} ({why}); nothing was written. Make room and try again."""

    retryable = True


class DatabaseIOError(StorageError):
    """The database {database} could not be read or written: {why}. Check the disk, its quota and its mount, then try again."""  # noqa: E501

    retryable = True


class DatabaseNotOpenedError(StorageError):
    """The database {database} could not be opened now ({why}), though its files may be: this process or the machine may have no file descriptor left. Raise the limit (`ulimit -n`), or try again."""  # noqa: E501

    retryable = True


class DamagedDatabaseError(StorageError):
    """The database {database} is damaged: {why}. Stop writing, keep a copy, and restore a backup, or (SQLite) use `.recover` of the sqlite3 shell."""  # noqa: E501


class DatabaseGoneError(StorageError):
    """The file {database} was deleted, moved or replaced while it was in use, and nothing is written to what is left of it. Put it back, or begin anew with what is there now."""  # noqa: E501


class ForeignLoopError(StorageError, RuntimeError):
    """The store {database} was opened in another event loop, or by the process that this one was forked from. Open one here and use that; if it is an SQLite file and was open at the fork, start this process by `spawn` or `forkserver` instead."""  # noqa: E501

    fault = "caller"


class ForkedDatabaseError(StorageError, RuntimeError):
    """The database {database} was open when this process was forked, and SQLite cannot use a file on both sides of a fork. Start this process by `spawn` or `forkserver`, or fork before a store is opened there."""  # noqa: E501

    fault = "caller"


class InvalidEventError(StorageError, ValueError):
    """An event with {field}={value!r:.100} cannot be stored: {why}."""

    fault = "caller"


class EventConflictError(StorageError, ValueError):
    """Event id {event_id!r} is taken by another event, {sequence} of run {run_id!r}: an id names one event for ever."""

    fault = "caller"


class RemovedThreadError(EventOrderError):
    """Run {run_id!r} cannot begin: thread {thread_id!r} was removed or has expired, and its id cannot be used again as long as the log has anything of it. Take another id, or have the log cleared of it: a server or a worker that is up does so within a minute, or `trackside prune --older-than 0d --thread ID --yes`."""  # noqa: E501


class StateTooLargeError(StorageError, ValueError):
    """Thread {thread_id!r} cannot remember {size} bytes: the limit is {limit}. Let the agent return less, or keep the rest elsewhere."""  # noqa: E501

    fault = "agent"


class CheckpointTooLargeError(StorageError, ValueError):
    """Thread {thread_id!r} cannot take {size} bytes at one checkpoint: the limit is {limit}. Let the graph keep less in its state, or the rest elsewhere."""  # noqa: E501

    fault = "agent"


class CheckpointLoopError(StorageError, RuntimeError):
    """The checkpointer of a store would wait for its own event loop: there, use `await graph.ainvoke(…)` and `await checkpointer.aget_tuple(…)`; `invoke` and `get_tuple` are for other threads."""  # noqa: E501

    fault = "caller"


class PruneStrategyError(StorageError, ValueError):
    """Threads are not pruned with strategy {strategy!r}: choose "keep_latest" or "delete"."""

    fault = "caller"


class RunEndedError(StorageError):
    """Thread {thread_id!r} takes nothing more from run {run_id!r}, which has ended as {status}: its process was taken for dead. What the run has done does not count; ask for it again."""  # noqa: E501


class InvalidQueryError(StorageError, ValueError):
    """Nothing can be looked up with {field}={value!r:.100}: {why}."""

    fault = "caller"


class TooManyRunsError(StorageError, ValueError):
    """An owner's runs are added up one by one, and these are more than {most:,}: name a shorter time, or a thread."""

    fault = "caller"


class InvalidSubscriptionError(StorageError, ValueError):
    """A subscription cannot have {field}={value!r:.100}: {why}."""

    fault = "caller"


class UnknownSubscriptionError(StorageError, LookupError):
    """There is no subscription {name!r}; `trackside subscriptions` lists the existing ones."""

    fault = "caller"


class InvalidItemError(StorageError, ValueError):
    """An item cannot have {field}={value!r:.100}: {why}."""

    fault = "caller"


class InvalidApiKeyError(StorageError, ValueError):
    """An API key cannot have {field}={value!r:.100}: {why}."""

    fault = "caller"


class UnknownApiKeyError(StorageError, LookupError):
    """There is no API key {key_id!r:.100}; `trackside auth list` lists the existing ones."""

    fault = "caller"


class CronExistsError(StorageError, ValueError):
    """Cron id {cron_id!r} is taken: change that cron with `replace`, delete it first, or take another id."""

    fault = "caller"


class SubscriptionConflictError(StorageError, ValueError):
    """Subscription {name!r} exists already, with {field} {found} and not {wanted}: open it as it is, change it with `update`, or take another name."""  # noqa: E501

    fault = "caller"


class SubscriptionBusyError(StorageError):
    """Subscription {name!r} belongs to consumer {consumer!r}, whose lease lasts another {seconds:.1f} s: one consumer at a time."""  # noqa: E501

    fault = "caller"
    retryable = True
    seconds: float


class SubscriptionPausedError(StorageError):
    """Subscription {name!r} is paused: `resume` it first."""

    fault = "caller"
    retryable = True


class SubscriptionLostError(StorageError):
    """Consumer {consumer!r} no longer has subscription {name!r}: its lease ended and another took over, it was moved, changed or deleted, or the database lost events that it had read. Nothing was changed; acquire it again."""  # noqa: E501

    fault = "caller"


class NotParkedError(StorageError, LookupError):
    """Subscription {name!r} has no event parked at position {position}; `trackside parked {subscription}` lists those that it has."""  # noqa: E501

    fault = "caller"


def not_parked(name: str, position: int) -> NotParkedError:
    """The error for a subscription that has nothing parked at this position."""
    subscription = command_line("parked", name).removeprefix("trackside parked ")
    return NotParkedError(name=name, position=position, subscription=subscription)


class FollowerBusyError(StorageError, RuntimeError):
    """Another task already waits for the next event of this follower: give each task its own."""

    fault = "caller"


class ForeignExportError(StorageError, ValueError):
    """This is not an export of Trackside's: {why}. Nothing was imported."""

    fault = "caller"


class ExportTooNewError(StorageError, ValueError):
    """This export is of version {found}, and this Trackside reads {known}: upgrade Trackside. Nothing was imported."""

    fault = "caller"


class ExportDamagedError(StorageError, ValueError):
    """Line {line} of the export is wrong: {why}. What was imported before it stays; with a good file the import goes on from there."""  # noqa: E501

    fault = "caller"


class ImportConflictError(StorageError, ValueError):
    """Line {line} of the export does not fit what the store has: {why} What was imported before it stays."""

    fault = "caller"


class PartialExportError(ImportConflictError):
    """Line {line} of the export does not fit what the store has: {why} The export has only a part of some runs (it was made by {chosen}), and can be imported only where the events before are; export whole runs instead. What was imported before it stays."""  # noqa: E501


class ExportTornError(StorageError):
    """While {database} was exported, runs were removed from it, and the export has only a part of some of them: export it again."""  # noqa: E501

    retryable = True


class MissingParquetError(StorageError, ImportError):
    """Parquet needs pyarrow, which is not installed: pip install 'trackside[parquet]', or use JSON lines."""

    fault = "caller"


class CompactedByServerError(StorageError):
    """The server of {database} manages its space: autovacuum makes room for new rows, and `VACUUM FULL` in psql gives it back to the disk."""  # noqa: E501

    fault = "caller"
