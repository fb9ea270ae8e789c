"""Listings in pages, both ways, with any filters: exactly the records that fit, in order, none missed, none twice."""

import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trackside.app.storage import Store, StoredRun, StoredThread
from trackside.app.storage._databases.sqlite import session
from trackside.app.storage._reading import listings, queries
from trackside.app.storage._reading.queries import EventListing
from trackside.app.storage.errors import InvalidQueryError

PROPERTY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
async def some_runs(store: Store, script) -> list[StoredRun]:
    """Forty runs, some of which were created at the same moment."""
    for number in range(40):
        start = script().start + timedelta(minutes=number // 3)
        run = script(start=start, thread_id=f"t{number % 7}", run_id=f"{'ab'[number % 2]}{number:02}")
        metadata = {"user": f"u{number % 3}", "attempt": number % 5, "test": number % 2 == 0, "none": None}
        agent, parent = "chat" if number % 4 else "research", {"parent_run_id": f"p{number % 6}"} if number % 2 else {}
        events = [run.started(agent, metadata=metadata, **parent), run.thread("busy")]
        asks = number % 7 in {2, 5} or (number % 7 == 4 and number < 30)
        if number % 5 and asks:
            events += [run.event("run_completed", status="interrupted", completion_data={}), run.thread("interrupted")]
        elif number % 5:
            events += [run.completed() if number % 3 else run.failed(), run.thread("idle" if number % 3 else "error")]
        await store.append(events)
    return await store.runs(limit=1_000)


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["success", "running", ["error", "success"], ["error", "error"], []]),
        "agent": st.sampled_from(["chat", "research", "nobody"]),
        "thread_id": st.sampled_from(["t0", "t1", "nowhere"]),
        "parent_run_id": st.sampled_from(["p1", "p3", "p0"]),
        "metadata": st.sampled_from(
            [{"user": "u1"}, {"user": "u1", "attempt": 2}, {"test": True}, {"test": 1}, {"none": None}, {"x": 1}, {}]
        ),
        "since": st.integers(0, 14),
        "until": st.integers(0, 14),
        "id_prefix": st.sampled_from(["a", "b1", ""]),
        "waiting": st.booleans(),
    },
)


def says(metadata: Any, wanted: dict[str, Any]) -> bool:
    """Whether the metadata has all of this, where True is not 1."""
    return all(key in metadata and repr(metadata[key]) == repr(value) for key, value in wanted.items())


WAITING = {"b33", "b37"}
"""The runs with an open question: the newest of their threads. Others have asked too, and were answered."""


def fits(run: StoredRun, filters: dict[str, Any]) -> bool:
    status = filters.get("status", run.status)
    return (
        run.status in ([status] if isinstance(status, str) else status)
        and run.agent == filters.get("agent", run.agent)
        and run.thread_id == filters.get("thread_id", run.thread_id)
        and run.parent_run_id == filters.get("parent_run_id", run.parent_run_id)
        and says(run.metadata, filters.get("metadata", {}))
        and filters.get("since", run.created_at) <= run.created_at
        and (filters.get("until") is None or run.created_at < filters["until"])
        and run.run_id.startswith(filters.get("id_prefix", ""))
        and (run.run_id in WAITING or not filters.get("waiting"))
    )


async def all_pages(ask: Any, size: int) -> list[Any]:
    """Every record, from the newest to the oldest."""
    found = page = await ask(limit=size)
    while len(page) == size:
        page = await ask(before=page[-1].cursor, limit=size)
        found = [*found, *page]
    return found


async def all_pages_back(ask: Any, size: int, oldest: Any) -> list[Any]:
    """Every record newer than this one, read in pages from there."""
    found: list[Any] = []
    cursor = oldest.cursor
    while page := await ask(after=cursor, limit=size):
        found = [*page, *found]
        cursor = page[0].cursor
    return found


def ids(records: Sequence[StoredRun | StoredThread]) -> list[str]:
    return [record.run_id if isinstance(record, StoredRun) else record.thread_id for record in records]


@pytest.mark.parametrize("few", [listings.FEW, -1], ids=["few records", "many records"])
@PROPERTY
@given(filters=FILTERS, size=st.integers(1, 9))
async def test_pages_of_runs_are_all_that_fit_both_ways(
    store: Store, some_runs, monkeypatch: pytest.MonkeyPatch, few: int, filters: dict[str, Any], size: int
) -> None:
    monkeypatch.setattr(listings, "FEW", few)
    start = some_runs[-1].created_at
    filters = filters | {name: start + timedelta(minutes=filters[name]) for name in {"since", "until"} & {*filters}}
    if "since" in filters and "until" in filters:
        filters["since"], filters["until"] = sorted((filters["since"], filters["until"]))
    expected = [run for run in some_runs if fits(run, filters)]

    async def ask(**page: Any) -> list[StoredRun]:
        return await store.runs(**filters, **page)

    assert ids(await all_pages(ask, size)) == ids(expected)
    oldest = some_runs[-1]
    assert ids(await all_pages_back(ask, size, oldest)) == ids([run for run in expected if run != oldest])


