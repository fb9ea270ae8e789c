"""What a run announces: the payload of each of its events, redacted before anybody sees it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from trackside.harness.emitter import Draft
from trackside.harness.journal import Journal
from trackside.harness.lifecycle import terminal_event_of
from trackside.harness.ports import Claim
from trackside.harness.redaction import Redact, redacted
from trackside.harness.running.ending import End
from trackside.harness.running.logs import fields_of
from trackside.harness.types import JsonObject, LifecycleEventType, RunRecord, RunStatus, ThreadStatus

logger = logging.getLogger("trackside.worker")

_STOPPED = frozenset({RunStatus.cancelled, RunStatus.timeout})


class Announcements:
    """Drafts of one run's events. Their payloads are plain JSON by construction, and shared with nobody."""

    __slots__ = ("_journal", "_record", "_redact", "_said")

    def __init__(self, record: RunRecord, journal: Journal, redact: Redact | None) -> None:
        self._record = record
        self._journal = journal
        self._redact = redact
        self._said: set[str] = set()

    def opening(self, claim: Claim, *, asks: bool) -> tuple[list[Draft], ThreadStatus | None]:
        """The run has started, and its thread is busy; also returns the status that the thread had, if it was not busy.

        `asks` says that the thread remembers a question.
        """
        before = claim.thread_status
        if before is ThreadStatus.busy:
            return [self.start()], None
        if before is ThreadStatus.idle and asks:
            before = ThreadStatus.interrupted  # by an earlier process, which left its question but no coordinator
        return [self.start(), self.thread(before, ThreadStatus.busy)], before

    def start(self) -> Draft:
        """The run has started."""
        record = self._record
        says: JsonObject = {"agent": record.agent, "metadata": record.metadata}
        if record.parent_run_id is not None:
            says["parent_run_id"] = record.parent_run_id
        if record.trigger is not None:
            says["trigger"] = record.trigger
        if record.attempt > 1:
            says["attempt"] = record.attempt
        if record.retry_of is not None:
            says["retry_of"] = record.retry_of
        return self._draft(LifecycleEventType.RUN_STARTED, says)

    def humans(self, messages: Iterable[JsonObject]) -> list[Draft]:
        """A human said these; what has an id by which that was announced before is not new."""
        drafts = []
        for message in messages:
            if message["id"] not in self._said:
                self._said.add(message["id"])
                drafts.append(self._draft(LifecycleEventType.HUMAN_MESSAGE, {"message": message}))
        return drafts

    def thread(self, previous: ThreadStatus, status: ThreadStatus) -> Draft:
        """The thread's status changes."""
        says: JsonObject = {"status": str(status), "previous": str(previous)}
        if self._journal.title is not None:
            says["title"] = self._journal.title
        if self._journal.changed_title:
            says["sanitized"] = True
        return self._draft(LifecycleEventType.THREAD_STATUS_UPDATED, says)

    def end(self, end: End) -> Draft:
        """The run has ended. It names the agent again, for observers that see only ends, or in another process."""
        kind = terminal_event_of(end.status)
        says: JsonObject = {"agent": self._record.agent}
        if kind is not LifecycleEventType.RUN_CANCELLED:
            says["status"] = str(end.status)
        says.update(end.says)
        if kind is LifecycleEventType.RUN_COMPLETED or self._journal.title is not None:
            says["title"] = self._journal.title
        says["completion_data"] = self._totals("cancelled" if end.status in _STOPPED else "unfinished")
        if self._journal.changed_title or self._journal.changed_name:
            says["sanitized"] = True
        return self._draft(kind, says)

    def _totals(self, open_as: str) -> JsonObject:
        try:
            return self._journal.completion_data(self._journal.elapsed(), open_as=open_as)
        except Exception:  # the agent has spoilt a call of its own: the run has to end all the same (I9)
            text = "what run %s has used cannot be reported: its end says nothing of it"
            logger.exception(text, self._record.run_id, extra=fields_of(self._record))
            return Journal().completion_data(0.0)

    def _draft(self, kind: LifecycleEventType, says: JsonObject) -> Draft:
        return Draft(kind, says if self._redact is None else redacted(self._redact, kind, says), plain=True)
