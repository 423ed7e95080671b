"""The pages on how to add things are carried out as written, on a copy of the code: files, changes, tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stemma.profile import profile_path
from tests.stemma.test_docs import merged

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs" / "add").glob("*.md"))}
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
CHECK = """
import json, sys, yaml
from pathlib import Path
from stemma.profile import Profile
for tree in json.loads(Path("profiles.json").read_text()):
    Profile.model_validate(tree)
from data_pipeline.config import CorpusConfig
from data_pipeline.corpus.stage import CorpusStage
from stemma.core.artifact import Store
from stemma.core.stage import Execution, execute
section = json.loads(Path("section.json").read_text())
made = execute(CorpusStage("corpus", CorpusConfig(**section), {}), Store(Path("runs")), Execution(workers=1))
print("documents", made.summary["documents"])
"""


def rooms() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def changed(text: str, patch: str) -> str:
    """Apply a change as the pages write it: hunks parted by `@@`, without line numbers, each found once."""
    for hunk in re.split(r"^@@\n", patch, flags=re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] or "\n" for line in lines if line[0] in " -\n")
        after = "".join(line[1:] or "\n" for line in lines if line[0] in " +\n")
        additions = "".join(line[1:] for line in lines if line[0] == "+")
        assert additions or before != after, hunk
        assert text.count(before) == 1, f"found {text.count(before)} times, expected once:\n{before}"
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code with everything that the four pages add."""
    folder = tmp_path_factory.mktemp("howtos")
    for room in rooms():
        shutil.copytree(ROOT / room, folder / room)  # compiled files too: the copy starts as fast
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, folder)
    for text in PAGES.values():
        for language, title, content in BLOCK.findall(text):
            if language == "diff":
                path = folder / title
                path.write_text(changed(path.read_text(), content))
            elif language in ("python", "json"):
                assert title, content
                (folder / title).parent.mkdir(parents=True, exist_ok=True)
                (folder / title).write_text(content)
    return folder


def python(folder: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(folder / "numba")),
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_the_tests_that_the_pages_show_pass_and_the_ones_there_are_hold_for_what_they_add(copy: Path) -> None:
    shown = [title for text in PAGES.values() for _, title, _ in BLOCK.findall(text) if "test_" in title]
    assert len(shown) == len(PAGES) == 4
    (copy / "tests").joinpath("__init__.py").unlink(missing_ok=True)
    shutil.copy2(ROOT / "tests/posttrain/test_advantages.py", copy / "tests/posttrain/test_all_advantages.py")
    out = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests")
    assert "failed" not in out
    assert int(re.findall(r"(\d+) passed", out)[0]) >= 13


def test_the_profiles_that_the_pages_show_load_and_their_source_becomes_documents(copy: Path) -> None:
    import json

    nano = yaml.safe_load(profile_path("nano").read_text())
    parts = [
        yaml.safe_load(body)
        for text in PAGES.values()
        for kind, _, body in BLOCK.findall(text)
        if kind == "yaml"
    ]
    assert len(parts) == 4
    (copy / "profiles.json").write_text(json.dumps([merged(nano, part) for part in parts]))
    (source,) = [part["data"]["sources"] for part in parts if "sources" in part.get("data", {})]
    section = {"sources": source, "filters": nano["data"]["filters"], "valid_fraction": 0.0}
    (copy / "section.json").write_text(json.dumps(section))
    assert python(copy, "-c", CHECK).split()[-1] == "2"


def test_a_change_that_no_longer_fits_is_noticed() -> None:
    assert changed("a\nb\nc\n", " a\n+x\n b\n") == "a\nx\nb\nc\n"
    with pytest.raises(AssertionError, match="found 0 times"):
        changed("a\nb\n", " a\n+x\n c\n")
    with pytest.raises(AssertionError, match="found 2 times"):
        changed("a\na\n", "-a\n+x\n")
