"""Moments at which a process that delivers kills itself, by name: at "before park 2", just before its second `park`.

A moment is around what a consumer does, around a call of an observer, or around a transaction of the writer.
"""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from time import time_ns
from typing import Any

from crash_points import DeadlyPoint
from crash_voice import Voice

from trackside.app.storage._feeding.delivery import Calls
from trackside.app.storage.subscriptions import SubscriptionConsumer, Subscriptions

WHILE_OFFERING = "while offering"
"""At any moment of a call: before the receiver has the event, when it has it, or when it has said so."""
FATES = [
    "after acquire 1",
    "after acquire 2",
    "after acquire 3",
    "after read 1",
    "after read 7",
    f"{WHILE_OFFERING} 1",
    f"{WHILE_OFFERING} 20",
    "after offer 1",
    "after offer 9",
    "after offer 40",
    "before acknowledge 1",
    "before acknowledge 4",
    "after acknowledge 1",
    "after acknowledge 4",
    "before park 1",
    "after park 1",
    "after park 2",
    "after note_failure 2",
    "written Acquire 2",
    "committed Acquire 1",
    "written Acknowledge 1",
    "committed Acknowledge 3",
    "written Park 1",
    "committed Park 1",
]
_STEPS = {
    "acquire": Subscriptions,
    "read": SubscriptionConsumer,
    "acknowledge": SubscriptionConsumer,
    "park": SubscriptionConsumer,
    "note_failure": SubscriptionConsumer,
    "offer": Calls,
}
_LONGEST_CALL = 0.004
"""Seconds that a call takes, more or less."""


def meet_fate(fate: str, voice: Voice) -> None:
    """From now on, die when this moment has come as often as the fate says."""
    moment, number = fate.rsplit(" ", 1)
    word, step = moment.split(" ", 1)
    if step in _STEPS or moment == WHILE_OFFERING:
        fated = _Fated(word, int(number), voice)
        name = "offer" if moment == WHILE_OFFERING else step
        setattr(_STEPS[name], name, fated.on(getattr(_STEPS[name], name)))
    else:
        DeadlyPoint(word, step, int(number)).install()


class _Fated:
    def __init__(self, moment: str, number: int, voice: Voice) -> None:
        self._moment = moment
        self._left = number
        self._voice = voice

    def on(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def fated(*args: Any, **options: Any) -> Any:
            self._at("before")
            if self._moment == "while" and self._counts_down():
                asyncio.get_running_loop().call_later(random.uniform(0, _LONGEST_CALL), self._die)
            result = await method(*args, **options)
            self._at("after")
            return result

        return fated

    def _at(self, moment: str) -> None:
        if moment == self._moment and self._counts_down():
            self._die()

    def _counts_down(self) -> bool:
        self._left -= 1
        return self._left == 0

    def _die(self) -> None:
        self._voice.say(f"dying {time_ns()}")
        os.kill(os.getpid(), signal.SIGKILL)
