"""A killed worker process: the database has it until its lease ends, and others are told meanwhile."""

import asyncio
import subprocess
import sys
import textwrap

from tests.integration.engine.postgres.conftest import Fleet, until

from trackside.app.storage import Store
from trackside.app.storage.fleet import FleetMember, ReadyRun

WORKER = textwrap.dedent("""
    import asyncio, sys
    from trackside.app.engine.postgres import open_postgres
    from trackside.app.storage import Store
    from trackside.app.storage.fleet import FleetMember

    async def main():
        async with Store.open(sys.argv[1]) as store, open_postgres(store) as engine:
            on_stop = lambda run_id: print("stop", run_id, flush=True)
            async with engine.join("process", ["default"], on_stop=on_stop) as offers:
                offers.note_free(100)
                while True:
                    offer = await offers.next()
                    offers.note_free(100)
                    offer.done()
                    print(offer.run_id, flush=True)

    asyncio.run(main())
""")


async def test_a_killed_worker_does_not_keep_others_from_being_told(fleet: Fleet) -> None:
    server, here = await fleet.engine(), await fleet.engine()
    await fleet.heard_by(server, here)
    process = subprocess.Popen([sys.executable, "-W", "error", "-c", WORKER, fleet.url], stdout=-1, text=True)
    assert process.stdout is not None
    try:
        await until(lambda: "process" in server._dispatch._directory._workers)  # it has said that it listens
        worker = await fleet.worker(here, "here", places=100)
        await worker.until_idle()
        await fleet.heard_by(server, here)
        server.ask_to_stop("process", "run 0")
        while (said := await asyncio.to_thread(process.stdout.readline)) == "None\n":
            pass
        assert said == "stop run 0\n"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    for round_ in range(2):  # as the sweeper does: the second time it tells another worker
        server.announce([ReadyRun("run 1"), ReadyRun("run 2")])
        await fleet.heard_by(server, here)
        assert round_ or "run 1" in worker.runs or "run 2" in worker.runs
    await until(lambda: {"run 1", "run 2"} <= {*worker.runs})


async def test_workers_in_the_store_are_told(fleet: Fleet) -> None:
    here = await fleet.engine()
    member = FleetMember(kind="worker", pool_of=lambda agent: "gpu", pools=("gpu",), capacity=4)
    async with Store.open(fleet.url) as store:
        coordinator = store.coordinator(fleet=member)
        await coordinator._enrolment.enroll()
        worker = await fleet.worker(here, coordinator.worker_id, "gpu", places=4)
        await worker.until_idle()
        fleet.stored = await store.fleet.workers()
        server = await fleet.engine()  # this server has not heard the worker

        server.announce([ReadyRun("run", "gpu")])
        await until(lambda: worker.runs == ["run"])
