"""The live output of runs that are executed, or asked for, here; encoded once, for any number of readers; bounded.

`hub` has what each run says, in its `channel`; `thread_feed` what is said on a thread over all its runs. `relay` tells
other processes of both, and `mirror` brings what they tell; a `wire` carries that, as `live_messages`. This package
knows only the harness: neither HTTP nor storage.
"""

from trackside.app.streams.channel import EndedStream, HubLimits, Reader
from trackside.app.streams.frames import Frame, sse_of
from trackside.app.streams.hub import StreamHub
from trackside.app.streams.mirror import Mirror, Mirrors
from trackside.app.streams.thread_feed import FeedItem, FeedLimits, FeedReader, ThreadFeed, ThreadFeeds

__all__ = [
    "EndedStream",
    "FeedItem",
    "FeedLimits",
    "FeedReader",
    "Frame",
    "HubLimits",
    "Mirror",
    "Mirrors",
    "Reader",
    "StreamHub",
    "ThreadFeed",
    "ThreadFeeds",
    "sse_of",
]
