"""What is said on a thread in version 2 of the protocol: events on channels, with one numbering over all its runs.

`events` keeps them, made from the thread's feed, and `reader` goes along them; `_runs` turns a run's parts into events,
`_messages` turns messages into events of their blocks, `_inside` says what the agents inside a run do. This package
knows nothing of HTTP.
"""

from trackside.app.streams.protocol._runs import MARKS
from trackside.app.streams.protocol.events import ThreadEventLog, log_of
from trackside.app.streams.protocol.reader import EventReader, read_events
from trackside.app.streams.protocol.wanted import Wanted, only_lifecycle

__all__ = ["MARKS", "EventReader", "ThreadEventLog", "Wanted", "log_of", "only_lifecycle", "read_events"]
