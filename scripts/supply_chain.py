"""What Trackside is made with: whether its locks, licences and known vulnerabilities are as they should be, and its SBOM."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from license_expression import ExpressionError, get_spdx_licensing
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
LOCK: Final = ROOT / "requirements.lock"
OTHER_LOCKS: Final = (ROOT / "scripts/uv.lock.txt", ROOT / "examples/local_model.lock.txt")
SBOM: Final = ROOT / "dist/trackside-sbom.cdx.json"
PAGE: Final = ROOT / "docs/explain/supply-chain.md"

UNKNOWN_CODE: Final = 3
"""The exit code for: nothing is known to be wrong, but not everything is known."""

PERMISSIVE: Final = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0", "PSF-2.0",
        "Unlicense", "Zlib",
    }
)  # fmt: skip
OTHERWISE: Final[Mapping[str, str]] = {
    "certifi": "a list of certificates, used as it is published",
    "orjson": "comes with LangGraph; used as it is published",
    "psycopg": "comes with the extra `langgraph-postgres` alone; a library that is linked to at run time",
    "psycopg-binary": "as psycopg",
    "psycopg-pool": "as psycopg",
}
"""Packages whose licence asks for more than attribution, and why they may be here all the same."""

_IN_OTHER_WORDS: Final[Mapping[str, str]] = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT License, Apache License, Version 2.0": "MIT OR Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_CLASSIFIER: Final = "License :: OSI Approved :: "
_PINNED: Final = re.compile(r"([A-Za-z0-9][\w.-]*)==([^\s;]+)(?: ; [^\\]+)?")
_HASH: Final = re.compile(r"--hash=sha256:[0-9a-f]{64}")
_TABLE: Final = re.compile(r"(?<=<!-- licences -->\n).*?(?=<!-- end of licences -->)", re.DOTALL)


class State(StrEnum):
    """The outcome of a check."""

    ok = "ok"
    failed = "FAILED"
    unknown = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Checked:
    """A check's outcome in one sentence, and each thing that is wrong."""

    state: State
    said: str
    wrong: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Pinned:
    """One package in a lock."""

    name: str
    version: str
    hashes: int


