"""Turns what people type after a command into values, or says in a sentence why it cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path

from trackside.app.settings.durations import duration_of
from trackside.harness.errors import TracksideError
from trackside.harness.types import Json, JsonObject

ALL = 2**63 - 1
"""The largest number that a database can hold."""


class ArgumentError(TracksideError, ValueError, code=""):
    """{name}: {why}."""


def is_whole(text: str) -> bool:
    """Whether a text has no half characters, which is what typed bytes that are not UTF-8 become."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_whole(text: str) -> None:
    """Refuse typed text with half characters.

    Raises:
        ArgumentError: there are half characters in it.
    """
    if not is_whole(text):
        raise ArgumentError(name=repr(text), why="it is a text, without half characters")


def read_input(text: str | None) -> Json:
    """Read the input of a run: text is a human message; `{…}` and `[…]` are JSON; `@file` and `-` are read first.

    Text that begins like one of these can be written as a JSON string, `"[URGENT] …"`.

    Raises:
        ArgumentError: it starts like JSON but is not JSON, or the file cannot be read.
    """
    return None if text is None else _text_or_json(_content(text, "INPUT"), "INPUT")


def read_answer(text: str) -> Json:
    """Read the answer to an interrupt: JSON if it is JSON (`true`, `42`, `{"approved": true}`), else the text as it is.

    Raises:
        ArgumentError: it starts like a JSON object or list but is not one, or the file cannot be read.
    """
    content = _content(text, "ANSWER")
    try:
        return _json(content)
    except (ValueError, RecursionError):
        return _text_or_json(content, "ANSWER")


def _content(text: str, name: str) -> str:
    if text == "-":
        text = _decode(sys.stdin.buffer.read(), name, "standard input")
        return text.removesuffix("\n").removesuffix("\r")  # the line end that `echo` adds
    if not text.startswith("@"):
        return text
    if text == "@":
        raise ArgumentError(name=name, why="@ needs the name of a file")
    path = Path(text[1:])
    try:
        return _decode(path.read_bytes(), name, str(path))
    except OSError as exc:
        raise ArgumentError(name=name, why=f"{path} cannot be read: {exc.strerror}") from exc


def _decode(content: bytes, name: str, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise ArgumentError(name=name, why=f"{where} is not UTF-8 text (byte {exc.start})") from exc


def _json(text: str) -> Json:
    """Read a JSON text; Python itself would also accept NaN and infinite numbers.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError(f"{text} is no number there")
    return number


def _text_or_json(content: str, name: str) -> Json:
    if content.lstrip().startswith('"'):
        return _quoted(content)
    if not content.lstrip().startswith(("{", "[")):
        return content
    try:
        return _json(content)
    except (ValueError, RecursionError) as exc:
        hint = "what starts with { or [ is read as JSON, and so is a text in double quotes"
        raise ArgumentError(name=name, why=f"it is not valid JSON: {exc}; {hint}") from exc


def _quoted(content: str) -> str:
    try:
        text = json.loads(content)
    except ValueError:
        return content  # the text merely begins with a quotation
    return text if isinstance(text, str) else content


def read_metadata(pairs: Sequence[str]) -> JsonObject:
    """Read `k=v` pairs as an object; a value is JSON if it is JSON, else text.

    Raises:
        ArgumentError: there is no `=`, or nothing before it; or a key comes twice.
    """
    metadata: JsonObject = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ArgumentError(name="--metadata", why=f"{pair!r} is not of the form key=value")
        if key in metadata:
            raise ArgumentError(name="--metadata", why=f"{key!r} is given twice, and has one value")
        try:
            metadata[key] = _json(value)
        except ValueError:
            metadata[key] = value
        except RecursionError:
            raise ArgumentError(name="--metadata", why=f"the value of {key!r} is nested too deeply") from None
    return metadata


def read_seconds(text: str, name: str) -> float:
    """Read a length of time in seconds: `90`, `1.5`, `30s`, `5m`, `2h`, `3d`.

    Raises:
        ArgumentError: it is not one, or it is zero.
    """
    found = duration_of(text)
    if found is None:
        raise ArgumentError(name=name, why=f"{text!r} is not a length of time; write 90, 30s, 5m, 2h or 3d")
    if found.seconds == 0:
        raise ArgumentError(name=name, why="it has to be longer than zero; leave it out for no limit")
    return found.seconds


def read_dollars(text: str, name: str) -> float:
    """Read an amount of US dollars: `0.5`, `$2`.

    Raises:
        ArgumentError: it is not one, or it is zero.
    """
    try:
        dollars = float(text.strip().removeprefix("$"))
    except ValueError:
        dollars = 0.0
    if not 0 < dollars < float("inf"):
        raise ArgumentError(name=name, why=f"{text!r} is not an amount of US dollars; write 0.5")
    return dollars


def read_age(text: str, name: str, *, now: datetime) -> timedelta:
    """Read how long ago something was, at least: `12h`, `30d`, `8w`; `0d` is any time.

    Raises:
        ArgumentError: it is not a length of time with a unit, or reaches back before the year 1.
    """
    found = duration_of(text)
    try:
        if found and found.has_unit:
            age = timedelta(seconds=found.seconds)
            return now - (now - age)  # overflows before the year 1
    except OverflowError:
        raise ArgumentError(name=name, why=f"{text!r} is longer ago than the year 1") from None
    raise ArgumentError(name=name, why=f"{text!r} is not a length of time with its unit; write 12h, 30d or 8w")


def read_since(text: str, *, now: datetime, name: str = "--since") -> datetime:
    """Read a moment in the past: `2h` ago, `3d` ago, or an ISO date or time (local, unless it says its offset).

    Raises:
        ArgumentError: it is neither.
    """
    found = duration_of(text)
    if found and not found.has_unit:
        raise ArgumentError(name=name, why=f"{text!r} has no unit; write {text}m, {text}h or {text}d")
    try:
        if found:
            return now - timedelta(seconds=found.seconds)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ArgumentError(
            name=name, why=f"{text!r} is not a time; write 2h, 3d, 2026-01-31 or 2026-01-31T08:00"
        ) from None


_STEPS = {"minute": "1m", "hour": "1h", "day": "1d", "week": "7d"}


def read_step(text: str, name: str) -> timedelta:
    """Read the length of the blocks of a chart: `15m`, `1h`, `1d`, or `minute`, `hour`, `day`, `week`.

    Raises:
        ArgumentError: it is no such length of time, or hours do not divide by it.
    """
    found = duration_of(_STEPS.get(text, text))
    try:
        if found and found.has_unit and (step := timedelta(seconds=found.seconds)) and _divides_time(step):
            return step
    except OverflowError:
        pass
    why = f"{text!r} is neither whole hours nor minutes that divide one; write minute, hour, day, week, 5m, 15m, 2h or 30d"
    raise ArgumentError(name=name, why=why)


def _divides_time(step: timedelta) -> bool:
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    return step >= minute and not step % minute and not (step % hour and hour % step)
