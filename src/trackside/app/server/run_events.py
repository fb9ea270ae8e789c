"""A run as server-sent events for one client: written as they come, one `send` for all that is there.

Nothing is kept for the client: what it has not taken is in the ring that all readers share, and if that overtakes the
client, the client is told so (`gap`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from trackside.app.server.outcomes import RunEnd, event_frame, gap_said
from trackside.app.server.outlet import CLOSES, HEARTBEAT, PORTION, Departure, Outlet, SlowReaderError
from trackside.app.server.responses import Receive, Scope, Send
from trackside.app.streams import Frame, Mirror, Reader
from trackside.app.streams.ends import ToldEnd

_SAID_ELSEWHERE: Final = "what the run said is not kept here, or did not arrive; the log says how it has ended"


@dataclass(slots=True, kw_only=True)
class RunEvents:
    """The answer that streams a run, from where its reader is.

    `first` is what it says before anything else. `ended` finds out how the run has ended where that is not known here,
    by waiting for the end if need be.
    """

    run_id: str
    reader: Reader
    ended: Callable[[], Coroutine[Any, Any, ToldEnd | None]]
    modes: Collection[str] | None = None
    """Which parts are wanted; None: all that the run was asked to say."""
    namespaces: Collection[str] | None = None
    """The agents inside whose parts are wanted; `""` is the one that runs. None: all."""
    resumable: bool = False
    """Whether parts have ids, also if the run does not say so."""
    first: Sequence[bytes] = ()
    heartbeat: float = 5.0
    patience: float = 30.0
    headers: Mapping[str, str] = field(default_factory=dict)
    on_disconnect: Callable[[], Awaitable[object]] | None = None
    """Called if the client goes before the run has ended."""
    mirror: Mirror | None = None
    """What brings what the run says, if another process executes it; closed with this."""
    _departure: Departure | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outlet = Outlet(scope, send, patience=self.patience, heartbeat=self.heartbeat)
        try:
            await outlet.begin(self.headers)
            if self.on_disconnect is not None:
                self._departure = Departure(receive, self.reader.rouse)
            with outlet.is_open(self.reader.nudge, lasts=lambda: self._watch(receive)):
                await self._write(outlet, receive)
        except SlowReaderError:
            await self._leave()
        finally:
            if self.mirror is not None:
                self.mirror.close()
            if self._departure is not None:
                await self._departure.aclose()

    async def _write(self, outlet: Outlet, receive: Receive) -> None:
        """Write all that comes, to the end, or until the client has gone."""
        reader = self.reader
        pending = [*self.first]
        while not self._is_gone:
            if (gap := reader.gap()) is not None:
                pending.append(event_frame("gap", gap_said(gap)))
            if frames := reader.take(PORTION):
                pending += self._wanted(frames)
                if not reader.has_more:
                    continue
            elif reader.is_over:
                await self._write_end(outlet, receive, pending)
                return
            if pending:
                await outlet.write(pending)
                pending = []
                continue
            if not await reader.wait() and not self._is_gone:
                pending.append(HEARTBEAT)
        await self._leave()

    def _watch(self, receive: Receive) -> None:
        """Watch from now on whether the client goes: most streams are over, and one who went before missed nothing."""
        self._departure = self._departure or Departure(receive, self.reader.rouse)

    async def _leave(self) -> None:
        if self.on_disconnect is not None:
            await self.on_disconnect()

    @property
    def _is_gone(self) -> bool:
        return self._departure is not None and self._departure.gone

    def _wanted(self, frames: Sequence[Frame]) -> list[bytes]:
        reader = self.reader
        modes = self.modes if self.modes is not None else reader.modes
        namespaces = self.namespaces
        wanted = [
            frame
            for frame in frames
            if (modes is None or frame.mode in modes)
            and (namespaces is None or "|".join(frame.namespace) in namespaces)
        ]
        if self.resumable or reader.resumable:
            return [frame.resumable_sse for frame in wanted]
        return [frame.sse for frame in wanted]

    async def _write_end(self, outlet: Outlet, receive: Receive, pending: list[bytes]) -> None:
        """Say how the run has ended; where that is not known here, wait until it is, or the client has gone. If this process
        ends first, the stream is cut off.
        """
        stands = self.reader.standing
        if stands.end is not None:
            end: RunEnd | None = RunEnd.said(stands.end)
        elif stands.closing:
            end = None
        else:
            if pending:
                await outlet.write(pending)
                pending = []
            departure = self._departure = self._departure or Departure(receive)
            told = await self._end_elsewhere(outlet, departure)
            if told is None and departure.gone:
                await self._leave()
                return
            end = None if told is None else RunEnd.said(told.says)
            if told is not None and told.started and (lack := self.reader.lack(_SAID_ELSEWHERE)) is not None:
                pending.append(event_frame("gap", gap_said(lack)))
        pending.append(CLOSES if end is None else end.frame(self.run_id))
        await outlet.write(pending, last=end is not None)

    async def _end_elsewhere(self, outlet: Outlet, departure: Departure) -> ToldEnd | None:
        finding: asyncio.Task[Any] = asyncio.create_task(self.ended(), name=f"trackside-end-{self.run_id}")
        try:
            while not departure.gone:
                either = (finding, departure.watching)
                await asyncio.wait(either, timeout=self.heartbeat, return_when=asyncio.FIRST_COMPLETED)
                if finding.done():
                    return finding.result()  # type: ignore[no-any-return]  # a task of the same
                if not departure.gone:
                    await outlet.write([HEARTBEAT])
            return None
        finally:
            finding.cancel()
            await asyncio.wait((finding,))
