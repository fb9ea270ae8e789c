"""What a database is and holds is told without counting anything numerous."""

from tests.integration.storage.test_storage_plans import plans_of

from trackside.app.storage import Store


async def test_a_database_says_what_it_holds_and_who_works_with_it(store: Store, script, dialect: str) -> None:
    coordinator = store.coordinator()
    run = script()
    await store.append(run.whole())
    await store.append([script().started()])
    await store.append(script(thread_id=run.thread_id).whole())
    ended = await store.facts()

    assert ended.kind == ("sqlite" if dialect == "sqlite" else "postgresql")
    assert (ended.events, ended.runs, ended.threads) == (11, 3, 2)
    assert ended.oldest_event_at == run.start
    assert ended.size_bytes > 100_000
    assert ended.workers == []  # nobody has let in a run yet
    await coordinator.aclose()
    plans = await plans_of(store, dialect, store.facts)
    if dialect == "sqlite":
        lines = [str(row[-1]) for plan in plans for row in plan]
        few = tuple(f"SCAN {name}" for name in ("workers", "alembic_version", "anon_", "counters"))
        whole = [line for line in lines if line.startswith("SCAN") and not line.startswith(few)]
        assert whole == ["SCAN events"]  # for its first row
