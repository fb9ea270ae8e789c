"""Following a manager's runs while they go on."""

import asyncio

from trackside import RunManager, RunSpec
from trackside.app.observers.live import FollowEnd, LiveEvent, LiveObserver
from trackside.harness.ids import new_id


async def test_a_thousand_readers_follow_a_run_from_before_its_start_to_its_end() -> None:
    async def agent(input: str) -> str:
        await asyncio.sleep(0)
        return input

    async def read(run_id: str) -> list[tuple[int, str]]:
        async with live.follow(run_id, expected=True) as events:
            seen = [(i.event.sequence, i.event.event_type.value) async for i in events if isinstance(i, LiveEvent)]
        assert events.end is FollowEnd.finished
        return seen

    live, run_id = LiveObserver(), new_id()
    async with RunManager({"agent": agent}, observers=[live]) as manager:
        readers = [asyncio.create_task(read(run_id)) for _ in range(1_000)]
        await asyncio.sleep(0)
        run = await manager.start(RunSpec("agent", "hello", run_id=run_id))
        await run.result()
        first, *others = await asyncio.gather(*readers)
    assert first == [
        (1, "run_started"),
        (2, "thread_status_updated"),
        (3, "human_message"),
        (4, "run_completed"),
        (5, "thread_status_updated"),
    ]
    assert all(other == first for other in others)
    assert live.stats().readers == 0
    await live.aclose()
