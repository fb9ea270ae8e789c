"""The rules that the contracts hold an implementation to, by the names under which failures cite them.

`I…` are the numbered invariants, `RunCoordinator.…` the promises of that method in `trackside.harness.ports`, the
others sections of the contract between harness and observers. `docs/conformance.md` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping

RULES: Mapping[str, str] = {
    # observers
    "events": "an observer takes each of the six events, of any run, in whatever form the contract allows",
    "payloads": "keys that nobody knows and a missing status are legal in every payload",
    "duplicates": "an event can come again, with the same event_id, and is no failure then",
    "read-only": "an observer never changes an event: those bound after it see the same one",
    "cancellation": "whoever cancels on_event or on_events gets CancelledError, and the observer takes the next event",
    "failures": "what an observer cannot take it refuses with an Exception, and takes the next event",
    "batches": "on_events is what on_event is for each of its events, all or nothing",
    "effects": "every event that was taken has its effect",
    "idempotent": "an event that comes again has no second effect",
    "I12": "an observer sees a run's events in sequence order",
    "I22": "accepted = delivered + failed + dropped + pending, always",
    "I23": "flush(timeout) reports in time, aclose may be repeated, and no event after it is lost silently",
    # agents
    "agent": "a run of an agent has one opening, its output as plain JSON, and one closing",
    "messages": "each human message is announced once, and every message counted",
    "thread memory": "a thread remembers what its runs came to, and nothing of other threads",
    "usage": "every call of a model or tool is counted and listed once, by model and by caller, whatever becomes of the run",
    "budget": "a run that used more than it may is stopped, and tells what it used",
    "failures told": "what went wrong is told with its text and its class, also if agent or framework swallowed it",
    "stopped": "an agent that is stopped has really stopped before anybody is told",
    "partial work": "a run that is stopped, but not rolled back, leaves in its thread what was complete of it",
    "rollback": "a run that is rolled back leaves its thread as it was",
    "questions": "an agent that asks is interrupted, goes on with the answer, and only with one to what it asked",
    "streaming": "a follower sees what the agent comes to, in numbered parts of plain JSON",
    "I21": "code of an agent's sees its own run, and nothing leaks between runs",
    # coordinators
    "RunCoordinator.admit": "a run is let in under its strategy, all or nothing; first come, first served",
    "RunCoordinator.claim": "a pending run is given to exactly one, when it is at the head of its thread",
    "RunCoordinator.withdraw": "a pending run is taken out for good, by exactly one caller",
    "RunCoordinator.settle": "the end of a run says what its thread becomes, and ends nothing yet",
    "RunCoordinator.release": "a thread is given back once, to the run that waited longest",
    "RunCoordinator.request_cancel": "a cancel wins over a claim that comes after it, and changes nothing that has ended",
    "RunCoordinator.note_stuck": "a run that was cancelled and goes on is known to be stuck, until it ends",
    "RunCoordinator.get": "what is known about a run is true",
    "one active run": "at most one run of a thread is active, whoever admits and ends how many",
    "idempotency": "a key names one request for ever: the same body gives the same run, another is refused",
    "due_at": "a run that is not due holds nothing and gives way at once; due, it takes its place as if it came in now",
    "repeatable": "a step whose reply was lost, and that its caller takes again, answers as it would have",
    "durable": "a pending run outlives its process, and starts elsewhere in its order (I7)",
    "attempts": "a run that was lost or shut down, and has attempts left, goes on as exactly one other run",
    "shared": "coordinators on one truth are as one, and tell each other's hosts what concerns them",
    "I7": "a run whose process is gone gets exactly one end, and its thread becomes free",
    # stores
    "I1": "sequences are 1, 2, 3 …; the first event starts or ends its run; it ends once; then only its thread changes",
    "I2": "positions are 1, 2, 3 … without a gap, in the order in which events become visible",
    "I3": "within a run, sequence order is position order",
    "I4": "an event that is appended again is not stored again and comes back as it is stored",
    "I5": "a run that has ended takes no further event of a run from anyone",
    "I6": "the rows of run and thread are the fold of the events",
    "I9": "any Python value is stored in canonical JSON, or refused before its sequence number is used",
    "I10": "every store gives the same payload back",
    "log": "an append is all or nothing, and what it has returned is there to be read, as it was given",
    "reading": "a reader pages through the log by position and sees each event that fits once",
    "arguments": "what cannot be done is refused with an error of Trackside that says why",
    "follow": "a follower gets every event that fits, once, in order of position, and waits for the next",
}
