"""The events of a thread, numbered over all its runs, made of its feed when somebody wants them.

No task does that: whoever reads makes what is new, and the others find it made. Numbers are made of the times of what events
are made of, as those of the feed's items are: so they grow, in whatever process, and a reader goes on in another one than
before. One who comes with a number that is not known is told so.
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
"""What a run is taken to say of which it is not known: then nothing is made of its messages that it says itself."""

_COMES_SOON: Final = 10.0
"""Seconds after the end of a run in which who has asked for it by a command comes to watch it, at the latest."""

_KNOWN_ENDS: Final = 32
"""Of how many runs it is known that their ends were told."""


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
        "highest",
        "in_doubt",
        "last",
        "looking",
        "moved",
        "open_questions",
        "past",
    )

    def __init__(self, feed: ThreadFeed, items: int, item_bytes: int) -> None:
        super().__init__(items, item_bytes)
        self.last: RunAsEvents | None = None
        """The run that has begun last."""
        self.open_questions: list[str] = []
        """Those that nobody has answered yet, and no run has begun without regard to them."""
        self._asked: dict[str, Event] = {}
        """By what each of them was asked last, and of others that may be open again."""
        self._answer: tuple[int, int, Sequence[str]] | None = None
        """The number of the event by which the last run answers, when that was, and to which questions."""
        self._hidden: set[str] = set()
        """The others, until the run that they are off every page for has come to something."""
        self._knows_all = True
        """Whether no other may be open: until a run has come to something, what was asked before all that is kept may be."""
        self.in_doubt: str | None = None
        """A run that has failed, so that what it was to answer may be open still: the thread's state says so."""
        self.looking = asyncio.Lock()
        """Held by who looks at that, for all."""
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

    @property
    def newest(self) -> int:
        """The number of the newest event, as readers know it; 0 if there was none yet, as all come behind that."""
        self.catch_up()
        return self.highest if self.highest > self._feed.floor else 0

    def seconds_since(self) -> float:
        """How many seconds ago the newest event was."""
        return now_ms() / 1000 - self.newest / PER_MS / 1000

    @property
    def watched(self) -> bool:
        """Whether somebody who only watches has heard how the last run has ended."""
        return self.last is not None and self._feed.watched == self.last.run_id

    @property
    def knows_questions(self) -> bool:
        """Whether one is known that is open, or that may be again when the last run has come to nothing."""
        return bool(self._hidden or self.open_questions)

    @property
    def seen(self) -> int:
        """The number of the last thing on the feed that events were made of."""
        return self._seen

    def catch_up(self) -> None:
        """Make the events of what has happened since somebody did that last.

        Where none can be made of something, as an agent may say anything, there is a gap, and what is behind it goes on.
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
            except Exception as exc:  # noqa: BLE001  # whatever an agent has said, nobody loses what comes behind it
                self._leave_out(item, exc)
        for run in self._runs.values():
            run.let_go()

    def place_of(self, since: int | None, wanted: Wanted, holder: str | None = None) -> tuple[int, bool]:
        """Behind how many events a reader begins, and whether it has missed nothing.

        Without a number it begins with the oldest run that is active, else with the last one: who asks for a run and then
        for its events has them, however fast it was. Where that is over, and the thread has a `holder` that has not begun,
        it begins with this: who has asked for it would take the end of the last one for its end. Who only watches hears of a
        run that is over if it asks him, or he may wait for it: else he would take its end for that of the next.
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
            return self.added, True
        return self._began_at - 1, True

    def _may_be_waited_for(self, run: RunAsEvents) -> bool:
        """Whether who comes to watch may have asked for this run, which is over: by a command, and just now."""
        return run.by_command and not self.watched and self.seconds_since() < _COMES_SOON

    def of_questions(self, place: int) -> tuple[list[Event], dict[int, Event | None]]:
        """What of open questions is other than in the events, for who begins behind so many of them without a number.

        By what each was asked of which he would not hear, to be told first. And what takes the place of an answer to any of
        them, by its number: it was in vain, and clients would not take up the question again; None: nothing does.
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
        """Whether the last run is over, and the one that has the thread is another, which has neither begun nor ended."""
        last = self.last
        if holder is None or last is None or last.event == "running":  # it goes on, as another run or elsewhere
            return False
        return holder != last.run_id and holder not in self._over

    def tree(self) -> dict[str, Any] | None:
        """The run that has begun last, with the agents inside it; None if none has begun here."""
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
        """Say how a run has ended that was executed elsewhere, or before anything is known here; once.

        Clients know it as `known_as`. If it `is_first` it is what is told before anything else, so not where a run has begun
        meanwhile; if it `is_past` nothing goes on there, and who watches is not told.
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
        """Say which questions are open that a run was to answer which has failed, unless another one has begun: these again,
        and where it may be that not all are known here that were asked before it, those.
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
        """A run that comes goes on for another one, as which clients know it; or it is known as itself."""
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
            self._ended(run or self._not_begun(item.run_id), item.what, item.at)
        elif item.kind == "ended":
            self._leave(item.run_id)
            self.moved.append(item.run_id)
        elif item.kind == "state":
            self._take_state(item)

    def _name_of(self, run_id: str, retry_of: str | None) -> str | None:
        """The run that clients know a run as that starts; None: as itself.

        It is known once the run has ended for which this one goes on; that may be told later, or to another process.
        Of one that ended and did not go on it is an attempt that somebody has asked for.
        """
        known_as = self._aliases.pop(run_id, None)
        if known_as is not None or retry_of is None:
            return known_as
        goes_on_for = self._runs.get(retry_of)
        if goes_on_for is not None:
            return goes_on_for.known_as
        return self._aliases.get(retry_of, retry_of) if self.last is None else None

    def _not_begun(self, run_id: str) -> RunAsEvents:
        """A run that ends without having begun. If it was to go on for the last one, that has ended with it."""
        known_as, last = self._aliases.pop(run_id, None), self.last
        if known_as is None or last is None or last.known_as != known_as:
            return RunAsEvents(run_id, self._say, known_as=known_as)
        self.last = RunAsEvents(run_id, self._say, agent=last.agent, known_as=known_as)
        return self.last

    def _leave_out(self, item: FeedItem, exc: Exception) -> None:
        """Say that something is missing here of which no event could be made."""
        (self._runs.get(item.run_id) or RunAsEvents(item.run_id, self._say)).complain(exc)
        why = json_bytes({"run_id": item.run_id, "why": "what was said there has a form that is not known here"})
        self._say(GAP, why, at=item.time, unsure=True)

    def _found_late(self, item: FeedItem) -> RunAsEvents:
        """A run that says something, and whose start is not kept any more."""
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
        """A run has begun that brings these answers, or (None) begins without regard to what is asked."""
        self._knows_all = self._knows_all and self.last is not None
        self.last, self.in_doubt, self._answer = run, None, None
        self._hidden.update(self.open_questions if answered is None else answered)
        self.open_questions = [question for question in self.open_questions if question not in self._hidden]
        self._runs[run.run_id] = run
        self._started[run.run_id] = self._began_at = self.added + 1

    def _ended(self, run: RunAsEvents, says: Mapping[str, Any], at: int) -> None:
        asked = run.end(says, at)
        if self.last is not None:  # else nobody who comes hears of it
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
        # By an id of this form clients know which run an event is about that says nothing of it itself.
        event_id = None if about is None else f"synth:{about}:{seq}"
        event = Event(
            method, data, seq=seq, at=at, namespace=namespace, node=node, name=name, event_id=event_id, ends=ends
        )
        self.add(event)
        if asks is not None:
            self._asked[asks] = event


def log_of(feed: ThreadFeed) -> ThreadEventLog:
    """The events of a feed, which are made from now on if nobody has asked for them before."""
    if feed.derived is None:
        limits = feed.limits
        feed.derived = ThreadEventLog(feed, limits.items, limits.item_bytes)
    log: ThreadEventLog = feed.derived
    return log


def _number_of(event: Event) -> int:
    return event.seq
