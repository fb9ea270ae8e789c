"""Makes processes that work on a database until they are killed, and passes on what they say: see `crash_forking`."""

import asyncpg  # noqa: F401  # this and the next two for those who would import them later, each for itself
import sqlalchemy.dialects.postgresql.asyncpg
import sqlalchemy.ext.asyncio  # noqa: F401
from crash_attempts import lose_attempts
from crash_cast import clear_up, perform
from crash_forking import fork_for_orders
from crash_log import append_runs, follow_log, page_log
from crash_manager import manage_runs
from crash_zombie import haunt, talk

WORK = {
    "manage": manage_runs,
    "append": append_runs,
    "follow": follow_log,
    "page": page_log,
    "attempts": lose_attempts,
    "perform": perform,
    "clear up": clear_up,
    "haunt": haunt,
    "talk": talk,
}

if __name__ == "__main__":
    fork_for_orders(WORK)
