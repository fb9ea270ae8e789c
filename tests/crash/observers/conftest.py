"""Processes to kill, databases of both kinds for them, and brokers."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from crash_children import Children
from delivery_fleet import Brokers
from nats_server import NatsServer
from valkey_server import ValkeyServer
from webhook_receiver import NEW


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOOK_SECRET", NEW)
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # including what pytest has added
        with closing(Children(Path(__file__).with_name("delivery_child.py"))) as children:
            yield children


@pytest.fixture(scope="module")
def brokers() -> Iterator[Brokers]:
    with NatsServer() as nats, ValkeyServer() as valkey:
        yield Brokers(nats, valkey)
