"""Crons whose threads are gone are disabled: otherwise they would run on another thread that gets the same id."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select, update

from trackside.app.storage._databases.session import Session
from trackside.app.storage._rows.client_tables import crons
from trackside.harness.errors import UnknownThreadError


def disable_crons(session: Session, gone: Mapping[str, str]) -> None:
    """Disable the crons of threads that are gone since these times.

    No index leads to the crons of a thread, so those of all threads of a transaction are looked for at once.
    """
    if not gone:
        return
    is_theirs = (crons.c.thread_id.in_([*gone]), crons.c.enabled.is_(True))
    for cron_id, thread_id in session.execute(select(crons.c.cron_id, crons.c.thread_id).where(*is_theirs)):
        why = str(UnknownThreadError(thread_id=thread_id))
        changes = {"enabled": False, "disabled_because": why, "next_run_at": None, "updated_at": gone[thread_id]}
        session.execute(update(crons).where(crons.c.cron_id == cron_id).values(changes))
