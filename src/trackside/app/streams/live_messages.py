"""What processes tell each other about runs: `relay` says it, `mirror` hears it, a `LiveWire` carries the bytes.

A message is one byte for the version of this format, and msgpack. Versions may be mixed while a fleet is brought up to
date: a process passes over a message of an unknown version, and misses what was in it. Fields are only ever added at
the end, with a default; any other change makes a new version.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from trackside.app.streams.frames import Frame
from trackside.harness.questions import NO_QUESTION, is_question_id
from trackside.harness.types import RunSpec

VERSION: Final = b"\x01"
MOST_BYTES: Final = 480 * 1024
"""About how many bytes a message may have: wires take 512 KiB."""
MOST_PART_BYTES: Final = 16 * 1_048_576
"""How many bytes one part may have; it is sent in pieces if it is larger than a message. A larger one is not sent."""
THREAD_STATE: Final = "thread-state"
"""Stands for a run where somebody has changed a thread's state on behalf of no run."""

BY_COMMAND: Final = "by_command"
"""Among the options of a run that a command of version 2 of the protocol has asked for."""

_LEFT_TO_THE_LOG: Final = frozenset({"completion_data", "traceback"})

type Part = tuple[int, str, str, bytes, tuple[str, ...], int, bytes | None]
"""What a `Frame` is made of: sequence, mode, event, data, namespace, when it was said, what the run said if not that."""


class Begin(msgspec.Struct, array_like=True, frozen=True):
    """What a run is. `at` is when it began, or was known not to, in milliseconds since 1970."""

    agent: str
    attempt: int
    modes: tuple[str, ...]
    resumable: bool
    has_feed: bool
    """Whether its thread outlives it. Nobody looks at that: followers of a thread are told of each run on it."""
    started: bool
    at: int
    answers: tuple[str, ...] | None = None
    """To which questions it brings answers; empty if it says no names, None if it brings none."""
    retry_of: str | None = None
    """The run that it is another attempt of."""
    by_command: bool = False
    """Whether a command of version 2 of the protocol has asked for it."""


class Piece(msgspec.Struct, array_like=True, frozen=True):
    """One of several pieces of a part, as msgpack; they come one after another."""

    sequence: int
    index: int
    count: int
    data: bytes


class End(msgspec.Struct, array_like=True, frozen=True):
    """No more parts will come. `says` is the payload of the run's last event; None: the log, or another process, tells."""

    says: dict[str, Any] | None
    at: int


class State(msgspec.Struct, array_like=True, frozen=True):
    """A thread's state was changed to this, as JSON; None: to something that is too large to be sent."""

    data: bytes | None
    at: int


class Message(msgspec.Struct, array_like=True):
    """What of a run waits to be sent, in this order. `through` is the number of the last part said so far."""

    run_id: str
    begin: Begin | None = None
    gaps: tuple[tuple[int, int, str | None], ...] = ()
    """Numbers of parts that are not sent, from the first to the last, and why."""
    parts: tuple[Part, ...] = ()
    piece: Piece | None = None
    through: int = 0
    end: End | None = None
    state: State | None = None
    gone: bool = False
    """The thread is gone."""
    watched: str | None = None
    """Somebody who watches the thread has heard how this run has ended."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode
_decode_part = msgspec.msgpack.Decoder(Part).decode


class UnknownMessageError(Exception):
    """The bytes have a version that is not known here, or are no message at all."""


def bytes_of(message: Message) -> bytes:
    """A message as it goes over the wire."""
    return VERSION + _encode(message)


def state_of(data: bytes, at: int) -> State:
    """A thread's state as it is sent."""
    return State(data if len(data) <= MOST_BYTES else None, at)


def message_of(data: bytes) -> Message:
    """The message that was sent.

    Raises:
        UnknownMessageError: it cannot be understood here.
    """
    if data[:1] != VERSION:
        raise UnknownMessageError(f"version {data[:1].hex() or 'none'}")
    try:
        return _decode(memoryview(data)[1:])
    except msgspec.MsgspecError as exc:
        raise UnknownMessageError(str(exc)) from exc


def part_of(frame: Frame) -> Part:
    """A frame as it is sent."""
    said = None if frame.said is frame.data else frame.said
    return frame.sequence, frame.mode, frame.event, frame.data, frame.namespace, frame.at, said


def whole_part(data: bytes) -> Part:
    """A part that came in pieces.

    Raises:
        UnknownMessageError: the pieces make no part.
    """
    try:
        part: Part = _decode_part(data)
    except msgspec.MsgspecError as exc:
        raise UnknownMessageError(str(exc)) from exc
    return part


def pieces_of(frame: Frame) -> list[bytes]:
    """A part that is too large for one message, in pieces."""
    whole = _encode(part_of(frame))
    return [whole[start : start + MOST_BYTES] for start in range(0, len(whole), MOST_BYTES)]


def bytes_about(frame: Frame) -> int:
    """About how many bytes a part takes in a message."""
    return frame.size - len(frame.data)


def is_by_command(spec: RunSpec) -> bool:
    """Whether a command of version 2 of the protocol has asked for a run."""
    return bool(spec.options and spec.options.get(BY_COMMAND))


def by_no_command(spec: RunSpec) -> RunSpec:
    """The same run, asked for in another way."""
    if not is_by_command(spec):
        return spec
    options = {name: value for name, value in (spec.options or {}).items() if name != BY_COMMAND}
    return replace(spec, options=options or None)


def answers_in(resume: Any) -> tuple[str, ...] | None:
    """Which questions an answer is about, without what it says; with the mark that these are ids, if it has that."""
    if resume is None:
        return None
    if not isinstance(resume, Mapping):
        return ()
    return tuple(str(name)[:200] for name in list(resume)[:100])


def names_questions(answers: Collection[str]) -> bool:
    """Whether these are ids of questions, and not names in an answer that is a mapping itself, or none."""
    return NO_QUESTION in answers or (bool(answers) and all(map(is_question_id, answers)))


def end_as_said(says: Mapping[str, Any]) -> dict[str, Any]:
    """What the last event of a run says, without what is long, which the log has."""
    return {name: value for name, value in says.items() if name not in _LEFT_TO_THE_LOG}


def weight_of(end: Mapping[str, Any] | None) -> int:
    """About how many bytes an end takes where it is kept: what a run asks may be long, and so may its error."""
    said = () if end is None else filter(None, end.values())
    return sum(len(value if isinstance(value, str) else str(value)) for value in said)