@pytest.mark.parametrize("few", [listings.FEW, -1], ids=["few records", "many records"])
@PROPERTY
@given(
    filters=st.fixed_dictionaries(
        {},
        optional={
            "agent": st.sampled_from(["chat", "research", "nobody"]),
            "metadata": st.sampled_from([{"user": "u1"}, {"user": "u1", "attempt": 2}, {"x": 1}]),
            "status": st.sampled_from(["busy", ["idle", "error"], []]),
            "thread_id": st.sampled_from(["t1", "nowhere"]),
            "id_prefix": st.sampled_from(["t", "t1"]),
        },
    ),
    size=st.integers(1, 4),
)
async def test_pages_of_threads_are_all_that_fit_both_ways(
    store: Store, some_runs, monkeypatch: pytest.MonkeyPatch, few: int, filters: dict[str, Any], size: int
) -> None:
    monkeypatch.setattr(listings, "FEW", few)
    of_runs = {name: filters[name] for name in ("agent", "metadata") if name in filters}
    with_runs = {run.thread_id for run in some_runs if fits(run, of_runs)}
    status = filters.get("status")
    threads = await store.threads(limit=100)
    expected = [
        thread
        for thread in threads
        if thread.thread_id in with_runs
        and (status is None or thread.status in ([status] if isinstance(status, str) else status))
        and thread.thread_id == filters.get("thread_id", thread.thread_id)
        and thread.thread_id.startswith(filters.get("id_prefix", ""))
    ]

    async def ask(**page: Any) -> list[StoredThread]:
        return await store.threads(**filters, **page)

    assert ids(await all_pages(ask, size)) == ids(expected)
    oldest = threads[-1]
    assert ids(await all_pages_back(ask, size, oldest)) == ids([thread for thread in expected if thread != oldest])


async def test_threads_by_when_something_happened_last(store: Store, some_runs) -> None:
    threads = await store.threads()
    middle = threads[3].updated_at

    assert await store.threads(since=middle) == [thread for thread in threads if thread.updated_at >= middle]
    assert await store.threads(until=middle) == [thread for thread in threads if thread.updated_at < middle]


async def test_what_a_cursor_names_may_be_gone(store: Store, some_runs) -> None:
    place = some_runs[10].cursor.replace(some_runs[10].run_id, "never was")

    assert ids(await store.runs(before=place, limit=100)) == [
        run.run_id for run in some_runs if (run.created_at, run.run_id) < (some_runs[10].created_at, "never was")
    ]


@pytest.mark.parametrize("few", [queries.FEW_RUNS, -1], ids=["through the runs", "through the log"])
@pytest.mark.parametrize(
    "filters",
    [
        {"thread_id": "t1"},
        {"thread_id": "t1", "agent": "chat"},
        {"thread_id": "t1", "status": "error"},
        {"types": "run_failed"},
        {"types": ["run_failed", "run_cancelled"]},
        {"types": ["run_failed", "run_started"]},
        {"types": "run_failed", "agent": "research"},
        {"types": "run_failed", "run_id": "a00"},
        {"types": "run_cancelled"},
        {"types": []},
    ],
    ids=str,
)
async def test_pages_of_events_are_all_that_fit_both_ways(
    store: Store, some_runs, monkeypatch: pytest.MonkeyPatch, few: int, filters: dict[str, Any]
) -> None:
    monkeypatch.setattr(queries, "FEW_RUNS", few)
    of_runs = {name: value for name, value in filters.items() if name in {"thread_id", "agent", "status"}}
    chosen = {run.run_id for run in some_runs if fits(run, of_runs)} & {filters.get("run_id")} or {
        run.run_id for run in some_runs if fits(run, of_runs)
    }
    types = filters.get("types")
    expected = [
        stored.position
        for stored in await store.events()
        if stored.event.run_id in chosen
        and filters.get("run_id", stored.event.run_id) == stored.event.run_id
        and (types is None or stored.event.event_type in ([types] if isinstance(types, str) else types))
    ]

    up: list[int] = []
    while page := await store.events(up[-1] if up else 0, **filters, limit=3):
        up += [stored.position for stored in page]
    down: list[int] = []
    while page := await store.events(before=down[-1] if down else None, newest_first=True, **filters, limit=3):
        down += [stored.position for stored in page]

    assert up == expected
    assert down == expected[::-1]


async def test_a_run_comes_with_all_its_events(store: Store, script) -> None:
    run = script()
    stored = await store.append(run.whole())
    await store.append(script().whole())

    found = await store.run_with_events(run.run_id)

    assert found is not None
    assert found.run == await store.run(run.run_id)
    assert found.events == stored
    assert await store.run_with_events("nobody's") is None


