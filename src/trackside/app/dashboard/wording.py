"""How numbers, times and ids are written on pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec

from trackside.app.dashboard.cutting import seen_in
from trackside.harness.ids import assistant_id_of

_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
_STEPS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


def duration(seconds: float | None) -> str:
    """`420 ms`, `3 min 20 s`, `2 h 5 min`; a dash if there is none."""
    if seconds is None:
        return "–"
    if seconds < 0.001:
        return "< 1 ms"
    if seconds < 0.9995:  # anything that would be written as 1000 ms is a second; the other limits work alike
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    seconds = max(seconds, 60.0)
    for size, name in _STEPS:
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            smaller = {"d": (3_600, "h"), "h": (60, "min"), "min": (1, "s")}[name]
            return f"{whole:.0f} {name} {rest // smaller[0]:.0f} {smaller[1]}"
    raise AssertionError(seconds)


def count(number: float | None) -> str:
    """`1,234`, `12.3k`, `4.56M`; a dash if there is none."""
    if number is None:
        return "–"
    if abs(number) < 9_999.5:
        return f"{number:,.0f}"
    for unit, sign in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if abs(number) < 999.5 * unit:
            return f"{number / unit:.3g}{sign}"
    return f"{number / 1e9:,.0f}G"


def plural(number: float | None, one: str, many: str | None = None) -> str:
    """The noun for a number of things: `run` for one, else `runs`."""
    return one if number == 1 else many or f"{one}s"


def cost(dollars: float | None) -> str:
    """`$0.0123`, `$12.30`; a dash if it is not known."""
    if dollars is None:
        return "–"
    if dollars == 0:
        return "$0"
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.3g}" if dollars >= 0.0001 else "< $0.0001"


def percent(part: float) -> str:
    """A part of one, as `4.8 %`; only nothing is written as 0, and only all as 100."""
    if 0 < part < 0.001:
        return "< 0.1 %"
    if 0.999 < part < 1:
        return "> 99.9 %"
    return f"{100 * part:.1f}".removesuffix(".0") + " %"


def short_id(value: str | None) -> str:
    """The end of an id, which tells ids of the same minute apart."""
    return "–" if value is None else value if len(value) <= 12 else f"…{value[-8:]}"


def twin_name(address: str) -> str:
    """The name of a JSON twin's address: its path, with ids as short as elsewhere."""
    return _ID.sub(lambda found: short_id(found[0]), address.partition("?")[0])


def iso(when: datetime | None) -> str:
    """A time in the form that machines read."""
    return "" if when is None else when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(when: datetime | None) -> str:
    """A time in the form that people read, until a script has written it in their own zone."""
    return "–" if when is None else f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def pretty(value: Any) -> str:
    """A JSON value, indented."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def size(number: int) -> str:
    """A number of bytes."""
    for unit, name in ((1_048_576, "MiB"), (1_024, "KiB")):
        if number >= unit * 0.99995:  # 1,048,575 bytes would be written as 1,024.0 KiB
            return f"{number / unit:,.1f} {name}"
    return f"{number} bytes"


def visible(text: str) -> str:
    """A name or id with invisible signs made visible: zero-width ones, and those that turn the direction of writing."""
    if text.isprintable() and text.strip() == text:
        return text
    return "".join(sign if sign.isprintable() else f"⟨U+{ord(sign):04X}⟩" for sign in text)


def in_path(agent: str) -> str:
    """What names an agent in an address's path: its name, or its assistant's id if the name is not one path step."""
    return assistant_id_of(agent) if "/" in agent or agent in {".", ".."} else quote(agent, safe="")


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "duration": duration,
    "count": count,
    "plural": plural,
    "cost": cost,
    "percent": percent,
    "short_id": short_id,
    "twin_name": twin_name,
    "iso": iso,
    "moment": moment,
    "pretty": pretty,
    "seen_in": seen_in,
    "size": size,
    "visible": visible,
    "in_path": in_path,
}
"""The filters of the templates."""
