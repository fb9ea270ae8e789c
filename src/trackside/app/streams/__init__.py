"""The live output of this process's runs, encoded once, for any number of readers; bounded in count and bytes.

`hub` has what each run says, `thread_feed` what is said on a thread over all its runs. The room knows the harness and
nothing else: neither HTTP nor storage.
"""

from trackside.app.streams.frames import Frame, sse_of
from trackside.app.streams.hub import EndedStream, HubLimits, Reader, StreamHub
from trackside.app.streams.thread_feed import FeedItem, FeedLimits, FeedReader, ThreadFeed, ThreadFeeds

__all__ = [
    "EndedStream",
    "FeedItem",
    "FeedLimits",
    "FeedReader",
    "Frame",
    "HubLimits",
    "Reader",
    "StreamHub",
    "ThreadFeed",
    "ThreadFeeds",
    "sse_of",
]