async def test_events_since_a_time_are_found_wherever_in_the_log_they_are(
    store: Store, script, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (queries, session):
        monkeypatch.setattr(module, "EVENTS_AT_A_TIME", 4)
    start = script().start
    # A run of yesterday came late, after one of today; and one transaction spans several parts of the log.
    for days in (0, 5, 1, 0, 7, 1):
        await store.append(script(start=start + timedelta(days=days)).whole())
    await store.append([event for _ in range(3) for event in script(start=start + timedelta(days=6)).whole()])
    stored = await store.events()

    for days in (0, 1, 5, 6, 7, 8):
        since = start + timedelta(days=days)
        expected = [one.position for one in stored if one.event.occurred_at >= since]
        assert [one.position for one in await store.events(since=since)] == expected
        assert [one.position for one in await store.events(since=since, newest_first=True)] == expected[::-1]
        assert [one.position for one in await store.events(7, since=since)] == [p for p in expected if p > 7]


async def test_events_since_a_time_are_found_without_those_before(store: Store, dialect: str, script) -> None:
    await store.append([event for _ in range(1_000) for event in script().whole()])
    late = script(start=script().start + timedelta(days=1))
    await store.append(late.whole())

    begin = await store._readers.run(
        lambda connection: listing_since(script().start + timedelta(hours=1))._begin(connection)
    )

    assert begin == 4_095
    assert await store.run_with_events(late.run_id) is not None
    assert len(await store.events(since=late.start)) == 5


def listing_since(since: datetime) -> EventListing:
    nothing = dict.fromkeys(("before", "run_id", "thread_id", "agent", "status", "types", "owner"))
    return EventListing.of(after=0, newest_first=False, since=since, limit=10, **nothing)


@PROPERTY
@given(data=st.data())
async def test_events_of_some_runs_are_found_in_whatever_stretch_of_the_log_they_are(
    path: Path, sqlite_with_tables: Path, script, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    for module in (queries, session):
        monkeypatch.setattr(module, "EVENTS_AT_A_TIME", 4)
    monkeypatch.setattr(queries, "FEW_RUNS", data.draw(st.sampled_from([-1, 0, 1, 2])))
    shutil.copy(sqlite_with_tables, path)
    # Runs of any age, whose events come singly and take turns, so that some runs span the whole log.
    waiting = [
        script(start=script().start + timedelta(days=day), thread_id=f"t{day % 2}").whole()
        for day in data.draw(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
    ]
    agents = data.draw(st.lists(st.sampled_from(["rare", "often"]), min_size=len(waiting), max_size=len(waiting)))
    rare = set[str]()
    async with Store.open(f"sqlite:///{path}") as store:
        for events, agent in zip(waiting, agents, strict=True):
            events[0].payload["agent"] = agent
            if agent == "rare":
                rare.add(events[0].run_id)
        while waiting:
            events = data.draw(st.sampled_from(waiting))
            await store.append([events.pop(0)])
            waiting = [events for events in waiting if events]
        all_of_them = await store.events()
        begin = data.draw(st.integers(0, len(all_of_them)))
        limit = data.draw(st.integers(1, 9))

        expected = [one for one in all_of_them if one.event.run_id in rare and one.position > begin]
        assert await store.events(begin, agent="rare", limit=limit) == expected[:limit]
        assert await store.events(begin, agent="rare", newest_first=True, limit=limit) == expected[::-1][:limit]
        of_thread = [one for one in expected if one.event.thread_id == "t1"]
        assert (
            await store.events(begin, agent="rare", thread_id="t1", status="success", limit=limit) == of_thread[:limit]
        )


async def test_a_position_behind_the_end_is_refused_and_the_end_itself_is_not(store: Store, script) -> None:
    stored = await store.append(script().whole())

    assert await store.events(stored[-1].position) == []
    with pytest.raises(InvalidQueryError, match=r"after=6: the log ends at 5"):
        await store.events(6)


@pytest.mark.parametrize("method", ["runs", "threads"])
@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("after", {"after": "2026-01-01T00:00:00Z/a", "before": "2026-01-01T00:00:00Z/a"}),
        ("after", {"after": "2026-01-01T00:00:00Z"}),
        ("after", {"after": 7}),
        ("before", {"before": "yesterday/a"}),
        ("before", {"before": "2026-01-01T00:00:00/a"}),
        ("before", {"before": "2026-01-01T00:00:00Z/\0"}),
        ("until", {"until": "now"}),
        ("metadata", {"metadata": "user"}),
        ("metadata", {"metadata": {"share": 0.5}}),
        ("metadata", {"metadata": {"list": [1]}}),
        ("metadata", {"metadata": {"long": "x" * 1_000}}),
        ("metadata", {"metadata": {"nul": "\0"}}),
        ("metadata", {"metadata": {7: "x"}}),
        ("limit", {"limit": -1}),
        ("limit", {"limit": 0}),
        ("status", {"status": "asleep"}),
    ],
    ids=str,
)
async def test_what_cannot_be_looked_up_is_refused_by_name(
    store: Store, method: str, field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidQueryError, match=f"Nothing can be looked up with {field}="):
        await getattr(store, method)(**arguments)


async def test_an_unknown_filter_is_refused(store: Store) -> None:
    with pytest.raises(TypeError, match="colour"):
        await store.runs(colour="red")
