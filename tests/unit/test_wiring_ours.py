"""Each of our own observers is built when the settings name it, or says which extra provides what it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from trackside.app.settings import OBSERVER_KEYS, load_settings
from trackside.app.wiring.observer_types import BUILT_IN, find_observer
from trackside.app.wiring.observers import build_observers

OURS = {
    "metrics": "",
    "tracing": "",
    "logging": "",
    "webhook": 'url = "https://example.org/hook"\nsecret = "env:SECRET"',
    "notify": 'to = "json://localhost"',
    "broker": 'url = "nats://localhost:4222"',
    "openlineage": 'url = "http://localhost:5000"',
}
SECRET = "whsec_QSBzZWNyZXQgb2YgMzIgYnl0ZXMgZm9yIHRoZSBkb2Nz"
WITHOUT_PACKAGES = """
import sys
for package in ("aiohttp", "standardwebhooks", "cloudevents", "apprise", "nats", "redis", "openlineage", "opentelemetry",
                "prometheus_client", "structlog"):
    sys.modules[package] = None
from trackside.app.settings import SettingsError, load_settings
from trackside.app.wiring.observers import build_observer
for configured in load_settings().observers:
    try:
        build_observer(configured, {"SECRET": sys.argv[1]})
    except SettingsError as exc:
        print(exc)
    else:
        print(configured.name)
"""


def write(folder: Path, *tables: str) -> None:
    (folder / "trackside.toml").write_text("".join(f"[[observers]]\n{table}\n" for table in tables), encoding="utf-8")


@pytest.mark.parametrize("name", BUILT_IN)
def test_it_is_made_of_a_few_keys_and_takes_none_that_is_the_wirings(name: str, tmp_path: Path) -> None:
    write(tmp_path, f'type = "{name}"\n{OURS[name]}')
    settings = load_settings(environ={}, folder=tmp_path)

    (built,) = build_observers(settings, {"SECRET": SECRET})

    documented = (Path(__file__).parents[2] / "docs" / "observers" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in documented.splitlines() if re.match(rf"\| \[?`{name}`", line))
    assert f"| {built.delivery} |" in row
    options = find_observer(settings.observers[0]).__init__.__annotations__
    assert not OBSERVER_KEYS & set(options)


def test_without_their_packages_each_says_which_extra_to_install(tmp_path: Path) -> None:
    write(tmp_path, *(f'type = "{name}"\n{options}' for name, options in OURS.items()), _broker("redis://localhost"))
    command = [sys.executable, "-c", WITHOUT_PACKAGES, SECRET]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    said = done.stdout.splitlines()
    assert [line.rpartition("pip install ")[2] for line in said] == [
        "'trackside[metrics]'.",
        "'trackside[otel]'.",
        "logging",
        "'trackside[webhook]'.",
        "'trackside[notify]'.",
        "'trackside[nats]'.",
        "'trackside[openlineage]'.",
        "'trackside[redis]'.",
    ]
    assert all(line.startswith("trackside.toml, observers[") for line in said if "pip" in line)


def _broker(url: str) -> str:
    return f'type = "broker"\nname = "other"\nurl = "{url}"'
