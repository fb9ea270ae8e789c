"""A Prometheus of our own: found on this machine or unpacked from Debian's packages, gone when whoever started it is gone.

    with PrometheusServer({"trackside": "127.0.0.1:9464"}) as prometheus:
        prometheus.query("trackside_runs_total")  # [({"agent": "chat", …}, 3.0)]

It listens on loopback and keeps its data in a folder of its own.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import override
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from kept_server import KeptServer

TOOLS = Path(__file__).parents[2] / ".tools" / "prometheus"
PACKAGES = ("prometheus", "promtool")
HOW = "apt-get install prometheus promtool, or put the two programs on PATH"

_OPEN = build_opener(ProxyHandler({}))


class NoPrometheusError(Exception):
    """Prometheus is not here, and it cannot be fetched; the message says how to install it."""


def found(name: str) -> str | None:
    """The path of `prometheus` or `promtool`, if it is here already."""
    return shutil.which(name) or shutil.which(name, path=TOOLS / "usr" / "bin")


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`, fetched if need be.

    Raises:
        NoPrometheusError: it is nowhere.
    """
    if found(name) is None:
        _unpack()
    return found(name) or str(TOOLS / "usr" / "bin" / name)


def promtool(*arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run Prometheus' own tool; it reads `given` from its standard input."""
    command = [program("promtool"), *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


class PrometheusServer(KeptServer):
    """A server that scrapes these targets, addresses by the names of their jobs, every second, each for up to a second."""

    ready = "Server is ready to receive web requests"

    def __init__(self, targets: Mapping[str, str], *, rules: Sequence[Path] = ()) -> None:
        self._program = program("prometheus")
        self._settings = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "200ms"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets.items()
            ],
        }
        super().__init__("prometheus")

    @override
    def command(self) -> Sequence[str | Path]:
        settings = self.folder / "prometheus.yml"
        settings.write_text(json.dumps(self._settings))  # JSON is YAML, too
        return [
            self._program,
            f"--config.file={settings}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The current result of an expression: labels and values."""
        address = f"http://127.0.0.1:{self.port}/api/v1/query?{urlencode({'query': expression})}"
        with _OPEN.open(address) as answer:
            result = json.load(answer)["data"]["result"]
        return [(each["metric"], float(each["value"][1])) for each in result]


def _unpack() -> None:
    """Fetch the packages and put their contents into a folder of this checkout; nobody has to be root for that."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoPrometheusError(f"there is no Prometheus here, and no apt-get to fetch it with: {HOW}")
    TOOLS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prometheus-", dir=TOOLS.parent) as name:
        folder = Path(name)
        _download(folder)
        unpacked = folder / "unpacked"
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True, capture_output=True)
        if not TOOLS.exists():  # another process may have been faster
            unpacked.rename(TOOLS)


def _download(folder: Path) -> None:
    own = {"Dir::State::lists": folder / "lists", "Dir::Cache": folder / "cache"}
    options = [word for key, value in own.items() for word in ("-o", f"{key}={value}")]
    if _apt(folder, "download", *PACKAGES) is None:
        return
    # This machine has no package lists, or old ones; only root may change those.
    for path in own.values():
        (path / "partial").mkdir(parents=True)
    failure = _apt(folder, *options, "update") or _apt(folder, *options, "download", *PACKAGES)
    if failure is not None:
        raise NoPrometheusError(f"there is no Prometheus here, and it cannot be fetched ({failure}): {HOW}")


def _apt(folder: Path, *arguments: str) -> str | None:
    """What apt-get complains about, if it fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    command = ["apt-get", "-qq", "-o", "Acquire::http::Timeout=20", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return done.stderr.strip().rpartition("\n")[2] or f"apt-get ended with {done.returncode}"
