"""What callers of the store may pass: each function checks one argument, and names it if something is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from trackside.app.storage._rows.encoding import is_plain_text, time_of
from trackside.app.storage._rows.fold import Label, is_label, label_value
from trackside.app.storage.errors import InvalidQueryError, StoreOptionError
from trackside.harness.admission import MAX_ID_CHARS
from trackside.harness.amounts import is_count
from trackside.harness.errors import TracksideError
from trackside.harness.payload import MAX_DEPTH

type AnyOf[K: StrEnum] = K | str | Collection[K | str]
"""A member of an enumeration, by its name or itself, or several, any of which will do."""

_MAX_POSITION = 2**63 - 1
_MOST_LABELS = 100
_MOST_IDS = 10_000  # a statement takes no more than some 32,000 values


class Place(NamedTuple):
    """Where something stands in a listing: its time and its id."""

    when: datetime
    id_: str


def position(field: str, said: Any) -> int:
    """A position in the log."""
    if type(said) is not int or not 0 <= said <= _MAX_POSITION:
        raise InvalidQueryError(field=field, value=said, why="a position is a whole number from 0 up")
    return said


def limit_of(said: Any, field: str = "limit") -> int:
    """How many at most."""
    if type(said) is not int or not 1 <= said <= _MAX_POSITION:
        raise InvalidQueryError(field=field, value=said, why="it is a whole number from 1 up to 2**63 - 1")
    return said


def check_size(field: str, said: Any, most: int) -> None:
    """See that what is looked for is shallow enough for a recursive function, and has at most `most` values."""
    level, size = [said], 0
    for _ in range(MAX_DEPTH):
        size += len(level)
        if size > most:
            raise InvalidQueryError(field=field, value="…", why=f"it has more than {most:,} values")
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    raise InvalidQueryError(field=field, value="…", why=f"it is nested deeper than {MAX_DEPTH}")


def _inside(said: Any) -> Iterable[Any]:
    if isinstance(said, Mapping):
        return said.values()
    return said if isinstance(said, (list, tuple)) else ()


def check_option(option: str, said: Any, kind: type) -> None:
    """See that an option of a store is of this kind.

    Raises:
        StoreOptionError: it is not.
    """
    if not isinstance(said, kind):
        what = "True or False" if kind is bool else f"{kind.__name__}(…)"
        raise StoreOptionError(option=option, value=said, why=f"it is {what}")


def check_count_option(option: str, said: Any) -> None:
    """See that an option of a store is a number of things, one at least.

    Raises:
        StoreOptionError: it is not.
    """
    if not is_count(said):
        raise StoreOptionError(option=option, value=said, why="it is a whole number from 1 up")


def check_seconds_option(option: str, said: Any, *, least: float, most: float) -> None:
    """See that an option of a store is a number of seconds between these.

    Raises:
        StoreOptionError: it is not.
    """
    if type(said) not in {int, float} or not least <= said <= most:
        why = f"it is a number of seconds from {least:g} to {most:g}"
        raise StoreOptionError(option=option, value=said, why=why)


def flag(field: str, said: Any) -> bool:
    """True or False."""
    if not isinstance(said, bool):
        raise InvalidQueryError(field=field, value=said, why="it is True or False")
    return said


def is_plain(said: Any) -> bool:
    """Whether it is a text that a database can hold."""
    return isinstance(said, str) and is_plain_text(said)


def plain(field: str, said: Any) -> str:
    """A text that a database can hold."""
    if not is_plain(said):
        raise InvalidQueryError(field=field, value=said, why="it is a text, without NUL and half characters")
    return str(said)


def plain_or_none(field: str, said: Any) -> str | None:
    """A text that a database can hold, if there is one."""
    return None if said is None else plain(field, said)


def ids(field: str, said: Collection[Any]) -> list[str]:
    """Texts that a database can hold, as many as one statement takes in any case."""
    if len(said) > _MOST_IDS:
        raise InvalidQueryError(field=field, value=f"{len(said)} ids", why=f"there are {_MOST_IDS} at most")
    return [plain(field, id_) for id_ in said]


def name_of(field: str, said: Any, error: type[TracksideError]) -> str:
    """A text that names something.

    Raises:
        TracksideError: of the kind `error`: it is not such a text.
    """
    if not is_plain(said) or not 0 < len(said) <= MAX_ID_CHARS:
        why = f"it is a text of 1 to {MAX_ID_CHARS} characters, without NUL and half characters"
        raise error(field=field, value=said, why=why)
    return str(said)


def short(field: str, said: Any) -> str:
    """A text that a database can hold, and index."""
    if len(text := plain(field, said)) > MAX_ID_CHARS:
        why = f"it is a text of {MAX_ID_CHARS} characters at most"
        raise InvalidQueryError(field=field, value=f"{text:.40}…", why=why)
    return text


def short_or_none(field: str, said: Any) -> str | None:
    """A text that a database can hold, and index, if there is one."""
    return None if said is None else short(field, said)


def members[K: StrEnum](kinds: type[K], field: str, said: Any) -> list[K]:
    """Members of an enumeration, from one or several of their values, each once."""
    try:
        return [*dict.fromkeys(kinds(value) for value in ([said] if isinstance(said, str) else said))]
    except (TypeError, ValueError):
        raise InvalidQueryError(field=field, value=said, why=f"there are {', '.join(kinds)}") from None


def time(field: str, said: Any) -> datetime:
    """An aware time, in UTC."""
    when = _utc(said)
    if when is None:
        raise InvalidQueryError(field=field, value=said, why="it is a datetime with a time zone")
    return when


def interval(since: Any, until: Any) -> tuple[datetime | None, datetime | None]:
    """A time from `since` to before `until`, either of which may be open."""
    begin = None if since is None else time("since", since)
    end = None if until is None else time("until", until)
    if begin is not None and end is not None and end < begin:
        raise InvalidQueryError(field="until", value=until, why="it is not before since")
    return begin, end


def place(field: str, said: Any) -> Place:
    """The place that a cursor names."""
    when, slash, id_ = said.partition("/") if isinstance(said, str) else ("", "", "")
    try:
        moment = _utc(time_of(when))
    except ValueError:
        moment = None
    if moment is None or not slash or not is_plain_text(id_):
        raise InvalidQueryError(field=field, value=said, why="it is not the `cursor` of a record")
    return Place(moment, id_)


def labels(metadata: Any) -> list[Label]:
    """What the metadata of a run has to say."""
    if not isinstance(metadata, Mapping):
        raise InvalidQueryError(field="metadata", value=metadata, why="it is a mapping of keys to plain values")
    if len(metadata) > _MOST_LABELS:
        why = f"runs are found by {_MOST_LABELS} keys at most"
        raise InvalidQueryError(field="metadata", value=f"{len(metadata)} keys", why=why)
    return [(plain("metadata", key), _label(key, value)) for key, value in metadata.items()]


def _label(key: str, value: Any) -> str:
    text = label_value(plain("metadata", value) if isinstance(value, str) else value)
    if text is None or not is_label(key, text):
        why = f"runs are found by short texts, whole numbers, True, False and None, and not by this under {key!r:.50}"
        raise InvalidQueryError(field="metadata", value=value, why=why)
    return text


def id_range(prefix: str) -> tuple[str, str | None]:
    """The first id that begins like this, and the first one after all that do; None if there is none after them.

    Not LIKE, which ignores case in SQLite and so cannot use the index. This needs ids that are sorted by code point, as
    they are in SQLite, and in PostgreSQL under the collation "C".
    """
    kept = prefix.rstrip(chr(sys.maxunicode))
    if not kept:
        return prefix, None
    following = ord(kept[-1]) + 1
    # D800 to DFFF are halves of characters.
    return prefix, kept[:-1] + chr(0xE000 if following == 0xD800 else following)


def _utc(said: Any) -> datetime | None:
    """An aware time in UTC; None if it is not an aware time, or cannot be told in UTC."""
    if not isinstance(said, datetime) or said.utcoffset() is None:
        return None
    try:
        return said.astimezone(UTC)
    except OverflowError:
        return None
