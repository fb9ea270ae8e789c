"""Payloads of every kind of value that an agent may hand over (I9), and that every store gives back alike (I10)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from trackside.harness.errors import TracksideError
from trackside.harness.payload import canonical_payload
from trackside.harness.types import LifecycleEventType
from trackside.testing.contracts import _events
from trackside.testing.contracts._promise import Contract, promise
from trackside.testing.contracts._reading_log import check_log, text, whole_log
from trackside.testing.contracts.stores import EventStore, Stores
from trackside.testing.events import make_event


def _cycle() -> Any:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    return loop


def _deep(levels: int) -> Any:
    value: Any = "the bottom"
    for _ in range(levels):
        value = [value]
    return value


class _Broken:
    """Cannot even be looked at."""

    def __repr__(self) -> str:
        raise RuntimeError("no words")


PLAIN: Mapping[str, Callable[[], Any]] = {
    "every kind of JSON": lambda: {"a": [None, True, False, 0, -1, 1.5, "", {}, []], "b": {"c": {"d": "e"}}},
    "True, 1 and 1.0": lambda: [True, 1, 1.0, False, 0, 0.0],
    "the numbers at the ends of 64 bits": lambda: [2**63 - 1, -(2**63), 2**64 - 1, 2**53 + 1],
    "floats that need all their digits": lambda: [0.1 + 0.2, 1e-320, 1.7976931348623157e308, -0.0],
    "text of every script": lambda: "naïve Ω 日本語 \U0001f469\u200d\U0001f680 \u2028 \x7f \t\n\r \\ \" '",
    "text that looks like SQL": lambda: "'; DROP TABLE events; -- %s ? :x $1",
    "keys that look like something else": lambda: {"": 1, "__proto__": 2, "a.b": 3, "$ref": 4, "1": 5},
    "100,000 characters": lambda: "ab" * 50_000,
    "10,000 items": lambda: [*range(10_000)],
}
"""Values that are JSON already: they come back as they were."""

STRANGE: Mapping[str, Callable[[], Any]] = {
    "NUL": lambda: "a\0b",
    "a lone surrogate": lambda: ["\ud800", "\udfff x"],
    "NaN and infinities": lambda: [float("nan"), float("inf"), float("-inf")],
    "bytes": lambda: [b"\x00\xff", bytearray(b"abc"), memoryview(b"abc")],
    "sets": lambda: [{3, 1, 2}, frozenset({"b", "a"}), set()],
    "times": lambda: [datetime(2026, 1, 31, 9, 30, tzinfo=UTC), date(2026, 1, 31), timedelta(hours=1)],
    "a cycle": _cycle,
    "10**400": lambda: [10**400, -(10**400), 2**64],
    "keys that are no text": lambda: {1: "int", None: "none", False: "bool", 1.5: "float", (1, 2): "tuple"},
    "keys that become the same": lambda: {1: "a", "1": "b"},
    "NUL and surrogates in keys": lambda: {"a\0b": 1, "\ud800": 2},
    "objects": lambda: [Decimal("1.50"), UUID(int=7), 1 + 2j, object],
}
"""Values that JSON lacks: they come back in canonical form, and the payload says that it was `sanitized`."""

EXTREME: Mapping[str, Callable[[], Any]] = {
    "nested 20,000 deep": lambda: _deep(20_000),
    "8,000,000 characters": lambda: "x" * 8_000_000,
    "an object that cannot be looked at": _Broken,
}
"""Values that have no canonical form in common: they are cut and marked, or refused."""


class PayloadPromises(Contract):
    """The part of a `StoreContract` that is about payloads."""

    @pytest.mark.parametrize("value", PLAIN)
    @promise("I10")
    async def test_json_comes_back_as_it_was(self, stores: Stores, value: str) -> None:
        store: EventStore = await stores.store()
        payload = {"agent": "chat", "value": PLAIN[value]()}
        seen = await self._stored(stores, store, payload)
        assert seen == text(payload), f"{text(payload):.200} came back as {seen:.200}"

    @pytest.mark.parametrize("value", STRANGE)
    @promise("I10")
    async def test_any_python_value_comes_back_in_its_canonical_form(self, stores: Stores, value: str) -> None:
        store: EventStore = await stores.store()
        expected = text(canonical_payload({"agent": "chat", "value": STRANGE[value]()}))
        seen = await self._stored(stores, store, {"agent": "chat", "value": STRANGE[value]()})
        assert json.loads(seen).get("sanitized") is True, f"what was changed is not marked: {seen:.200}"
        assert seen == expected, f"{value} came back as {seen:.200}, and its canonical form is {expected:.200}"

    @pytest.mark.parametrize("value", EXTREME)
    @promise("I9")
    async def test_what_cannot_be_kept_whole_is_cut_and_marked_or_refused(self, stores: Stores, value: str) -> None:
        store: EventStore = await stores.store()
        run = _events.run_of(1)
        payload = {"agent": "chat", "value": EXTREME[value]()}
        started = make_event(
            LifecycleEventType.RUN_STARTED, run_id=run[0].run_id, thread_id=run[0].thread_id, payload=payload
        )
        try:
            await store.append([started])
        except TracksideError:
            await store.append(run)  # its sequence number has not been used
            await check_log(store, run)
        else:
            (placed,) = await whole_log(store)
            assert placed.event.payload.get("sanitized") is True, "what was cut is not marked"
            assert len(text(placed.event.payload)) < 8_000_000, "what is too much was not cut"
            await store.append(run[1:])

    async def _stored(self, stores: Stores, store: EventStore, payload: Mapping[str, Any]) -> str:
        """The payload of an event, as `append` gives it back, as it is read, and as it is read after a restart."""
        (told,) = await store.append([make_event(LifecycleEventType.RUN_STARTED, payload=payload)])
        (read,) = await whole_log(store)
        seen = text(read.event.payload)
        assert text(told.event.payload) == seen, f"append gave {text(told.event.payload):.200}, and read is {seen:.200}"
        if getattr(self, "durable", False):
            (again,) = await whole_log(await stores.reopened(store))
            assert text(again.event.payload) == seen, "it is another one after a restart"
        return seen
