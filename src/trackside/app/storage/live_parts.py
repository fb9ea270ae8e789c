"""What runs have said lately, for other processes: kept in an unlogged table, and told on the bus.

A message is kept and told in one statement. The notice contains a small message itself; of a larger one, the number by
which it is read. A server that crashes comes back with an empty table: what runs say is for those there to hear it.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64Error
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trackside.app.storage._databases.readers import Readers

if TYPE_CHECKING:
    from trackside.app.storage._databases.postgres.bus import PostgresBus

INLINE_BYTES: Final = 5_500
"""A message up to this size is in the notice: its base64 and what comes before it are under 7,500 bytes."""

_CHANNEL: Final = "live_"
_PAGE_ROWS: Final = 200
_PAGE_BYTES: Final = 4 * 1_048_576
_REMOVED_AT_ONCE: Final = 2_000

_KEEP: Final = """
    WITH said AS MATERIALIZED (
        SELECT nextval((SELECT pg_get_serial_sequence('live_parts', 'id')::regclass)) AS id, topic, grp, channel, message
        FROM (
            SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[])
            WITH ORDINALITY AS waiting (topic, grp, channel, message, place) ORDER BY place
        ) AS placed
    ), kept AS (
        INSERT INTO live_parts (id, topic, grp, message) OVERRIDING SYSTEM VALUE SELECT id, topic, grp, message FROM said
    )
    SELECT count(pg_notify(channel, topic || ' ' || id || CASE WHEN octet_length(message) <= $5
        THEN ' ' || translate(encode(message, 'base64'), E'\\n', '') ELSE '' END)) FROM said"""

_PAGE: Final = """
    SELECT id, topic, message FROM (
        SELECT id, topic, message, sum(octet_length(message)) OVER (ORDER BY id) - octet_length(message) AS before
        FROM live_parts WHERE {column} = $1 AND id > $2 ORDER BY id LIMIT $3
    ) AS page WHERE before < $4 ORDER BY id"""

_SOME: Final = "SELECT id, topic, message FROM live_parts WHERE id = ANY($1::bigint[]) ORDER BY id"

_REMOVE_OLD: Final = """
    DELETE FROM live_parts WHERE id IN (
        SELECT id FROM live_parts WHERE at < clock_timestamp() - make_interval(secs => $1) ORDER BY at LIMIT $2
    ) RETURNING 1"""

_LOUD: Final = "SELECT topic FROM live_parts GROUP BY topic HAVING count(*) > $1"

_REMOVE_SURPLUS: Final = """
    DELETE FROM live_parts WHERE id IN (
        SELECT id FROM live_parts WHERE topic = $1 AND id <= (
            SELECT id FROM live_parts WHERE topic = $1 ORDER BY id DESC OFFSET $2 LIMIT 1
        ) ORDER BY id LIMIT $3
    ) RETURNING 1"""


class LiveMessage(NamedTuple):
    """A message of a run, on its way to those who hear its thread."""

    thread: str
    run: str
    message: bytes


class ToldMessage(NamedTuple):
    """What a notice says: a message of a run, or only its number in the table."""

    number: int
    run: str
    message: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRetention:
    """How much is kept for those who come late."""

    seconds: float = 180.0
    rows_of_run: int = 4_096


def token_of(name: str) -> str:
    """What a thread or run is called here, whatever is in its name."""
    return sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]


class LiveParts:
    """Keeps what runs say for a short while, and tells it. Threads and runs are named by `token_of` their ids."""

    def __init__(self, bus: PostgresBus, readers: Readers) -> None:
        self._bus = bus
        self._readers = readers

    async def keep(self, messages: Sequence[LiveMessage]) -> None:
        """Keep messages, and tell those who listen to their threads.

        Raises:
            ConnectionLostError: there is no connection; whether they were kept is not known.
            StorageError: the database refused them.
        """
        threads, runs, bodies = zip(*messages, strict=True)
        channels = [self._bus.name_of(_CHANNEL + thread) for thread in threads]
        await self._bus.fetch(_KEEP, [*runs], [*threads], channels, [*bodies], INLINE_BYTES)

    def listen(self, thread: str, hear: Callable[[str], object], *, on_gap: Callable[[], object]) -> None:
        """Hear the notices of a thread, to be read by `told`; see `PostgresBus.listen`."""
        self._bus.listen(_CHANNEL + thread, hear, on_gap=on_gap)

    def unlisten(self, thread: str, hear: Callable[[str], object]) -> None:
        """Hear no more of a thread."""
        self._bus.unlisten(_CHANNEL + thread, hear)

    async def page(self, *, thread: str, run: str | None, after: int) -> list[ToldMessage]:
        """The first messages after a number that are kept of a thread, or of one run; empty if there are none.

        Raises:
            StorageError: the database cannot be read.
        """
        name, column = (thread, "grp") if run is None else (run, "topic")
        statement = _PAGE.format(column=column)
        return await self._read(statement, name, after, _PAGE_ROWS, _PAGE_BYTES)

    async def some(self, numbers: Sequence[int]) -> list[ToldMessage]:
        """Those of these messages that are still kept.

        Raises:
            StorageError: the database cannot be read.
        """
        return await self._read(_SOME, [*numbers])

    async def _read(self, statement: str, *values: Any) -> list[ToldMessage]:
        rows = await self._readers.rows({"postgresql": statement}, *values)
        return [ToldMessage(*row) for row in rows]

    async def remove_old(self, retention: LiveRetention) -> int:
        """Remove the messages that are older or more than should be kept; returns how many.

        Raises:
            StorageError: the database failed; what was removed stays removed.
        """
        removed = 0
        while found := len(await self._bus.fetch(_REMOVE_OLD, retention.seconds, _REMOVED_AT_ONCE)):
            removed += found
        for (run,) in await self._bus.fetch(_LOUD, retention.rows_of_run):
            values = (run, retention.rows_of_run, _REMOVED_AT_ONCE)
            while found := len(await self._bus.fetch(_REMOVE_SURPLUS, *values)):
                removed += found
        return removed


def told(payload: str) -> ToldMessage | None:
    """What a notice says; None if it is not one of ours, as anybody may send one."""
    run, _, rest = payload.partition(" ")
    number, is_inline, encoded = rest.partition(" ")
    try:
        return ToldMessage(int(number), run, b64decode(encoded, validate=True) if is_inline else None)
    except (ValueError, NotBase64Error):
        return None
