"""API keys on the command line: shown once, listed without their secrets, revoked when somebody says so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

type Here = Callable[..., CompletedProcess[str]]

KEY = re.compile(r"ts_[0-9a-f]{12}_[0-9a-f]{64}")


def test_a_key_is_shown_once_and_alone_on_standard_output(here: Here) -> None:
    made = here("auth", "create", "laptop", "--owner", "ada", "--permission", "admin", "--expires", "90d")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert KEY.fullmatch(key)
    assert "of ada is good for everything (admin), until" in made.stderr
    assert key not in made.stderr
    listed = here("auth", "list")
    assert key[3:15] in listed.stdout
    assert "ada" in listed.stdout
    assert key[16:] not in listed.stdout + listed.stderr


def test_whoever_makes_a_key_hears_for_which_database_it_is(here: Here) -> None:
    made = here("auth", "create", "laptop")
    assert ", at sqlite:///trackside.db. It is shown this once:" in made.stderr
    made = here("auth", "create", "laptop", TRACKSIDE_DATABASE_URL="sqlite:///other.db")
    assert ", at sqlite:///other.db. It is shown this once:" in made.stderr


def test_keys_for_programs(here: Here) -> None:
    made = json.loads(here("auth", "create", "ci", "--json").stdout)
    assert made["owner"] == made["name"] == "ci"
    assert made["permission"] == "run"
    assert KEY.fullmatch(made.pop("secret"))
    (listed,) = [json.loads(line) for line in here("auth", "list", "--json").stdout.splitlines()]
    assert listed == made
    assert "digest" not in listed


def test_an_owner_has_one_good_key_of_a_name(here: Here) -> None:
    made = json.loads(here("auth", "create", "ci", "--json").stdout)
    refused = here("auth", "create", "ci", "-d", "sqlite:///trackside.db")
    revoke = f"trackside auth revoke {made['key_id']} --database sqlite:///trackside.db"
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"error: NAME: 'ci' has a key of this name; take another name, or revoke that one: `{revoke}`.\n"
    )
    assert here("auth", "create", "ci", "--owner", "ada").returncode == 0
    assert here(*revoke.split()[1:], "--yes").returncode == 0
    assert here("auth", "create", "ci").returncode == 0


def test_revoking_asks_unless_it_is_told_to(here: Here) -> None:
    made = json.loads(here("auth", "create", "ci", "--json").stdout)
    refused = here("auth", "revoke", made["key_id"])
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert here("auth", "list").stdout.count(made["key_id"]) == 1
    revoked = here("auth", "revoke", made["key_id"], "--yes")
    assert revoked.returncode == 0
    assert "no longer lets anybody in" in revoked.stdout
    assert "There are no API keys." in here("auth", "list").stdout
    assert "revoked" in here("auth", "list", "--all").stdout


def test_a_whole_key_may_be_typed_to_revoke_it_and_is_not_said_back(here: Here) -> None:
    made = json.loads(here("auth", "create", "ci", "--json").stdout)
    revoked = here("auth", "revoke", made["secret"], "--yes", "--json")
    assert json.loads(revoked.stdout)["revoked_at"]
    assert made["secret"] not in revoked.stdout + revoked.stderr


def test_a_person_at_a_terminal_is_asked(here: Here, terminal: Callable[..., Any]) -> None:
    made = json.loads(here("auth", "create", "ci", "--json").stdout)
    asked = terminal("auth", "revoke", made["key_id"])
    asked.wait_for("[y/N]")
    asked.press(b"n\n")
    assert asked.wait() == 130
    assert "Nothing was revoked." in asked.text
    asked = terminal("auth", "revoke", made["key_id"])
    asked.wait_for("[y/N]")
    asked.press(b"y\n")
    assert asked.wait() == 0
    assert "There are no API keys." in here("auth", "list").stdout


def test_what_does_not_fit_is_one_line(here: Here) -> None:
    for arguments, said in (
        (("auth", "create", "ci", "--expires", "soon"), "'soon' is not a length of time"),
        (("auth", "create", "ci", "--expires", "90"), "'90' is not a length of time with its unit"),
        (("auth", "create", "ci", "--expires", "0s"), "--expires: it has to be longer than zero"),
        (("auth", "create", "ci", "--expires", "9999999d"), "--expires: '9999999d' from now is after the year 9999"),
        (("auth", "create", "ci", "--expires", "999999999999999w"), "from now is after the year 9999"),
        (("auth", "create", ""), "An API key cannot have name=''"),
        (("auth", "create", "ci", "--owner", ""), "An API key cannot have owner=''"),
        (("auth", "create", "ci", "--permission", "root"), "root"),
    ):
        failed = here(*arguments)
        assert failed.returncode == 2
        assert said in failed.stderr
    here("auth", "create", "ci")
    unknown = here("auth", "revoke", "nobody", "--yes")
    assert unknown.returncode == 2
    assert "There is no API key 'nobody'" in unknown.stderr
