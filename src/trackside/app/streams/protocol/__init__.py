"""What is said on a thread as version 2 of the protocol has it: events on channels, with one numbering over all its runs.

`events` keeps them, made of the thread's feed, and `reader` goes along them; `_runs` says what a run's parts are as events,
`_messages` how messages become events of their blocks, `_inside` what the agents inside a run do. It knows nothing of HTTP.
"""

from trackside.app.streams.protocol._runs import MARKS
from trackside.app.streams.protocol.events import ThreadEventLog, log_of
from trackside.app.streams.protocol.reader import EventReader, read_events
from trackside.app.streams.protocol.wanted import Wanted, only_lifecycle

__all__ = ["MARKS", "EventReader", "ThreadEventLog", "Wanted", "log_of", "only_lifecycle", "read_events"]
