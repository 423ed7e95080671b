"""The pages on how to add things are carried out as written, on a copy of the code: files, changes, tests."""

import json
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
PROFILES = """
import json
from pathlib import Path

from data_pipeline.config import CorpusConfig
from data_pipeline.corpus.stage import CorpusStage
from stemma.core.artifact import Store
from stemma.core.stage import Execution, execute
from stemma.profile import Profile


def test_every_profile_part_loads():
    for tree in json.loads(Path("profiles.json").read_text()):
        Profile.model_validate(tree)


def test_the_source_becomes_documents():
    stage = CorpusStage("corpus", CorpusConfig(**json.loads(Path("section.json").read_text())), {})
    assert execute(stage, Store(Path("runs")), Execution(workers=1)).summary["documents"] == 2
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


def test_what_the_pages_show_works(copy: Path) -> None:
    """Their tests pass, those there are hold for what they add, their profiles load, their source is read."""
    blocks = [block for text in PAGES.values() for block in BLOCK.findall(text)]
    shown = [title for _, title, _ in blocks if "test_" in title]
    assert len(shown) == len(PAGES) == 4
    shutil.copy2(ROOT / "tests/posttrain/test_advantages.py", copy / "tests/posttrain/test_all_advantages.py")
    nano = yaml.safe_load(profile_path("nano").read_text())
    parts = [yaml.safe_load(content) for language, _, content in blocks if language == "yaml"]
    assert len(parts) == 4
    (copy / "profiles.json").write_text(json.dumps([merged(nano, part) for part in parts]))
    (source,) = [part["data"]["sources"] for part in parts if "sources" in part.get("data", {})]
    section = {"sources": source, "filters": nano["data"]["filters"], "valid_fraction": 0.0}
    (copy / "section.json").write_text(json.dumps(section))
    (copy / "tests" / "test_profiles.py").write_text(PROFILES)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 15


def test_a_change_that_no_longer_fits_is_noticed() -> None:
    assert changed("a\nb\nc\n", " a\n+x\n b\n") == "a\nx\nb\nc\n"
    with pytest.raises(AssertionError, match="found 0 times"):
        changed("a\nb\n", " a\n+x\n c\n")
    with pytest.raises(AssertionError, match="found 2 times"):
        changed("a\na\n", "-a\n+x\n")
