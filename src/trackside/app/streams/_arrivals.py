"""Puts what messages say of runs' parts into the runs' channels: parts, gaps, and the pieces of large parts."""

from __future__ import annotations

from typing import Final, NamedTuple

from trackside.app.streams.channel import Channel
from trackside.app.streams.frames import Frame, now_ms
from trackside.app.streams.live_messages import (
    MOST_BYTES,
    MOST_PART_BYTES,
    Message,
    Piece,
    UnknownMessageError,
    whole_part,
)
from trackside.harness.ports import StreamGap

_MOST_PIECES: Final = MOST_PART_BYTES // MOST_BYTES + 2


class _Pieces(NamedTuple):
    """The pieces of a large part that have come."""

    sequence: int
    data: list[bytes]


class Arrivals:
    """What one mirror hears."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: dict[str, _Pieces] = {}

    def take(self, channel: Channel, message: Message) -> None:
        """Take all parts that are new; those that are missing before them are a gap."""
        if channel.own:  # the parts were said here
            return
        before = channel.added
        gaps = list(message.gaps)
        for part in message.parts:
            while gaps and gaps[0][0] < part[0]:
                self._miss(channel, StreamGap(*gaps.pop(0)), at=part[5])
            if part[0] > channel.added:
                channel.take(Frame(*part))
        at = now_ms() if message.end is None else message.end.at
        for gap in gaps:
            self._miss(channel, StreamGap(*gap), at=at)
        if message.piece is not None:
            self._take_piece(channel, message.piece)
        self._miss(channel, StreamGap(before, message.through), at=at)

    def forget(self, run_id: str) -> None:
        """Note that the run is over."""
        self._pieces.pop(run_id, None)

    def _take_piece(self, channel: Channel, piece: Piece) -> None:
        """Take a piece of a large part, if all before it have come; with the last piece, take the part."""
        run_id = channel.run_id
        if piece.sequence <= channel.added:
            return
        if piece.index == 0:
            self._pieces[run_id] = _Pieces(piece.sequence, [])
        coming = self._pieces.get(run_id)
        if coming is None or coming.sequence != piece.sequence or piece.index >= _MOST_PIECES:
            return
        if len(coming.data) == piece.index:
            coming.data.append(piece.data)
        if len(coming.data) < piece.count:
            return
        del self._pieces[run_id]
        try:
            frame = Frame(*whole_part(b"".join(coming.data)))
        except UnknownMessageError:
            return
        channel.take(frame)

    def _miss(self, channel: Channel, gap: StreamGap, *, at: int) -> None:
        if gap.last > channel.added:
            channel.miss(gap.last, at=at, why=gap.why)
