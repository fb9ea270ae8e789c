"""Crons: kept, found, changed by one caller at a time, due; on both databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trackside.app.storage import Store
from trackside.app.storage import crons as crons_module
from trackside.app.storage.crons import Cron
from trackside.app.storage.errors import CronExistsError, InvalidQueryError
from trackside.harness.ids import new_id

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def cron(number: int = 0, **fields: Any) -> Cron:
    when = NOON + number * MINUTE
    made: dict[str, Any] = {
        "cron_id": new_id(),
        "agent": "chat",
        "schedule": "* * * * *",
        "created_at": when,
        "updated_at": when,
    }
    return Cron(**made | fields)


async def kept(store: Store, *made: Cron) -> list[Cron]:
    for one in made:
        await store.crons.create(one)
    return [*made]


async def test_what_a_search_compares_is_compared_beside_the_event_loop(
    store: Store, compared: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crons_module, "_ROWS_AT_ONCE", 2)
    made = await kept(store, *[cron(number, metadata={"of": {"n": number // 4}}) for number in range(7)])

    page = await store.crons.search(wanted={"of": {"n": 0}}, descending=False, offset=1)
    assert (page.crons, page.total) == (made[1:4], 4)
    assert len(compared) == 7


async def test_a_cron_is_kept_as_it_is(store: Store) -> None:
    made = cron(
        thread_id=new_id(),
        timezone="Europe/Berlin",
        end_time=NOON + 9 * MINUTE,
        enabled=False,
        disabled_because="its thread is gone",
        on_run_completed="keep",
        payload={"input": {"text": "ä"}},
        metadata={"team": "red"},
        owner="ada",
        next_run_at=NOON,
    )
    await kept(store, made)

    assert await store.crons.get(made.cron_id) == made
    assert await store.crons.get(made.cron_id, owner="ada") == made
    assert await store.crons.get(made.cron_id, owner="eve") is None
    assert await store.crons.get(new_id()) is None


async def test_a_cron_whose_id_another_has_is_refused_and_that_stays(store: Store) -> None:
    (made,) = await kept(store, cron(cron_id="digest"))
    heard: list[str] = []
    store.crons.on_change.append(lambda: heard.append("changed"))

    for another in (made, cron(1, cron_id="digest", agent="other", owner="eve")):
        with pytest.raises(CronExistsError, match="'digest'"):
            await store.crons.create(another)
    assert await store.crons.search() == ([made], 1)
    assert heard == []
    assert await store.crons.delete("digest")
    await store.crons.create(another)
    assert await store.crons.get("digest") == another


@pytest.mark.parametrize(
    "wrong",
    [{"agent": "a" * 256}, {"thread_id": "t" * 256}, {"owner": "o\0"}, {"schedule": "\ud800"}, {"timezone": 5}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_cron_whose_texts_cannot_be_kept_is_refused_by_the_name_of_one(
    store: Store, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidQueryError, match=next(iter(wrong))):
        await store.crons.create(cron(**wrong))
    (seen,) = await kept(store, cron())
    with pytest.raises(InvalidQueryError, match=next(iter(wrong))):
        await store.crons.replace(seen, replace(seen, **wrong))
    assert await store.crons.get(seen.cron_id) == seen


async def test_of_two_who_change_a_cron_at_once_one_does(store: Store) -> None:
    (seen,) = await kept(store, cron(next_run_at=None))

    assert await store.crons.replace(seen, replace(seen, next_run_at=NOON))
    assert not await store.crons.replace(seen, replace(seen, next_run_at=NOON + MINUTE))
    found = await store.crons.get(seen.cron_id)
    assert found is not None
    assert found.next_run_at == NOON
    later = replace(found, updated_at=NOON + MINUTE, metadata={"a": 1})
    assert await store.crons.replace(found, later)
    assert not await store.crons.replace(found, replace(found, next_run_at=None))
    assert await store.crons.get(seen.cron_id) == later


async def test_a_cron_that_is_gone_is_not_changed(store: Store) -> None:
    (made,) = await kept(store, cron(owner="ada"))

    assert not await store.crons.delete(made.cron_id, owner="eve")
    assert await store.crons.delete(made.cron_id, owner="ada")
    assert not await store.crons.delete(made.cron_id)
    assert not await store.crons.replace(made, replace(made, enabled=False))
    assert await store.crons.get(made.cron_id) is None


async def test_the_crons_of_a_thread_that_is_removed_are_disabled_with_it(store: Store) -> None:
    threads = store.threads_of(None)
    gone, other = [(await threads.create()).thread_id for _ in range(2)]
    its_own, *others = await kept(
        store,
        cron(thread_id=gone, next_run_at=NOON),
        cron(1, thread_id=gone, enabled=False, disabled_because="it does not fit"),
        cron(2, thread_id=other, next_run_at=NOON),
        cron(3, next_run_at=NOON),
    )

    await threads.remove(gone)

    found = await store.crons.get(its_own.cron_id)
    assert found is not None
    assert (found.enabled, found.next_run_at) == (False, None)
    assert gone in str(found.disabled_because)
    assert found.updated_at > its_own.updated_at
    assert not await store.crons.replace(its_own, replace(its_own, next_run_at=NOON + MINUTE))
    assert [await store.crons.get(one.cron_id) for one in others] == others


async def test_crons_are_found_by_what_they_are(store: Store) -> None:
    thread = new_id()
    a, b, c, d, e = await kept(
        store,
        cron(1, agent="a", owner="ada", thread_id=thread),
        cron(2, agent="b", owner="ada", enabled=False, metadata={"team": "red", "n": 1}),
        cron(3, agent="a", owner="eve", metadata={"team": "red", "n": True}),
        cron(4, agent="a", metadata={"team": ["red"]}),
        cron(5, agent="d", metadata={"team": {"name": "red", "sizes": [{"a": 1, "b": 2.0}]}}),
    )

    async def found(**wanted: Any) -> list[Cron]:
        page = await store.crons.search(**wanted)
        assert page.total == len(page.crons)
        return page.crons

    assert await found() == [e, d, c, b, a]
    assert await found(agent="a", owner="ada") == [a]
    assert await found(thread_id=thread) == [a]
    assert await found(enabled=False) == [b]
    assert await found(metadata={"team": "red"}) == [c, b]
    assert await found(metadata={"team": "red", "n": 1}) == [b]
    assert await found(metadata={"team": ["red"]}) == [d]
    assert await found(metadata={"team": {"sizes": [{"b": 2.0, "a": 1}], "name": "red"}}) == [e]
    assert await found(metadata={"team": {"sizes": [{"b": 2, "a": 1}], "name": "red"}}) == []
    assert await found(metadata={"team": {"name": "red"}}) == []
    assert await found(agent="c") == []
    assert (await store.crons.agents(), await store.crons.agents(owner="ada")) == (["a", "b", "d"], ["a", "b"])


async def test_a_page_is_a_part_and_says_how_many_there_are(store: Store) -> None:
    first, second, third = await kept(
        store,
        cron(1, next_run_at=NOON + MINUTE, metadata={"team": "red"}),
        cron(2, next_run_at=NOON, metadata={"team": "red"}),
        cron(3, metadata={"team": "red"}),
    )

    assert await store.crons.search(limit=1, offset=1) == ([second], 3)
    assert await store.crons.search(metadata={"team": "red"}, limit=1, offset=1) == ([second], 3)
    assert (await store.crons.search(sort_by="next_run_at", descending=False)).crons == [second, first, third]
    assert (await store.crons.search(sort_by="next_run_at")).crons == [first, second, third]
    assert await store.crons.search(limit=0) == ([], 3)
    with pytest.raises(InvalidQueryError, match="sort_by"):
        await store.crons.search(sort_by="payload")  # type: ignore[arg-type]  # on purpose


async def test_a_search_by_metadata_reads_whole_only_what_it_shows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cron's request may be long, and is decoded on the event loop."""
    made = await kept(store, *[cron(number, metadata={"team": "red"}) for number in range(250)])
    whole: list[Any] = []
    read = crons_module._cron_of
    monkeypatch.setattr(crons_module, "_cron_of", lambda row: whole.append(row) or read(row))

    page = await store.crons.search(metadata={"team": "red"}, limit=120, offset=3)

    assert page == (made[::-1][3:123], 250)
    assert len(whole) == 120


