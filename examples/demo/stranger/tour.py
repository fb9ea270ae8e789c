"""A stranger's way through README.md: each step is typed as it stands there, then its result is checked."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from demo.stranger.asking import Connection
from demo.stranger.crowd import Crowd
from demo.stranger.failing import StrangerError
from demo.stranger.ledger import Balance, Ledger, received
from demo.stranger.readme import Section
from demo.stranger.screen import Screen
from demo.stranger.shell import Shell

RUNS_AT_ONCE: Final = 200
AGENT: Final = "greet"

_EACH: Final = 5
"""Runs on each thread at most; the server is killed long before the last of them is let in."""
_BEFORE_THE_KILL: Final = 3 * RUNS_AT_ONCE
"""Runs acknowledged before the kill: some have ended, most of `RUNS_AT_ONCE` are running, the rest wait."""
_CUT_OFF: Final = 20
"""With fewer runs going on at the kill nothing is shown: a busy machine starts few in the second that each takes."""

_INSTALL_SECONDS: Final = 300.0
_PATIENCE: Final = 60.0  # seconds
_LOOK_AGAIN: Final = 0.1  # seconds
_PAGE: Final = 200  # runs
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
_DASHBOARD: Final = Path("docs/observers/grafana_dashboard.json")
_FLEET: Final = "Fleet"
"""The dashboard's row about many machines; a single server has nothing to show there."""


