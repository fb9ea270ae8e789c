"""Items: kept, found, listed, expired in time; on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event

from trackside.app.storage import Store
from trackside.app.storage._threads import item_works
from trackside.app.storage._threads.item_works import SWEPT_AT_ONCE, ItemSearch
from trackside.app.storage.errors import InvalidItemError, InvalidQueryError, ReadOnlyStoreError
from trackside.app.storage.items import ItemChange, Items

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


class Clock:
    """A clock that the test puts forward."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        self.time += timedelta(microseconds=1)
        return self.time

    def forward(self, **by: float) -> None:
        self.time += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def items(store: Store, clock: Clock) -> Items:
    return Items(store._writer, store._readers, now=clock)


async def names(items: Items, prefix: tuple[str, ...] = (), **options: Any) -> list[str]:
    return [item.key for item in await items.search(prefix, **options)]


async def test_what_was_put_is_there_until_it_is_deleted(store: Store) -> None:
    await store.items.put(("memories", "ada"), "coffee", {"likes": "black", "cups": [1, 2.5, None, True, {"ä": "\0"}]})
    found = await store.items.get(("memories", "ada"), "coffee")
    await store.items.delete(("memories", "ada"), "coffee")
    await store.items.delete(("memories", "ada"), "coffee")

    assert found is not None
    assert (found.namespace, found.key) == (("memories", "ada"), "coffee")
    assert found.value == {"likes": "black", "cups": [1, 2.5, None, True, {"ä": "\N{REPLACEMENT CHARACTER}"}]}
    assert found.created_at == found.updated_at
    assert await store.items.get(("memories", "ada"), "coffee") is None


async def test_another_value_takes_the_place_of_the_one_that_is_there(items: Items) -> None:
    await items.put(("a",), "k", {"n": 1}, ttl=5)
    before = await items.get(("a",), "k")
    await items.put(("a",), "k", {"n": 2})
    after = await items.get(("a",), "k")

    assert before is not None
    assert after is not None
    assert (after.value, after.ttl, after.expires_at) == ({"n": 2}, None, None)
    assert after.created_at == before.created_at < after.updated_at


@pytest.mark.parametrize(
    "namespace", ["a", (), ("",), ("a.b",), ("a", 1), ("langgraph",), ("a\0",), ("x" * 1_000,), None]
)
async def test_a_namespace_that_cannot_be_is_refused(items: Items, namespace: Any) -> None:
    with pytest.raises(InvalidItemError, match="namespace"):
        await items.put(namespace, "k", {})


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("key", {"key": 1}),
        ("key", {"key": "x" * 1_001}),
        ("key", {"key": "\ud800"}),
        ("value", {"value": ["no", "object"]}),
        ("ttl", {"ttl": 0}),
        ("ttl", {"ttl": float("nan")}),
        ("ttl", {"ttl": True}),
    ],
)
async def test_a_change_that_does_not_fit_changes_nothing(items: Items, field: str, change: dict[str, Any]) -> None:
    good = ItemChange(namespace=("a",), key="good", value={})
    fields: dict[str, Any] = {"namespace": ("a",), "key": "k", "value": {}} | change
    with pytest.raises(InvalidItemError, match=field):
        await items.change([good, ItemChange(**fields)])

    assert await items.search() == []


async def test_a_value_is_never_cut(items: Items) -> None:
    long = "x" * 3_000_000
    await items.put(("a",), "long", {"text": long})
    found = await items.get(("a",), "long")
    with pytest.raises(InvalidItemError, match="the limit is"):
        await items.put(("a",), "longer", {"text": "x" * (16 * 1_048_576)})

    assert found is not None
    assert found.value == {"text": long}


async def test_of_several_changes_of_an_item_the_last_one_counts(items: Items) -> None:
    def put(key: str, value: dict[str, Any] | None) -> ItemChange:
        return ItemChange(namespace=("a",), key=key, value=value)

    await items.change([put("b", {"n": 1}), put("a", {"n": 1}), put("b", None), put("a", {"n": 2}), put("c", {})])

    assert [(item.key, item.value) for item in await items.search()] == [("a", {"n": 2}), ("c", {})]


