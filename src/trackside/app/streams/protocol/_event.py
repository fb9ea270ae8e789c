"""One event, encoded once for everybody who wants it."""

from __future__ import annotations

import msgspec

_encode = msgspec.json.Encoder().encode
_OVERHEAD = 250  # bytes: what an event takes besides its texts, about
_CUSTOM = "custom:"
_CHANNELS = {"input.requested": "input", "input.answered": "input"}

TAIL = b"}}\r\n\r\n"
"""The end of an event, behind its data."""


class Event:
    """What happened, as it goes to every reader: `head`, `data` and `TAIL` are one server-sent event.

    `channel` is where it belongs; an event on a channel with a name of its own (`custom:progress`) is also on `custom`.
    """

    __slots__ = ("channel", "data", "ends", "head", "namespace", "seq", "size")

    def __init__(
        self,
        method: str,
        data: bytes,
        *,
        seq: int,
        at: int,
        namespace: tuple[str, ...] = (),
        node: str | None = None,
        name: str | None = None,
        event_id: str | None = None,
        ends: str | None = None,
    ) -> None:
        self.channel = _CUSTOM + name if name else _CHANNELS.get(method, method)
        self.namespace = namespace
        self.seq = seq
        self.data = data
        self.ends = ends
        """The run that this event ends."""
        event_id = event_id or str(seq)
        about = b'"namespace":%b,"timestamp":%d' % (_encode(namespace), at)
        if node is not None:
            about += b',"node":' + _encode(node)
        says = b'{"type":"event","event_id":"%b","seq":%d,"method":"%b","params":{%b,"data":'
        begins = says % (event_id.encode(), seq, method.encode(), about)
        self.head = b"id: %b\r\nevent: %b\r\ndata: %b" % (event_id.encode(), method.encode(), begins)
        self.size = len(self.head) + len(data) + _OVERHEAD
