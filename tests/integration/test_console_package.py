"""What the console is made of: all of it in the package, loaded when somebody looks, without what no page may have."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trackside.app.dashboard.assets import NAMES

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "src" / "trackside" / "app" / "dashboard"
TEMPLATES = sorted((DASHBOARD / "templates").glob("*.html"))
OUR_SCRIPTS = [
    path for path in sorted((DASHBOARD / "static").glob("*.js")) if not path.name.startswith(("htmx", "uPlot"))
]


def test_browsers_get_each_file_of_the_folder_but_the_licences() -> None:
    files = {path.name for path in (DASHBOARD / "static").iterdir()}
    licences = {name for name in files if name.endswith(".LICENSE.txt")}
    assert files - licences == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)
    theirs = {name.partition(".")[0] for name in NAMES if ".min." in name}
    assert {name.partition(".")[0] for name in licences} == theirs, "whatever is not ours comes with its licence"


def test_the_wheel_contains_templates_and_static_files_and_licences(tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    here = ROOT / "src"
    needed = {
        str(path.relative_to(here)) for folder in ("templates", "static") for path in (DASHBOARD / folder).iterdir()
    }
    assert len(needed) > 20
    assert needed <= packed


@pytest.mark.parametrize("module", ["trackside.app.server", "trackside.app.wiring", "trackside.app.dashboard"])
def test_no_template_is_read_before_somebody_looks(module: str) -> None:
    code = f"import sys, {module}; print('jinja2' in sys.modules, 'markupsafe' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_template_says_that_a_text_is_markup(path: Path) -> None:
    """Each of these would bypass the escaping, or is something that the policy forbids anyway."""
    source = re.sub(r"{#.*?#}", "", path.read_text("utf-8"), flags=re.DOTALL)
    for forbidden in (
        r"\|\s*safe\b", r"\bautoescape\b", r"\bMarkup\b", r"<script(?![^>]*\ssrc=)", r"<style\b", r"\sstyle=",
        r"\son[a-z]+=", r"javascript:", r"hx-on", r"\bjs:", r"\s[\w-]+={{",
    ):  # fmt: skip
        found = re.search(forbidden, source)
        assert found is None, f"{path.name}: {source[max(0, found.start() - 60) : found.end() + 60]}"
    for link in re.findall(r'(?:href|src|action|data-hx-get|data-hx-post)="([^"]*)"', source):
        ours = not link.startswith("/") and ":" not in link.partition("{{")[0]
        assert ours, f"{path.name}: {link} would not work where the app is mounted below another one"


@pytest.mark.parametrize("path", OUR_SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_of_data(path: Path) -> None:
    source = path.read_text("utf-8")
    for forbidden in (
        r"\binnerHTML\b", r"\bouterHTML\b", r"insertAdjacentHTML", r"document\.write", r"\beval\(", r"new Function",
        r"\bsrcdoc\b", r"createContextualFragment", r"DOMParser", r"setTimeout\(\s*[\"'`]", r"https?://(?!www\.w3\.org/)",
    ):  # fmt: skip
        found = re.search(forbidden, source)
        assert found is None, f"{path.name}: {source[max(0, found.start() - 60) : found.end() + 60]}"
