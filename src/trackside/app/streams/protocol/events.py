"""The events of a thread, numbered over all its runs, made from its feed when somebody wants them.

No task does that: the first reader makes new events, and the others find them. The numbers come from the times of what
events are made from, as those of the feed's items do: so they grow in every process, and a reader can go on in another
process. A reader that comes with an unknown number is told so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from trackside.app.streams._ring import Ring
from trackside.app.streams.frames import now_ms
from trackside.app.streams.live_messages import names_questions
from trackside.app.streams.protocol._event import Event
from trackside.app.streams.protocol._inside import Namespace
from trackside.app.streams.protocol._runs import MARKS, RunAsEvents, parts_of_state
from trackside.app.streams.protocol.wanted import GAP, Wanted, only_lifecycle
from trackside.app.streams.thread_feed import PER_MS, FeedItem, Start, ThreadFeed, number_after, place_among
from trackside.harness.payload import json_bytes

_UNKNOWN: Final = frozenset({"tools", MARKS})
"""What a run is taken to say if that is not known: then its messages make no events that it says itself."""

_COMES_SOON: Final = 10.0
"""Seconds after a run's end within which a client that asked for it by a command comes to watch it, at the latest."""

_KNOWN_ENDS: Final = 32
"""How many runs are remembered whose ends were told."""


