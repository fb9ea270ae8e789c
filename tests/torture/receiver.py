"""The receiver of webhooks about runs, as a process that may be killed: it answers once what it got is on the disk.

    python -m tests.torture.receiver FILE HOST PORT

A line of JSON in the file is one request. PORT 0 is any free one; it says which it has, and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from webhook_receiver import Connection, WebhookReceiver, status


class KeepingReceiver(WebhookReceiver):
    """Writes down what it gets."""

    def __init__(self, file: Path, *, host: str, port: int) -> None:
        super().__init__(host=host)
        self.port = port
        self.otherwise = self._keep
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def _keep(self, connection: Connection) -> None:
        request = self.requests.pop()  # ours, as nothing has been awaited since it came
        line = {
            "at": time.monotonic_ns(),  # of this machine, whatever its wall clock says
            "path": request.path,
            "id": request.headers.get("webhook-id", ""),
            "body": base64.b64encode(request.body).decode(),
        }
        os.write(self._file, f"{json.dumps(line)}\n".encode())
        os.fdatasync(self._file)
        await status(200)(connection)


def arrivals(file: Path) -> list[dict[str, Any]]:
    """What a receiver has got, in all its lives."""
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    return [line | {"body": base64.b64decode(line["body"])} for line in map(json.loads, lines)]


async def main(arguments: Sequence[str]) -> None:
    """Serve until the process is killed."""
    file, host, port = arguments
    async with KeepingReceiver(Path(file), host=host, port=int(port)) as receiver:
        print(json.dumps({"port": receiver.port}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
