"""What everybody does first with a newly installed package."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from pathlib import Path

from distribution import FreshEnvironment, clean_environment
from extras import FUNCTION


def _asked(url: str, body: object) -> object:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def take_them(environment: FreshEnvironment, project: Path) -> None:
    """Run an agent, look at what is wrong, and serve the agent, in an empty folder.

    Raises:
        AssertionError: any of these steps does not work.
    """
    (project / "function.py").write_text(FUNCTION, "utf-8")
    ran = environment.run(environment.trackside, "run", "function.py:agent", "hello", folder=project)
    assert (ran.returncode, "hello" in ran.stdout) == (0, True), ran.stdout + ran.stderr
    looked = environment.run(environment.trackside, "doctor", folder=project)
    assert looked.returncode == 0, looked.stdout + looked.stderr
    with subprocess.Popen(
        [environment.trackside, "serve", "function.py:agent", "--port", "0", "--json"],
        cwd=project,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line, server.communicate()[1]
            url = json.loads(line)["url"]
            assert _asked(f"{url}/runs/wait", {"assistant_id": "agent", "input": "hello"}) == {"said": "hello"}
            with urllib.request.urlopen(f"{url}/ui/runs", timeout=60) as page:
                assert b"<h1>Runs</h1>" in page.read()
        finally:
            server.send_signal(signal.SIGTERM)
            _, complaints = server.communicate(timeout=60)
    assert (server.returncode, "Traceback" in complaints) == (0, False), complaints