class ThreadEventLog(Ring[Event]):
    """The events of one thread, as far as they are kept."""

    __slots__ = (
        "_aliases",
        "_answer",
        "_asked",
        "_began_at",
        "_feed",
        "_hidden",
        "_knows_all",
        "_over",
        "_runs",
        "_seen",
        "_started",
        "_unbegun",
        "highest",
        "in_doubt",
        "last",
        "looking",
        "moved",
        "open_questions",
        "past",
    )

    def __init__(self, feed: ThreadFeed) -> None:
        limits = feed.limits
        super().__init__(limits.items, limits.item_bytes, limits.behind)
        self.last: RunAsEvents | None = None
        """The run that began last."""
        self.open_questions: list[str] = []
        """Questions that nobody has answered yet, and that no run has ignored by beginning without an answer."""
        self._asked: dict[str, Event] = {}
        """The event that last asked each of them, or another question that may be open again."""
        self._answer: tuple[int, int, Sequence[str]] | None = None
        """The number of the event by which the last run answers, when that was, and to which questions."""
        self._hidden: set[str] = set()
        """The other questions: off every page until the run that took them off has come to something."""
        self._knows_all = True
        """Whether no other may be open: until a run comes to something, one asked before all that is kept may be."""
        self.in_doubt: str | None = None
        """A run that has failed, so that what it was to answer may still be open: the thread's state tells."""
        self.looking = asyncio.Lock()
        """Held by the reader that looks at that state, for all."""
        self.moved: list[str] = []
        """Runs that another process goes on with, and whose end nobody waits for yet."""
        self.past = range(0)
        """The numbers of what was recalled of a thread on which nothing goes on."""
        self._feed = feed
        self.highest = feed.floor
        """The number of the newest event that was made."""
        self._seen = feed.first_kept - 1
        self._runs: dict[str, RunAsEvents] = {}
        self._started: dict[str, int] = {}
        self._began_at = 0
        self._aliases: dict[str, str] = {}
        self._over: deque[str] = deque(maxlen=_KNOWN_ENDS)
        self._unbegun: tuple[RunAsEvents, int] | None = None
        """The run that ended last without having begun, and which event says so, counted from the first; None once a client
        that watches has heard it, or another run has begun."""

    @property
    def newest(self) -> int:
        """The number of the newest event, as readers know it; 0 if there was none yet, because all come behind 0."""
        self.catch_up()
        return self.highest if self.highest > self._feed.floor else 0

    def seconds_since(self) -> float:
        """How many seconds ago the newest event happened."""
        return now_ms() / 1000 - self.newest / PER_MS / 1000

    @property
    def watched(self) -> bool:
        """Whether a client that only watches has heard how the last run has ended."""
        return self.last is not None and self._feed.watched == self.last.run_id

    @property
    def knows_questions(self) -> bool:
        """Whether a question is known that is open, or that may be open again if the last run comes to nothing."""
        return bool(self._hidden or self.open_questions)

    @property
    def seen(self) -> int:
        """The number of the last item of the feed that events were made from."""
        return self._seen

    def catch_up(self) -> None:
        """Make the events of what has happened since this was last called.

        If none can be made of something, as an agent may say anything, there is a gap, and what is behind it goes on.
        """
        feed = self._feed
        if feed.added <= self._seen:
            return
        items = feed.after(self._seen)
        if self._seen + 1 < feed.first_kept:
            why = json_bytes({"why": "more was said than is kept, before anybody followed it"})
            self._say(GAP, why, at=items[0].time if items else now_ms(), unsure=True)
            self._knows_all = False
        self._seen = feed.added
        for item in items:
            try:
                self._take(item)
            except Exception as exc:  # noqa: BLE001  # whatever an agent has said, no reader loses what comes behind it
                self._leave_out(item, exc)
        for run in self._runs.values():
            run.let_go()

    def place_of(self, since: int | None, wanted: Wanted, holder: str | None = None) -> tuple[int, bool]:
        """Behind how many events a reader begins, and whether it has missed nothing.

        Without a number, it begins with the oldest active run, else with the last run: a client that asks for a run and
        then for its events gets them, however fast the run was. If that run is over, and a `holder` that has not begun
        has the thread, it begins with the holder: the client that asked for it would take the last run's end for its
        end. A client that only watches hears of a run that is over if the run asks something, or if the client may be
        waiting for it: else the client would take its end for that of the next run.
        """
        self.catch_up()
        if since is not None:
            return (0, True) if since == 0 else place_among(self, since, _number_of)
        if self._started:
            return min(self._started.values()) - 1, True
        if self._is_behind_the_last(holder):
            return self.added, True
        asks = bool(self.open_questions) and self.last is not None and self.last.event == "interrupted"
        if self.last is None or (only_lifecycle(wanted.channels) and not (asks or self._may_be_waited_for(self.last))):
            return self._behind_what_is_known(), True
        return self._began_at - 1, True

    def _may_be_waited_for(self, run: RunAsEvents) -> bool:
        """Whether a client that comes to watch may have asked for this run, which is over: by a command, just now."""
        is_watched = run is self.last and self.watched
        return run.by_command and not is_watched and self.seconds_since() < _COMES_SOON

    def _behind_what_is_known(self) -> int:
        """Behind how many events a client begins that knows how the last run has ended: it may wait for one that was
        cancelled before it began.
        """
        if self._unbegun is None:
            return self.added
        run, place = self._unbegun
        return place - 1 if self._may_be_waited_for(run) else self.added

    def note_watched(self, run_id: str) -> None:
        """A client that only watches has heard how a run has ended."""
        if self.last is not None and self.last.run_id == run_id:
            self._feed.note_watched(run_id)
        if self._unbegun is not None and self._unbegun[0].run_id == run_id:
            self._unbegun = None

    def of_questions(self, place: int) -> tuple[list[Event], dict[int, Event | None]]:
        """How open questions differ from the events, for a client that begins behind `place` events without a number.

        First the events that asked the questions of which the client would not hear, to be told first. Then, by number,
        what takes the place of an answer to any of them: it was in vain, and clients would not take up the question
        again; None: nothing does.
        """
        if not self.open_questions:
            return [], {}
        behind = self.after(place)
        first = behind[0].seq if behind else self.highest + 1
        asked = (self._asked.get(question) for question in self.open_questions)
        unheard = sorted((event for event in asked if event is not None and event.seq < first), key=_number_of)
        if self._answer is None:
            return unheard, {}
        seq, at, answered = self._answer
        left = [question for question in answered if question not in self.open_questions]
        instead = Event("input.answered", json_bytes({"interrupt_ids": left}), seq=seq, at=at) if left else None
        return unheard, {seq: instead}

    def _is_behind_the_last(self, holder: str | None) -> bool:
        """Whether the last run is over, and another one, which has neither begun nor ended, has the thread."""
        last = self.last
        if holder is None or last is None or last.event == "running":  # it goes on, as another run or elsewhere
            return False
        return holder != last.run_id and holder not in self._over

    def tree(self) -> dict[str, Any] | None:
        """The run that began last, with the agents inside it; None if none has begun here."""
        self.catch_up()
        run = self.last
        if run is None:
            return None
        root: dict[str, Any] = {"namespace": [], "status": run.event, "graph_name": run.agent}
        nodes: dict[Namespace, dict[str, Any]] = {(): root}
        for namespace, said in sorted(run.inside.status.items(), key=lambda one: len(one[0])):
            node = {"namespace": list(namespace), "status": said["event"], "graph_name": said["graph_name"]}
            nodes[namespace] = node
            nodes.get(namespace[:-1], root).setdefault("children", []).append(node)
        return root

    def recall(
        self,
        run_id: str,
        agent: str,
        says: Mapping[str, Any],
        values: Any,
        *,
        known_as: str | None = None,
        is_first: bool = False,
        is_past: bool = False,
    ) -> None:
        """Say, once, how a run that was executed elsewhere, or before anything is known here, has ended.

        Clients know it as `known_as`. If it `is_first`, it is told before anything else, so not if a run has begun
        meanwhile; if it `is_past`, nothing goes on there, and clients that only watch are not told.
        """
        self.catch_up()
        if run_id in self._runs or run_id in self._over:  # its end is told here
            return
        if is_first and self.last is not None:
            return
        before = self.highest
        run = RunAsEvents(run_id, self._say, agent=agent, known_as=known_as or self._aliases.pop(run_id, None))
        self._begun(run)
        at = now_ms()
        if isinstance(values, dict):
            self._say("values", json_bytes(values), at=at)
        self._ended(run, says, at)
        if is_past and run.event != "interrupted":
            self.past = range(before + 1, self.highest + 1)
        if run.event == "failed" and (questions := says.get("interrupts")) is not None:
            self.in_doubt, self._knows_all = None, False
            self.ask_again(run_id, questions)
        self._feed.wake()

    def ask_again(self, run_id: str, questions: Iterable[Mapping[str, Any]]) -> None:
        """Say which questions that a failed run was to answer are open, unless another run has begun: these again, and,
        if not all that were asked before the run may be known here, those, too.
        """
        self.catch_up()
        run = self.last
        if run is None or run.run_id != run_id or run_id in self._runs:
            return
        open_ids = {str(question.get("id")): question for question in questions}
        if not self._knows_all:
            self._hidden.update(open_ids.keys() - self.open_questions)
            self._knows_all = True
        asked = run.ask((open_ids[each] for each in open_ids if each in self._hidden), self.highest // PER_MS)
        self.open_questions = [each for each in open_ids if each in asked or each in self.open_questions]
        self._hidden.clear()
        self._feed.wake()

    def note_next(self, run_id: str, known_as: str) -> None:
        """Note what clients know a coming run as: the run that it goes on for, or itself."""
        self._aliases[run_id] = known_as

    def gap_after(self, place: int, since: int) -> Event:
        """What tells a reader that it has missed what came before the event that it gets next."""
        at = place + 1 - self.first_kept
        seq = _number_of(self.after(place)[0]) - 1 if 0 <= at < len(self.items) else max(self.highest, since)
        why = json_bytes({"through_seq": seq, "why": "what came before is not kept here any more"})
        return Event(GAP, why, seq=seq, at=now_ms(), event_id=f"gap:{seq}")

    def _take(self, item: FeedItem) -> None:
        run = self._runs.get(item.run_id)
        if item.kind == "part":
            (run or self._found_late(item)).take(item.what)
        elif item.kind == "started":
            start: Start = item.what
            answered = None if start.answers is None else self._answered(start.answers)
            known_as = self._name_of(item.run_id, start.retry_of)
            more: Any = {"modes": start.modes, "known_as": known_as, "by_command": start.by_command}
            run = RunAsEvents(item.run_id, self._say, agent=start.agent, **more)
            self._begun(run, answered)
            run.begin(item.at, answered or [])
            self._answer = (self.highest, item.at, answered) if answered else None
        elif item.kind == "missed":
            why = item.what.why or "what was said there has not come here"
            self._say(GAP, json_bytes({"run_id": item.run_id, "why": why}), at=item.at, unsure=True)
        elif item.kind == "ended" and item.what is not None:
            self._ended(run or self._not_begun(item.run_id, by_command=item.by_command), item.what, item.at)
            if run is None:
                self._ask_what_is_open(item.at)
        elif item.kind == "ended":
            self._leave(item.run_id)
            self.moved.append(item.run_id)
        elif item.kind == "state":
            self._take_state(item)

    def _name_of(self, run_id: str, retry_of: str | None) -> str | None:
        """The run that clients know a starting run as; None: as itself.

        That is known once the run that this one goes on for has ended; its end may be told later, or to another
        process. If that run ended and did not go on, this one is an attempt that somebody has asked for.
        """
        known_as = self._aliases.pop(run_id, None)
        if known_as is not None or retry_of is None:
            return known_as
        goes_on_for = self._runs.get(retry_of)
        if goes_on_for is not None:
            return goes_on_for.known_as
        return self._aliases.get(retry_of, retry_of) if self.last is None else None

    def _not_begun(self, run_id: str, *, by_command: bool) -> RunAsEvents:
        """A run that ends without having begun. If it was to go on for the last run, that one has ended with it."""
        known_as, last = self._aliases.pop(run_id, None), self.last
        if known_as is None or last is None or last.known_as != known_as:
            run = RunAsEvents(run_id, self._say, known_as=known_as, by_command=by_command)
            self._unbegun = run, self.added + 1
            return run
        self.last = RunAsEvents(run_id, self._say, agent=last.agent, known_as=known_as, by_command=last.by_command)
        return self.last

    def _leave_out(self, item: FeedItem, exc: Exception) -> None:
        """Say that something of which no event could be made is missing here."""
        (self._runs.get(item.run_id) or RunAsEvents(item.run_id, self._say)).complain(exc)
        why = json_bytes({"run_id": item.run_id, "why": "what was said there has a form that is not known here"})
        self._say(GAP, why, at=item.time, unsure=True)

    def _found_late(self, item: FeedItem) -> RunAsEvents:
        """A run that says something, and whose start is no longer kept."""
        known_as = self._aliases.pop(item.run_id, None)
        run = RunAsEvents(item.run_id, self._say, modes=_UNKNOWN, known_as=known_as)
        self._begun(run)
        run.begin(item.what.at, [])
        return run

    def _take_state(self, item: FeedItem) -> None:
        """Somebody has changed the thread, on behalf of no run."""
        said = parts_of_state(item.what)
        if said is not None:
            mark, values = said
            if mark is not None:
                self._say("checkpoints", json_bytes(mark), at=item.at)
            self._say("values", values, at=item.at)

    def _begun(self, run: RunAsEvents, answered: Collection[str] | None = None) -> None:
        """A run has begun that brings these answers, or (None) ignores what is asked."""
        self._knows_all = self._knows_all and self.last is not None
        self.last, self.in_doubt, self._answer, self._unbegun = run, None, None, None
        self._hidden.update(self.open_questions if answered is None else answered)
        self.open_questions = [question for question in self.open_questions if question not in self._hidden]
        self._runs[run.run_id] = run
        self._started[run.run_id] = self._began_at = self.added + 1

    def _ended(self, run: RunAsEvents, says: Mapping[str, Any], at: int) -> None:
        asked = run.end(says, at)
        if self.last is not None:  # else no client that comes hears of it
            self._over.append(run.run_id)
        if run is self.last and run.event == "failed":
            is_sure = self._knows_all and not self.knows_questions
            self.in_doubt = None if is_sure else run.run_id
        elif run is self.last and run.event != "running":
            self.open_questions = asked
            self._asked = {question: event for question, event in self._asked.items() if question in asked}
            self._hidden.clear()
            self._knows_all = True
        if (again := says.get("retried_as")) is not None and again not in self._runs:
            self.note_next(str(again), run.known_as)
        self._leave(run.run_id)

    def _ask_what_is_open(self, at: int) -> None:
        """Ask again what is open: with the end of a run that never began, and that may have been the answer, clients take
        all questions off their pages.
        """
        for question in self.open_questions:
            if (asked := self._asked.get(question)) is not None:
                self._say("input.requested", asked.data, at=at, namespace=asked.namespace, asks=question)

    def _leave(self, run_id: str) -> None:
        self._runs.pop(run_id, None)
        self._started.pop(run_id, None)

    def _answered(self, answers: Collection[str]) -> list[str]:
        """The open questions that a run brings answers to, by what it says of them."""
        asked = self.open_questions
        named = [question for question in asked if question in answers]
        is_for_any = not named and len(asked) == 1 and not names_questions(answers)
        return asked if is_for_any else named

    def _say(
        self,
        method: str,
        data: bytes,
        *,
        at: int,
        namespace: Namespace = (),
        node: str | None = None,
        name: str | None = None,
        about: str | None = None,
        ends: str | None = None,
        asks: str | None = None,
        unsure: bool = False,
    ) -> None:
        seq = self.highest = number_after(self.highest, at, unsure=unsure)
        # By an id of this form, clients know which run an event that names none is about.
        event_id = None if about is None else f"synth:{about}:{seq}"
        event = Event(
            method, data, seq=seq, at=at, namespace=namespace, node=node, name=name, event_id=event_id, ends=ends
        )
        self.add(event)
        if asks is not None:
            self._asked[asks] = event


def log_of(feed: ThreadFeed) -> ThreadEventLog:
    """The events of a feed, made from now on if nobody has asked for them before."""
    if feed.derived is None:
        feed.derived = ThreadEventLog(feed)
    log: ThreadEventLog = feed.derived
    return log


def _number_of(event: Event) -> int:
    return event.seq