async def test_what_was_written_last_is_found_first_and_in_pages(items: Items) -> None:
    for number in range(5):
        await items.put(("a", "b" if number % 2 else "c"), str(number), {"n": number})
    await items.put(("a", "c"), "0", {"n": 0})

    assert await names(items) == ["0", "4", "3", "2", "1"]
    assert await names(items, limit=2, offset=1) == ["4", "3"]
    assert await names(items, filter={"n": {"$lt": 4}}, limit=2, offset=1) == ["3", "2"]
    assert await names(items, limit=0) == []
    assert await names(items, offset=9) == []


async def test_a_prefix_is_of_whole_labels(items: Items) -> None:
    for namespace in [("u",), ("u", "1"), ("u-1",), ("u!", "u"), ("uu",), ("U",), ("v", "u"), ("u", "\U0010ffff")]:
        await items.put(namespace, "/".join(namespace), {})

    assert sorted(await names(items, ("u",))) == ["u", "u/1", "u/\U0010ffff"]
    assert await names(items, ("u", "1")) == ["u/1"]
    assert await names(items, ("u", "2")) == []
    assert len(await names(items)) == 8


async def test_long_values_are_looked_at_a_few_at_a_time_and_not_on_the_event_loop(
    items: Items, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller that may keep items may keep many long ones, and could block the event loop for all by a search."""
    long, at_once = "x" * 1_000_000, []
    decode, fitting = item_works.json_of, ItemSearch._fitting

    def noted(text: str) -> Any:
        assert len(text) < 50_000 or threading.current_thread() is not threading.main_thread()
        return decode(text)

    def counted(search: ItemSearch, rows: Any) -> Any:
        at_once.append(sum(len(row.value) for row in rows))
        return fitting(search, rows)

    monkeypatch.setattr(item_works, "json_of", noted)
    monkeypatch.setattr(ItemSearch, "_fitting", counted)
    for number in range(12):
        await items.put(("a", "long"), str(number), {"n": number, "said": long})
        await items.put(("a", "short"), str(number), {"n": number})

    found = await items.search(("a",), filter={"n": {"$gte": 10}}, limit=3)
    one = await items.get(("a", "long"), "3")

    assert [(item.namespace, item.key) for item in found] == [
        (("a", "short"), "11"),
        (("a", "long"), "11"),
        (("a", "short"), "10"),
    ]
    assert found[1].value == {"n": 11, "said": long}
    assert one is not None
    assert one.value["n"] == 3
    assert [item.key for item in await items.search(("a", "long"), limit=2)] == ["11", "10"]
    assert sum(at_once) > 12_000_000
    assert max(at_once) < 5_000_000


async def test_a_filter_looks_at_more_items_than_are_read_at_once(items: Items) -> None:
    many = [ItemChange(namespace=("a", str(n % 7)), key=str(n), value={"n": n}) for n in range(450)]
    await items.change(many)
    await items.put(("a", "3"), "10", {"n": 10})

    assert sorted(await names(items, ("a",), filter={"n": {"$gte": 0}}, limit=1_000), key=int) == [
        *map(str, range(450))
    ]
    assert await names(items, ("a",), filter={"n": {"$lt": 11}}, limit=1) == ["10"]


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["a", "b", "c", "d"]),
    ({"color": "red"}, ["a", "b"]),
    ({"color": {"$eq": "red"}}, ["a", "b"]),
    ({"color": {"$ne": "red"}}, ["c", "d"]),
    ({"color": "RED"}, []),
    ({"color": "re%"}, []),
    ({"color": 'r"e\\d'}, ["c"]),
    ({"color": None}, ["d"]),
    ({"n": 1}, ["a"]),
    ({"n": 1.0}, ["a"]),
    ({"n": True}, ["d"]),
    ({"n": {"$gt": 1}}, ["b"]),
    ({"n": {"$gte": 1}}, ["a", "b"]),
    ({"n": {"$lt": 2.5}}, ["a"]),
    ({"n": {"$lte": 2.5}}, ["a", "b"]),
    ({"n": {"$gt": 0, "$lt": 2}}, ["a"]),
    ({"n": {"$gt": "0"}}, ["c"]),
    ({"n": 1, "color": "red"}, ["a"]),
    ({"in": {"deep": 1}}, ["a"]),
    ({"in": {"deep": {"$gt": 1}}}, ["b"]),
    ({"in": {"deep": "x"}}, []),
    ({"tags": ["x", {"y": 1}]}, ["a"]),
    ({"tags": ["x"]}, []),
    ({"missing": {"$ne": 1}}, ["a", "b", "c", "d"]),
]


@pytest.mark.parametrize(("wanted", "found"), FILTERS)
async def test_a_filter_compares_values(items: Items, wanted: dict[str, Any], found: list[str]) -> None:
    values: dict[str, dict[str, Any]] = {
        "a": {"color": "red", "n": 1, "in": {"deep": 1, "more": 2}, "tags": ["x", {"y": 1, "z": 2}]},
        "b": {"color": "red", "n": 2.5, "in": {"deep": 2}, "tags": []},
        "c": {"color": 'r"e\\d', "n": "1"},
        "d": {"n": True, "other": "red"},
    }
    await items.change([ItemChange(namespace=("x",), key=key, value=value) for key, value in values.items()])

    assert sorted(await names(items, ("x",), filter=wanted)) == found


async def test_a_filter_may_want_more_texts_than_a_statement_has_room_for(items: Items) -> None:
    many = {f"k{n}": f"v{n}" for n in range(999)}
    await items.change([ItemChange(namespace=("x",), key=key, value={**many, "k998": key}) for key in ("a", "b")])

    assert await names(items, ("x",), filter={**many, "k998": "a"}) == ["a"]


def nested(levels: int, inside: Any = 1) -> Any:
    for _ in range(levels):
        inside = {"a": inside}
    return inside


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("prefix", {"prefix": "a"}),
        ("prefix", {"prefix": ("a.b",)}),
        ("filter", {"filter": ["a"]}),
        ("filter", {"filter": {"a": {"$like": "b"}}}),
        ("filter", {"filter": {"a": {"b": {"$gt": 1, "c": 2}}}}),
        ("filter", {"filter": {"a": [{"$like": "b"}]}}),
        ("filter", {"filter": {"a": [1, {"b": [{"$gt": 1, "c": 2}]}]}}),
        ("filter", {"filter": {f"k{n}": None for n in range(1_000)}}),
        ("filter", {"filter": {"a": [{f"k{n}": None for n in range(1_000)}]}}),
        ("filter", {"filter": nested(3_000)}),
        ("filter", {"filter": {"a": [nested(3_000)]}}),
        ("limit", {"limit": -1}),
        ("offset", {"offset": True}),
    ],
)
async def test_a_search_for_what_cannot_be_is_refused(items: Items, field: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidQueryError, match=field):
        await items.search(**options)


async def test_namespaces_are_listed_by_how_they_begin_and_end(items: Items) -> None:
    for namespace in [
        ("a", "b", "c"),
        ("a", "b", "d", "e"),
        ("a", "b", "d", "i"),
        ("a", "b", "f"),
        ("a", "c", "f"),
        ("ab",),
    ]:
        for key in "xy":
            await items.put(namespace, key, {})

    async def listed(**options: Any) -> list[str]:
        return ["".join(namespace) for namespace in await items.list_namespaces(**options)]

    assert await listed() == ["abc", "abde", "abdi", "abf", "acf", "ab"]
    assert await listed(prefix=("a", "b"), max_depth=3) == ["abc", "abd", "abf"]
    assert await listed(suffix=("f",)) == ["abf", "acf"]
    assert await listed(prefix=("a", "*"), suffix=("*", "f")) == ["abf", "acf"]
    assert await listed(prefix=("*", "c")) == ["acf"]
    assert await listed(prefix=("ab", "c", "d")) == []
    assert await listed(limit=2, offset=1) == ["abde", "abdi"]
    with pytest.raises(InvalidQueryError, match="max_depth"):
        await listed(max_depth=0)


async def test_what_nobody_uses_in_its_time_is_gone(items: Items, clock: Clock) -> None:
    await items.put(("a",), "short", {}, ttl=10)
    await items.put(("a",), "long", {}, ttl=30)
    await items.put(("b",), "ever", {})
    clock.forward(minutes=11)

    assert await items.get(("a",), "short") is None
    assert await names(items, refresh_ttl=False) == ["ever", "long"]
    assert await items.list_namespaces() == [("a",), ("b",)]
    clock.forward(minutes=20)
    assert await items.list_namespaces() == [("b",)]


async def test_whoever_puts_what_has_expired_makes_something_new(items: Items, clock: Clock) -> None:
    await items.put(("a",), "k", {"old": True}, ttl=1)
    clock.forward(minutes=2)
    await items.put(("a",), "k", {"old": False})
    found = await items.get(("a",), "k")

    assert found is not None
    assert found.created_at == found.updated_at > START + timedelta(minutes=2)


@pytest.mark.parametrize(
    ("use", "stays"),
    [
        (lambda items: items.get(("a",), "k"), True),
        (lambda items: items.search(("a",)), True),
        (lambda items: items.get(("a",), "k", refresh_ttl=False), False),
        (lambda items: items.search(("a",), refresh_ttl=False), False),
        (lambda items: items.list_namespaces(), False),
    ],
)
async def test_what_is_used_has_all_its_time_again(
    items: Items, clock: Clock, use: Callable[[Items], Any], stays: bool
) -> None:
    await items.put(("a",), "k", {}, ttl=10)
    clock.forward(minutes=8)
    await use(items)
    clock.forward(minutes=8)

    found = await items.get(("a",), "k")
    assert (found is not None) is stays
    if found is not None:
        assert found.expires_at == clock.time + timedelta(minutes=10)
        assert found.updated_at < START + timedelta(minutes=1)


class OvertakenReaders:
    """Readers whose results are old when they arrive: something else is done meanwhile."""

    def __init__(self, readers: Any, meanwhile: Callable[[], Any]) -> None:
        self._readers = readers
        self._meanwhile = meanwhile

    async def first(self, *asked: Any) -> Any:
        found = await self._readers.first(*asked)
        await self._meanwhile()
        return found

    async def run(self, read: Any) -> Any:
        found = await self._readers.run(read)
        await self._meanwhile()
        return found


@pytest.mark.parametrize("use", [lambda items: items.get(("a",), "k"), lambda items: items.search(("a",))])
@pytest.mark.parametrize("ttl", [1, 1_440, None])
async def test_who_uses_a_value_does_not_change_how_long_a_newer_one_lives(
    store: Store, items: Items, clock: Clock, use: Callable[[Items], Any], ttl: float | None
) -> None:
    await items.put(("a",), "k", {"n": 1}, ttl=10)
    clock.forward(minutes=8)
    readers: Any = OvertakenReaders(store._readers, lambda: items.put(("a",), "k", {"n": 2}, ttl=ttl))

    await use(Items(store._writer, readers, now=clock))

    found = await items.get(("a",), "k", refresh_ttl=False)
    assert found is not None
    assert (found.value, found.ttl) == ({"n": 2}, ttl)
    assert found.expires_at == (None if ttl is None else found.updated_at + timedelta(minutes=ttl))


async def test_who_has_used_it_before_takes_no_time_from_who_used_it_later(
    store: Store, items: Items, clock: Clock
) -> None:
    await items.put(("a",), "k", {}, ttl=10)
    clock.forward(minutes=5)

    async def use_later() -> None:
        clock.forward(minutes=4)
        await items.get(("a",), "k")

    await Items(store._writer, OvertakenReaders(store._readers, use_later), now=clock).get(("a",), "k")  # type: ignore[arg-type]

    found = await items.get(("a",), "k", refresh_ttl=False)
    assert found is not None
    assert found.expires_at is not None
    assert found.expires_at > START + timedelta(minutes=9 + 10)


async def test_what_has_expired_is_swept(items: Items, clock: Clock, database: Any) -> None:
    many = SWEPT_AT_ONCE + 5
    await items.change([ItemChange(namespace=("a", str(number)), key="k", value={}, ttl=1) for number in range(many)])
    await items.put(("b",), "stays", {})
    clock.forward(minutes=2)

    assert await items.sweep() == many
    assert await items.sweep() == 0
    assert [tuple(row) for row in database.execute("SELECT key FROM items").fetchall()] == [("stays",)]


async def test_the_sweeper_of_a_store_takes_items_along(store: Store, database: Any) -> None:
    await store.items.put(("a",), "gone", {}, ttl=1)
    database.execute("UPDATE items SET expires_at = '2026-01-01T00:00:00.000000Z'")

    await store.sweeper().sweep()

    assert database.execute("SELECT key FROM items").fetchall() == []


async def test_writing_sweeps_now_and_then(items: Items, clock: Clock, database: Any) -> None:
    await items.put(("a",), "gone", {}, ttl=1)
    clock.forward(minutes=2)
    await items.put(("a",), "new", {})

    assert [tuple(row) for row in database.execute("SELECT key FROM items").fetchall()] == [("new",)]


async def test_who_may_only_look_changes_nothing(store: Store, url: str) -> None:
    await store.items.put(("a",), "k", {"n": 1}, ttl=0.001)
    async with Store.open(url, read_only=True) as looking:
        late = Items(looking._writer, looking._readers, now=lambda: datetime.now(UTC) - timedelta(seconds=0.05))
        found = await late.search()
        with pytest.raises(ReadOnlyStoreError):
            await looking.items.put(("a",), "k", {})

    assert [item.value for item in found] in ([{"n": 1}], [])


async def plans_of(store: Store, dialect: str, ask: Callable[[], Any]) -> list[str]:
    """How the database finds what is asked for."""
    seen: list[tuple[str, Any]] = []

    def see(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    engine = await store._readers.run(lambda connection: connection.engine)
    event.listen(engine, "before_cursor_execute", see)
    await ask()
    event.remove(engine, "before_cursor_execute", see)

    def explain(connection: Connection) -> list[str]:
        how = "EXPLAIN QUERY PLAN" if dialect == "sqlite" else "EXPLAIN"
        if dialect == "postgres":  # it scans a table without rows unless that is forbidden
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        selects = [(text, values) for text, values in seen if text.lstrip().startswith("SELECT")]
        plans = [connection.exec_driver_sql(f"{how} {text}", values).all() for text, values in selects]
        return [str(row[-1]) for plan in plans for row in plan]

    return await store._readers.run(explain)


async def test_which_items_are_found_is_told_by_an_index(store: Store, dialect: str) -> None:
    """100,000 items are usual, and their values may be long: only the values of found items are read."""
    plan = [
        *await plans_of(store, dialect, lambda: store.items.search(("a",))),
        *await plans_of(store, dialect, lambda: store.items.list_namespaces(prefix=("a",))),
    ]

    index = "USING COVERING INDEX ix_items_newest (namespace>? AND namespace<?)"
    by_index = [
        line for line in plan if (index if dialect == "sqlite" else "Index Only Scan using ix_items_newest") in line
    ]
    assert len(by_index) == 2, plan
    assert not [line for line in plan if line.startswith("SCAN items") or "Seq Scan" in line], plan
