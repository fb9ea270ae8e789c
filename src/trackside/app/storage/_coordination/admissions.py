"""Turns what is asked for into the work that lets a run in."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from trackside.app.storage._coordination.own_runs import OwnRuns
from trackside.app.storage._coordination.steps import Admit
from trackside.app.storage._reading.run_records import start_of
from trackside.app.storage._rows.encoding import json_text, time_text
from trackside.app.storage._rows.lifetimes import lifetime_of
from trackside.app.storage.fleet import FleetMember
from trackside.harness.admission import request_of
from trackside.harness.errors import PayloadError
from trackside.harness.payload import canonical_payload
from trackside.harness.ports import IdempotencyKey
from trackside.harness.types import RunRecord, RunSpec

logger = logging.getLogger("trackside.storage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Admissions:
    """What one worker writes to let runs in: whose they are, and what is kept of what was asked for."""

    owner: str
    own: OwnRuns
    durable: bool
    """Whether other processes execute its runs that have not started when it goes."""
    keeps_requests: bool
    fleet: FleetMember | None

    def work_of(self, record: RunRecord, spec: RunSpec | None, idempotency: IdempotencyKey | None) -> Admit:
        """The work that lets this run in.

        Raises:
            PayloadError: what was asked for cannot be kept.
        """
        request = None if spec is None else self._request_of(spec, record)
        work = Admit(
            run_id=record.run_id,
            thread_id=record.thread_id,
            owner=self.owner,
            start=start_of(record, request),
            multitask=record.multitask,
            due_at=None if record.due_at is None else time_text(record.due_at),
            portable=self.durable and request is not None,
            keeps_request=self.keeps_requests,
            idempotency=idempotency,
            fates=self.own.fates,
        )
        if self.fleet is not None and request is not None:
            work.pool, work.version = self.fleet.pool_of(record.agent), self.fleet.version
            work.nobodys = record.parent_run_id is None or record.parent_run_id not in self.own
            if record.due_at is not None and work.nobodys:  # the scheduler's machine may have another time
                work.due_in = (record.due_at - record.created_at).total_seconds()
        if spec is not None:
            _ask_for_thread(work, record, spec)
        return work

    def _request_of(self, spec: RunSpec, record: RunRecord) -> str | None:
        """What was asked for, as JSON text; None if it need not be kept.

        Raises:
            PayloadError: it cannot be read, and another process would need it.
        """
        if not (self.durable or self.keeps_requests):
            return None
        try:
            return json_text(request_of(spec, record.agent))
        except PayloadError as exc:
            if self.durable:
                raise
            logger.warning("the request of run %s is not kept: %s", record.run_id, exc)
            return None


def _ask_for_thread(work: Admit, record: RunRecord, spec: RunSpec) -> None:
    work.asks_for, work.any_owner = spec.owner, spec.any_owner
    work.thread_exists, work.thread_ends = spec.thread_exists, spec.thread_ends
    if spec.thread_ttl is not None:
        work.lifetime = lifetime_of(spec.thread_ttl, record.created_at, field="thread_ttl")
    if spec.thread_metadata:
        as_the_run = spec.thread_metadata == spec.metadata  # then also without what a hook took out
        metadata = record.metadata if as_the_run else spec.thread_metadata
        work.thread_metadata = canonical_payload(metadata, path="thread_metadata")
