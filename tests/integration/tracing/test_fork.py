"""I24: after a fork, the child sends no span of its parent's, and sends its own over its own connection."""

import json
import os
import subprocess
import sys

import pytest
from otlp_receiver import OtlpReceiver

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PROGRAM = """
import asyncio, dataclasses, json, os, sys
from trackside.app.observers.tracing import TracingObserver, _observer
from trackside.harness.types import LifecycleEventType
from trackside.testing import make_event

async def tell(kind, run_id, sequence=1, **says):
    says = {"agent": run_id, **says}
    await observer.on_event(make_event(LifecycleEventType(kind), run_id=run_id, sequence=sequence, payload=says))

async def before():
    await tell("run_started", "sent")
    await tell("run_completed", "sent", 2)
    await observer.flush(60)
    await tell("run_started", "goes-on")
    await tell("run_started", "waits")
    await tell("run_completed", "waits", 2)

async def child():
    await tell("run_started", "childs")
    await tell("run_completed", "childs", 2)
    await observer.aclose()
    print(json.dumps(dataclasses.asdict(observer.stats())), flush=True)

async def parent():
    await tell("run_completed", "goes-on", 2)
    await observer.aclose()
    print(json.dumps(dataclasses.asdict(observer.stats())), flush=True)

_observer._CLOSE_SECONDS = 60.0
observer = TracingObserver(endpoint=sys.argv[1])
asyncio.run(before())
if not (pid := os.fork()):
    asyncio.run(child())
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
asyncio.run(parent())
"""


def test_a_childs_spans_are_its_own(receiver: OtlpReceiver) -> None:
    command = [sys.executable, "-c", PROGRAM, receiver.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    child, parent = (json.loads(line) for line in done.stdout.splitlines())
    assert child == {"ended": 1, "exported": 1, "failed": 0, "dropped": 0, "pending": 0}
    assert parent == {"ended": 3, "exported": 3, "failed": 0, "dropped": 0, "pending": 0}
    names = sorted(span.name.removeprefix("invoke_agent ") for span in receiver.spans)
    assert names == ["childs", "goes-on", "sent", "waits"]
    assert not [span for span in receiver.spans if "trackside.span.cut" in span.attributes]
