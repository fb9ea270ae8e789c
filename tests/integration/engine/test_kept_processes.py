"""A local fleet restarts a process that dies, whatever has become of its files."""

import asyncio
import signal
from pathlib import Path

from trackside.app.engine.local.children import Child, Guard, Launch
from trackside.app.engine.local.members import Happening, Keeper, Member, MemberKind

ENDS_WHEN_ASKED = "trap 'exit 3' USR1; echo ready; while :; do sleep 0.02; done"


async def until_ready(child: Child) -> None:
    while not (await asyncio.to_thread(child.launch.log.stat)).st_size:
        await asyncio.sleep(0.01)


async def test_a_process_whose_log_somebody_has_removed_is_started_again(tmp_path: Path) -> None:
    happened: asyncio.Queue[Happening] = asyncio.Queue()
    launch = Launch(command=["sh", "-c", ENDS_WHEN_ASKED], log=tmp_path / "worker.log", cwd=tmp_path)
    member = Member("worker-1", MemberKind.worker)
    async with asyncio.timeout(60), Guard() as guard:
        keeper = Keeper(member, launch, until_ready, guard=guard, say=happened.put_nowait, pause=0.01)
        await keeper.begin()
        assert (await happened.get()).what == "is up"
        await asyncio.to_thread(launch.log.unlink)
        keeper.signal(signal.SIGUSR1)
        assert (await happened.get()).what == "ended with 3"
        assert (await happened.get()).what == "is up again"
        await keeper.stop(5.0)