async def test_what_is_due_longest_comes_first(store: Store) -> None:
    late, later, other, never = await kept(
        store,
        cron(next_run_at=NOON + MINUTE),
        cron(next_run_at=NOON + 2 * MINUTE),
        cron(agent="gone", next_run_at=NOON),
        cron(),
    )
    now = NOON + MINUTE

    assert await store.crons.due(now, {"chat"}) == [late]
    assert await store.crons.due(NOON + 9 * MINUTE, {"chat"}) == [late, later]
    assert await store.crons.due(NOON + 9 * MINUTE, {"chat"}, limit=1) == [late]
    assert await store.crons.due(now, ()) == []
    assert await store.crons.unknown(now, {"chat"}) == [other]
    assert await store.crons.unknown(now, {"chat", "gone"}) == []
    assert await store.crons.next_due({"chat"}) == NOON + MINUTE
    assert await store.crons.next_due({"gone"}) == NOON
    assert await store.crons.next_due({"chat"}, after=now) == NOON + 2 * MINUTE
    assert await store.crons.next_due({"chat"}, after=NOON + 2 * MINUTE) is None
    assert await store.crons.next_due(()) is None
    coming = sorted([late, later, other], key=lambda one: one.cron_id)
    assert await store.crons.upcoming(None) == coming
    assert await store.crons.upcoming(coming[0], limit=1) == [coming[1]]
    assert never not in coming


async def test_who_waits_hears_of_changes_here(store: Store) -> None:
    heard: list[str] = []
    store.crons.on_change.append(lambda: heard.append("changed"))

    (made,) = await kept(store, cron())
    await store.crons.replace(made, replace(made, next_run_at=NOON))
    await store.crons.delete(made.cron_id)

    assert len(heard) == 3
