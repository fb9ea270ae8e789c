"""What processes of a fleet tell each other on the bus. Anybody may send a notice, so what is not ours is ignored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from trackside.app.storage.fleet import ReadyRun
from trackside.app.storage.live_parts import token_of

WORKERS: Final = "workers"
"""The channel on which workers say whether they have room."""
MAX_HOPS: Final = 3
"""How often a notice is passed on."""
_MOST_BYTES: Final = 6_000  # of ids in one notice


class Told(msgspec.Struct, frozen=True, tag="told", omit_defaults=True):
    """To a worker: these runs are ready, or (without any) some are; and how many workers have had the notice before.

    `agent` and `version` are what the runs need, as far as whoever told of them knew.
    """

    pool: str
    runs: tuple[str, ...] = ()
    hops: int = 0
    agent: str = ""
    version: str | None = None

    def each(self) -> Iterator[ReadyRun]:
        """The runs."""
        return (ReadyRun(run_id, self.pool, self.agent, self.version) for run_id in self.runs)


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """To a worker: somebody wants this run of it to stop."""

    run: str


class Room(msgspec.Struct, frozen=True, tag="room", omit_defaults=True):
    """From a worker to all: how many places it has free. One that has gone is told of no more runs."""

    worker: str
    pools: tuple[str, ...]
    places: int
    gone: bool = False


type Notice = Told | Stop | Room

_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[Notice]] = msgspec.json.Decoder(Told | Stop | Room)


def channel_of(worker_id: str) -> str:
    """The channel on which a worker is told something."""
    return f"worker_{token_of(worker_id)}"


def payload_of(notice: Notice) -> str:
    """A notice as it is sent on the bus."""
    return _encoder.encode(notice).decode()


def notice_of(payload: str) -> Notice | None:
    """What a payload says; None if it is none of ours."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return None


def bunches(run_ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Runs in as many groups as it takes for each to fit into a notice; one whose id does not is for whoever looks."""
    bunch: list[str] = []
    size = 0
    for run_id in run_ids:
        try:
            own = len(_encoder.encode(run_id)) + 1
        except UnicodeEncodeError:
            continue
        if own > _MOST_BYTES:
            continue
        if size + own > _MOST_BYTES:
            yield tuple(bunch)
            bunch, size = [], 0
        bunch.append(run_id)
        size += own
    if bunch:
        yield tuple(bunch)
