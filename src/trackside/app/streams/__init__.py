"""The live output of this process's runs, encoded once, for any number of readers; bounded in count and bytes.

It knows the harness and nothing else: neither HTTP nor storage.
"""

from trackside.app.streams.hub import EndedStream, Frame, HubLimits, Reader, StreamHub

__all__ = ["EndedStream", "Frame", "HubLimits", "Reader", "StreamHub"]