class Tour:
    """One trip through README.md.

    Args:
        checkout: the folder with README.md and the dashboard.
        folder: an empty one, in which the stranger works.
        shell: a shell that starts there.
        section: what README.md says.
        port: the server's port.
        hook_port: the webhook receiver's port.
        screen: where to show it.
    """

    def __init__(
        self, checkout: Path, folder: Path, shell: Shell, section: Section, *, port: int, hook_port: int, screen: Screen
    ) -> None:
        self._checkout = checkout
        self._folder = folder
        self._shell = shell
        self._section = section
        self._port = port
        self._hook_port = hook_port
        self._screen = screen
        self._hook_log = folder
        self._database = folder / "trackside.db"
        self._run = ""
        self._crowd = Crowd(port, AGENT, size=RUNS_AT_ONCE, each=_EACH)

    def go(self) -> bool:
        """Go through all of it; gives whether everything came out as it should.

        Raises:
            StrangerError: something did not work.
        """
        with self._crowd:
            self._install()
            self._write()
            self._serve()
            self._ask()
            self._open_console()
            self._receive_webhook()
            self._read_metrics()
            self._kill()
            return self._count()

    def _install(self) -> None:
        self._screen.step("Install it")
        self._type("python3 -m venv", seconds=_INSTALL_SECONDS)
        began = time.monotonic()
        self._type("pip install", seconds=_INSTALL_SECONDS)
        packages = json.loads(self._shell.run("pip list --format json --disable-pip-version-check"))
        versions = {package["name"]: package["version"] for package in packages}
        self._screen.came(
            f"Trackside {versions['trackside']} and {len(packages) - 1} packages with it, "
            f"in {time.monotonic() - began:.0f} s; nothing is fetched from here on"
        )

    def _write(self) -> None:
        self._screen.step("Write an agent, settings, and a receiver of webhooks")
        for name in ("hello.py", "trackside.toml", "receiver.py"):
            self._save(name)

    def _serve(self) -> None:
        self._screen.step("Serve it")
        self._type("export HOOK_SECRET=")
        self._hook_log = self._start("python receiver.py &")
        self._until(lambda: listens(self._hook_port), "the receiver of webhooks does not listen")
        self._start_server()

    def _ask(self) -> None:
        self._screen.step("Ask it with LangGraph's client")
        self._save("client.py")
        answer = self._type("python client.py")
        self._screen.came(*answer.splitlines())
        found = re.search(r"^metadata .*'run_id': '([\w-]+)'", answer, re.MULTILINE)
        if found is None or "values {'greeting': 'Hello, Ada'}" not in answer:
            raise StrangerError(f"the client did not get the answer:\n{answer}")
        self._run = found[1]

    def _open_console(self) -> None:
        self._screen.step("Look at it in the console")
        address = f"http://127.0.0.1:{self._port}/ui/runs"
        with Connection(self._port) as server:
            page = server.text("GET", "/ui/runs")
        if self._run not in page:
            raise StrangerError(f"{address} does not show run {self._run}")
        self._screen.came(f"{address} has run {self._run}")
        browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
        if browser is None:
            self._screen.came("there is no Chromium here to open it with")
            return
        shown = shown_by(browser, address)
        if self._run not in shown:
            raise StrangerError(f"Chromium does not show run {self._run} at {address}:\n{shown[-1_000:]}")
        self._screen.came("Chromium shows it")

    def _receive_webhook(self) -> None:
        self._screen.step("See the webhook come")
        says = f"run_completed {self._run}"
        self._until(lambda: says in self._hook_log.read_text("utf-8"), "the webhook does not come")
        if is_taken(self._hook_port, b'{"type": "run_completed", "data": {"run_id": "forged"}}'):
            raise StrangerError("the receiver has taken a webhook that nobody signed")
        self._screen.came(says, "its signature is right; one that nobody signed was refused")

    def _read_metrics(self) -> None:
        self._screen.step("Have Prometheus read it, for Grafana")
        with Connection(self._port) as server:
            text = server.text("GET", "/metrics")
        there = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
        wanted = wanted_metrics(self._checkout / _DASHBOARD)
        if missing := sorted(wanted - there):
            raise StrangerError(f"/metrics lacks what panels of the dashboard show: {', '.join(missing)}")
        if not re.search(rf'^trackside_runs_total{{agent="{AGENT}",status="success"}} [1-9]', text, re.MULTILINE):
            raise StrangerError("/metrics does not count the run that has ended")
        self._screen.came(f"http://127.0.0.1:{self._port}/metrics has all {len(wanted)} metrics of {_DASHBOARD}")

    def _kill(self) -> None:
        self._screen.step(f"Kill the server while {RUNS_AT_ONCE} runs go on")
        self._crowd.begin()
        self._crowd.wait(_BEFORE_THE_KILL, _PATIENCE)
        self._type("kill -9 $!")
        self._crowd.leave()
        stood = Ledger.read(self._database).standing(self._crowd.acknowledged)
        words = ", ".join(f"{number} {status}" for status, number in sorted(stood.items()))
        self._screen.came(f"of {len(self._crowd.acknowledged)} runs that it had acknowledged: {words}")
        if stood["running"] < _CUT_OFF:
            raise StrangerError("too few runs were going on when the server was killed for this to show anything")

    def _count(self) -> bool:
        self._screen.step("Start it again, and count what is left")
        self._start_server()
        self._rest()
        again = self._serve_again()
        ledger = self._rest()
        with suppress(StrangerError):  # the balance says what is missing then
            self._until(lambda: self._received().keys() >= ledger.ends.keys(), "webhooks do not come")
        listing = self._type("trackside runs")
        self._screen.came(*listing.splitlines()[:4], "…")
        self._section.end()
        balance = Balance(
            acknowledged=self._crowd.acknowledged,
            now=ledger,
            listed=self._listed(),
            received=self._received(),
            served_again=sum(1 for run in again if ledger.statuses.get(run) == "success"),
            threads=self._crowd.threads,
        )
        lines = balance.lines()
        self._screen.balance(lines)
        self._shell.run("kill $! && wait $!")  # `wait` gives the server's exit code
        return all(line.is_right for line in lines)

    def _rest(self) -> Ledger:
        """Wait until all runs have ended; gives how they ended."""
        self._until(lambda: Ledger.read(self._database).queued == 0, "there are runs that do not end")
        return Ledger.read(self._database)

    def _serve_again(self) -> list[str]:
        """Have each thread of the crowd take one more run; gives these runs."""
        asked = {"assistant_id": AGENT, "input": {"name": "visitor"}}
        with Connection(self._port) as server:
            return [server.json("POST", f"/threads/{one}/runs", asked)["run_id"] for one in self._crowd.threads]

    def _listed(self) -> set[str]:
        """The runs that the server knows, read page by page."""
        with Connection(self._port) as server:
            found = {run["run_id"] for run in server.json("GET", "/runs", limit=_PAGE)}
            while (before := server.next_page) is not None:
                found |= {run["run_id"] for run in server.json("GET", "/runs", limit=_PAGE, before=before)}
        return found

    def _received(self) -> Counter[str]:
        return received(self._hook_log.read_text("utf-8"))

    def _start_server(self) -> None:
        log = self._start("trackside serve &")
        self._until(self._is_ready, f"the server is not ready, and says in {log.name}:", log)
        self._screen.came(f"http://127.0.0.1:{self._port} is ready")

    def _is_ready(self) -> bool:
        try:
            with Connection(self._port) as server:
                server.text("GET", "/health/ready")
        except (OSError, http.client.HTTPException, StrangerError):
            return False
        return True

    def _save(self, name: str) -> None:
        file = self._section.file(name)
        (self._folder / name).write_text(file.text, "utf-8")
        self._screen.wrote(name, file.text)

    def _type(self, start: str, *, seconds: float = _PATIENCE) -> str:
        """Type the next line of README.md, which must begin like this; gives its output."""
        command = self._section.command(start)
        self._screen.typed(command.text)
        return self._shell.run(command.text, seconds=seconds)

    def _start(self, start: str) -> Path:
        """As `_type`, for something that goes on in the background; gives the file with its output."""
        command = self._section.command(start)
        self._screen.typed(command.text)
        return self._shell.start(command.text)

    def _until(self, look: Callable[[], bool], otherwise: str, log: Path | None = None) -> None:
        """Wait until `look` says yes.

        Raises:
            StrangerError: it does not; the message is `otherwise` and the end of the log.
        """
        until = time.monotonic() + _PATIENCE
        while not look():
            if time.monotonic() > until:
                why = "" if log is None else f"\n{log.read_text('utf-8')[-2_000:]}"
                raise StrangerError(f"{otherwise}{why}")
            time.sleep(_LOOK_AGAIN)


def listens(port: int) -> bool:
    """Whether anybody listens on this port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_taken(port: int, body: bytes) -> bool:
    """Whether a webhook receiver accepts this body, which nobody has signed."""
    receiver = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        receiver.request("POST", "/", body)
        return receiver.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        receiver.close()


def shown_by(browser: str, address: str) -> str:
    """The page as a browser shows it once its scripts have run; the browser's complaint, if there is no page.

    Raises:
        StrangerError: the browser does not open the address.
    """
    # The browser's sockets are in the folder for temporary files, and their names must not be long.
    short = "/tmp" if Path("/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="trackside-", dir=short, ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        try:
            done = subprocess.run(
                [browser, *options, "--dump-dom", address],
                env={**os.environ, "TMPDIR": profile},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise StrangerError(f"Chromium does not open {address}") from None
    return done.stdout or done.stderr[-1_000:]


def wanted_metrics(dashboard: Path) -> set[str]:
    """The metrics that the dashboard's panels show, except in the row about fleets."""
    wanted: set[str] = set()
    row = ""
    for panel in json.loads(dashboard.read_text("utf-8"))["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        elif row != _FLEET:
            for target in panel["targets"]:
                wanted.update(re.findall(r"\btrackside_\w+", target["expr"]))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in wanted}
