"""Trackside runs agents and tells everyone who needs to know.

    import asyncio
    from trackside import run_agent

    async def agent(input, run):
        return {"answer": 42}

    async def watch(event):
        print(event.sequence, event.event_type, event.payload)

    print(asyncio.run(run_agent(agent, "question", observer=watch)))

The names here are those of `trackside.harness`, which runs agents and announces what happens to them. `trackside.app`
is the other side of the announcements: storage, observers, the command line. Imports go one way: `trackside.app` and
`trackside.testing` import `trackside.harness`, and the harness imports neither. `import trackside` loads no framework,
web or SQL module.
"""

from trackside import harness
from trackside._version import __version__
from trackside.harness import *  # noqa: F403  # its `__all__`, and no name more

__all__ = ["__version__"]
__all__ += harness.__all__
