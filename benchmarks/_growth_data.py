"""Data of a given size, made fast: rows in bulk, by the same SQL on both databases."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing

import asyncpg
from _long_log import fill
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from trackside.app.storage import Store

OF_A_CUSTOMER = 20
"""Threads of each customer, however many threads there are."""
CHECKPOINTED = "a thread with many checkpoints"
_AT_ONCE = 500

_NUMBERS = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})"
_ID = "substr(CAST(10000000 + n AS TEXT), 2)"
_AT = "'2026-01-31T09:30:00.' || substr(CAST(1000000 + n AS TEXT), 2) || 'Z'"
_CUSTOMER = "'\"customer ' || (n % {customers}) || '\"'"
_THREADS = f"""{_NUMBERS}
    INSERT INTO threads (thread_id, status, created_at, updated_at, metadata)
    SELECT 'thread ' || {_ID}, '{{status}}', {_AT}, {_AT}, '{{{{"customer": ' || {_CUSTOMER} || '}}}}' FROM numbers"""
_LABELS = f"""{_NUMBERS}
    INSERT INTO thread_labels (key, value, thread_id)
    SELECT 'customer', {_CUSTOMER}, 'thread ' || {_ID} FROM numbers"""
_RUNS = f"""{_NUMBERS}
    INSERT INTO runs (run_id, thread_id, agent, status, created_at, last_sequence, metadata, request)
    SELECT 'run ' || {_ID}, 'thread ' || {_ID}, 'agent', 'pending', {_AT}, 0, '{{{{}}}}', '{{{{"agent": "agent"}}}}'
    FROM numbers"""
_WAITING = f"""{_NUMBERS}
    INSERT INTO active_runs (run_id, thread_id, state, multitask, holds, portable, agent)
    SELECT 'run ' || {_ID}, 'thread ' || {_ID}, 'pending', 'enqueue', true, true, 'agent' FROM numbers"""


def customers(count: int) -> int:
    """How many customers this many threads belong to."""
    return max(1, count // OF_A_CUSTOMER)


async def log(url: str, count: int) -> None:
    """A log of this many events, written by the store itself."""
    async with Store.open(url, synchronous="NORMAL") as store:
        await fill(store, count)
    await _execute(url, [])


async def threads(url: str, count: int) -> None:
    """This many threads at rest, each with its customer in its metadata."""
    await _execute(url, [_filled(statement, count, "idle") for statement in (_THREADS, _LABELS)])


async def waiting(url: str, count: int) -> None:
    """This many runs that are ready and that nobody owns, each at the head of its thread."""
    await _execute(url, [_filled(statement, count, "busy") for statement in (_THREADS, _LABELS, _RUNS, _WAITING)])


async def checkpoints(url: str, count: int) -> None:
    """This many checkpoints of one thread."""
    async with Store.open(url, synchronous="NORMAL") as store:
        saver = store.checkpointer()
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, count))
            await asyncio.gather(
                *(saver.aput(at_newest(), checkpoint(n), {"step": n}, {"messages": n}) for n in numbers)
            )
    await _execute(url, [])


def at_newest() -> RunnableConfig:
    """The config of the thread that has many checkpoints."""
    return {"configurable": {"thread_id": CHECKPOINTED, "checkpoint_ns": ""}}


def checkpoint(number: int) -> Checkpoint:
    """The next checkpoint: an answer in a channel whose value is new."""
    return {
        **empty_checkpoint(),
        "id": str(uuid6()),
        "channel_values": {"messages": [f"answer {number}: trains run on rails"]},
        "channel_versions": {"messages": number},
    }


async def nothing(url: str, count: int) -> None:
    """The tables alone."""


def _filled(statement: str, count: int, status: str) -> str:
    return statement.format(count=count, customers=customers(count), status=status)


async def _execute(url: str, statements: Sequence[str]) -> None:
    """Run these, then have the database gather its statistics, as it would do after a while by itself."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            for statement in statements:
                connection.execute(statement)
        return
    connected = await asyncpg.connect(url)
    try:
        for statement in [*statements, "VACUUM ANALYZE"]:
            await connected.execute(statement)
    finally:
        await connected.close()
