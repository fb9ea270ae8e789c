"""One part of a run's live output, encoded once for all who read it, and the time in the form that such parts have."""

from __future__ import annotations

from time import time

_OVERHEAD = 300  # bytes: what a frame takes besides its data, and its places in rings, about


class Frame:
    """One part, as it goes to every reader. `sequence` counts 1, 2, 3 … within its run.

    `mode` is the mode that was asked for. `event` is the part's name on the wire: with the `namespace` of who says it,
    except in mode `messages`, where it is a name that LangGraph's clients know. `data` is JSON, on one line. If the
    wire says something else than the run did, `said` is what the run said, in the first of the parts that are made of
    it, and empty in the others.
    """

    __slots__ = ("_resumable_sse", "_sse", "at", "data", "event", "mode", "namespace", "said", "sequence", "size")

    def __init__(
        self,
        sequence: int,
        mode: str,
        event: str,
        data: bytes,
        namespace: tuple[str, ...],
        at: int,
        said: bytes | None = None,
    ) -> None:
        self.sequence = sequence
        self.mode = mode
        self.event = event
        self.data = data
        self.namespace = namespace
        self.at = at
        """When it was said, in milliseconds since 1970."""
        self.said = data if said is None else said
        # The data twice: readers get it as a whole event, which is kept for the next reader.
        self.size = 2 * len(data) + (len(said) if said is not None else 0) + _OVERHEAD
        self._sse: bytes | None = None
        self._resumable_sse: bytes | None = None

    @property
    def id(self) -> str:
        """The id by which a reader of its run resumes after it."""
        return f"{self.at}-{self.sequence}"

    @property
    def sse(self) -> bytes:
        """The whole server-sent event, for readers that do not resume."""
        if self._sse is None:
            self._sse = sse_of(self.event, self.data)
        return self._sse

    @property
    def resumable_sse(self) -> bytes:
        """The same with the id."""
        if self._resumable_sse is None:
            self._resumable_sse = sse_of(self.event, self.data, self.id)
        return self._resumable_sse


def sse_of(event: str, data: bytes, id: str | None = None) -> bytes:
    """One server-sent event."""
    if id is None:
        return b"event: %b\r\ndata: %b\r\n\r\n" % (event.encode(), data)
    return b"event: %b\r\ndata: %b\r\nid: %b\r\n\r\n" % (event.encode(), data, id.encode())


def now_ms() -> int:
    """The time in milliseconds since 1970, as all live output has it."""
    return int(time() * 1000)