def pinned_in(lock: Path) -> Iterator[Pinned | str]:
    """The packages of a lock in its order; whatever is not a package pinned to a version comes as its text."""
    text = re.sub(r"^\s*#.*$", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for entry in re.sub(r"\\\n", " ", text).splitlines():
        requirement, _, rest = entry.partition(" --hash")
        found = _PINNED.fullmatch(requirement.strip())
        if found is not None:
            hashes = len(_HASH.findall(f"--hash{rest}")) if rest else 0
            yield Pinned(canonicalize_name(found[1]), found[2], hashes)
        elif entry.strip():
            yield entry.strip()


def check_hashes(locks: Sequence[Path]) -> Checked:
    """Check that each lock pins each package to one version whose hashes are known."""
    wrong: list[str] = []
    packages = 0
    for lock in locks:
        for entry in pinned_in(lock):
            if isinstance(entry, str):
                wrong.append(f"{lock.name}: {entry!r:.80} is not pinned to a version")
            elif not entry.hashes:
                wrong.append(f"{lock.name}: {entry.name} has no hash")
            else:
                packages += 1
    if wrong:
        return Checked(State.failed, "the locks do not say what is to be installed", wrong)
    return Checked(State.ok, f"{packages} packages in {len(locks)} locks, each of one version with its hashes")


def shipped() -> Mapping[str, Distribution]:
    """The packages that users get with Trackside and all its extras together, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    left = deque([("trackside", extra) for extra in ("", "all", "fleet")])
    while left:
        name, extra = left.popleft()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # it is for other systems, or another Python
        for text in found[name].requires or ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(wanted.name), one) for one in ("", *wanted.extras)]
    del found["trackside"]
    return found


def licence_of(package: Distribution) -> str:
    """A package's licence as an SPDX expression; its own words where that is not possible."""
    said = package.metadata
    classifiers = [
        one.removeprefix(_CLASSIFIER) for one in said.get_all("Classifier") or () if one.startswith(_CLASSIFIER)
    ]
    listed = " OR ".join([_IN_OTHER_WORDS.get(one) or one for one in classifiers])
    for words in (said.get("License-Expression"), said.get("License"), listed):
        text = _IN_OTHER_WORDS.get(words or "", words or "")
        if text and not _unknown_in(text):
            return text
    return listed or str(said.get("License", "")).partition("\n")[0] or "none that it says"


@cache  # it reads the list of all licences
def _spdx() -> Any:  # the library has no annotations
    return get_spdx_licensing()


@cache
def _unknown_in(expression: str) -> bool:
    try:
        return not expression or bool(_spdx().unknown_license_keys(expression))
    except ExpressionError:
        return True


def is_permissive(expression: str) -> bool:
    """Whether the licence asks for nothing more than attribution."""
    if _unknown_in(expression):
        return False
    spdx = _spdx()
    parsed = spdx.parse(expression)
    known = {symbol: spdx.TRUE if str(symbol) in PERMISSIVE else spdx.FALSE for symbol in parsed.symbols}
    return bool(parsed.subs(known).simplify() == spdx.TRUE)


def check_licences(packages: Mapping[str, str], page: Path, *, write: bool) -> Checked:
    """Check that licences are permissive or their exceptions explained, and that the page lists them as they are.

    Args:
        packages: licences, by package.
        page: the page with the table.
        write: whether to update the table rather than complain.
    """
    wrong = [
        f"{name} is under {licence}"
        for name, licence in sorted(packages.items())
        if not is_permissive(licence) and name not in OTHERWISE
    ]
    text = page.read_text(encoding="utf-8")
    now = _TABLE.sub(lambda _: table_of(packages), text)
    if now != text:
        if write:
            page.write_text(now, encoding="utf-8")
        else:
            wrong.append(f"{page.name} has another table of licences: ./scripts/audit --write")
    if wrong:
        return Checked(State.failed, "not every licence is as it should be", wrong)
    others = sum(1 for name in packages if name in OTHERWISE)
    return Checked(
        State.ok, f"{len(packages)} packages that users get; {others} under a licence that is not permissive"
    )


def table_of(packages: Mapping[str, str]) -> str:
    """The table of licences, in Markdown."""
    rows: dict[str, list[str]] = {}
    for name, licence in sorted(packages.items()):
        rows.setdefault(licence, []).append(f"{name} ({OTHERWISE[name]})" if name in OTHERWISE else name)
    lines = [f"| {licence} | {', '.join(names)} |" for licence, names in sorted(rows.items())]
    return "\n".join(["", "| licence | packages |", "|---|---|", *lines, "", ""])


def check_vulnerabilities(lock: Path, osv_url: str | None) -> Checked:
    """Ask pip-audit whether vulnerabilities of the pinned versions are known.

    Args:
        lock: the lock.
        osv_url: a server with the API of OSV; None: PyPI.
    """
    where = ["--vulnerability-service", "osv", "--osv-url", osv_url] if osv_url else ["--vulnerability-service", "pypi"]
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes", "--disable-pip", "--no-deps",
        "--format", "json", "--progress-spinner", "off", *where,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own words and paths
    try:
        asked = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"]
        return Checked(State.unknown, "nobody could say whether vulnerabilities are known", lines[-1:])
    return judged(asked)


def judged(asked: Sequence[Mapping[str, Any]]) -> Checked:
    """What pip-audit's answers, one for each package, add up to."""
    known = [
        f"{one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for one in asked
        for found in one.get("vulns", ())
    ]
    if known:
        return Checked(State.failed, "vulnerabilities are known", known)
    silent = [f"{one['name']}: {one['skip_reason']}" for one in asked if "skip_reason" in one]
    if silent or not asked:
        said = f"of {len(silent)} of {len(asked)} packages nobody could say whether vulnerabilities are known"
        return Checked(State.unknown, said, silent[:3])
    return Checked(State.ok, f"none is known of {len(asked)} packages")


def write_sbom(lock: Path, target: Path) -> Checked:
    """Write the software bill of materials: what the lock pins, as CycloneDX, which the library validates. The same lock
    gives the same bytes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "cyclonedx_py", "requirements", str(lock), "--pyproject", str(ROOT / "pyproject.toml"),
        "--mc-type", "library", "--output-reproducible", "--output-format", "JSON", "--validate",
        "--output-file", str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own words and paths
    if done.returncode:
        return Checked(State.failed, "the SBOM cannot be written", done.stderr.strip().splitlines()[-1:])
    made = json.loads(target.read_text(encoding="utf-8"))
    named = {(canonicalize_name(one["name"]), one.get("version")) for one in made["components"]}
    missing = [
        f"{one.name} {one.version} is not in it"
        for one in pinned_in(lock)
        if isinstance(one, Pinned) and (one.name, one.version) not in named
    ]
    if missing:
        return Checked(State.failed, "the SBOM is not whole", missing)
    return Checked(State.ok, f"{len(named)} packages in {_shown(target)} (CycloneDX {made['specVersion']})")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check everything, and print the outcome; gives the exit code."""
    parser = argparse.ArgumentParser(prog="./scripts/audit", description=__doc__)
    parser.add_argument("--offline", action="store_true", help="do not ask for vulnerabilities")
    parser.add_argument("--osv-url", help="ask a server with the API of OSV instead of PyPI")
    parser.add_argument("--write", action="store_true", help="write the table of licences again")
    parser.add_argument("--lock", type=Path, default=LOCK, help="another lock")
    parser.add_argument("--sbom", type=Path, default=SBOM, help="where the SBOM goes")
    given = parser.parse_args(arguments)
    licences = {name: licence_of(package) for name, package in shipped().items()}
    checks: dict[str, Callable[[], Checked]] = {
        "hashes": lambda: check_hashes([given.lock, *OTHER_LOCKS]),
        "licences": lambda: check_licences(licences, PAGE, write=given.write),
        "SBOM": lambda: write_sbom(given.lock, given.sbom),
    }
    if not given.offline:
        checks["vulnerabilities"] = lambda: check_vulnerabilities(given.lock, given.osv_url)
    states: set[State] = set()
    for name, check in checks.items():
        checked = check()
        states.add(checked.state)
        print(f"{name:<16} {checked.state:<8} {checked.said}", *checked.wrong, sep="\n    ")
    return exit_code(states)


def exit_code(states: Collection[State]) -> int:
    """The exit code for these states: what nobody knows does not count as good."""
    return 1 if State.failed in states else UNKNOWN_CODE if State.unknown in states else 0


if __name__ == "__main__":
    sys.exit(main())
