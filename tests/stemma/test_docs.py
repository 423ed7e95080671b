"""What the documentation shows works: profiles load, commands and options exist, linked files are there."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from stemma.cli import app
from stemma.deployments import DeploymentsConfig
from stemma.edits import EditFile
from stemma.profile import Profile, profile_path
from tools.profile_reference import FOLDER

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def merged(tree: Any, part: Any) -> Any:
    if not (isinstance(tree, dict) and isinstance(part, dict)):
        return part
    return tree | {key: merged(tree.get(key), value) for key, value in part.items()}


def test_every_profile_part_of_the_data_guide_loads() -> None:
    tree = yaml.safe_load(profile_path("nano").read_text())
    parts = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    for part in parts:
        tree = merged(tree, yaml.safe_load(part))
    profile = Profile.model_validate(tree)
    assert profile.data.dedup.prefer == ("papers",)  # the last parts are in it, too
    assert len(parts) >= 5


def test_every_profile_part_of_the_tokenizer_guide_loads() -> None:
    nano = yaml.safe_load(profile_path("nano").read_text())
    parts = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tokenizer.md").read_text(), re.DOTALL)
    tree = nano
    for part in parts:
        Profile.model_validate(merged(nano, yaml.safe_load(part)))
        tree = merged(tree, yaml.safe_load(part))
    profile = Profile.model_validate(tree)
    assert profile.tokenizer.scaffold
    assert profile.tokenizer.base is not None
    assert len(parts) >= 4


def test_every_profile_part_of_the_training_guide_loads() -> None:
    nano = yaml.safe_load(profile_path("nano").read_text())
    parts = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)
    profiles = [Profile.model_validate(merged(nano, yaml.safe_load(part))) for part in parts]
    assert any(profile.training.general.optimizer.name == "muon" for profile in profiles)
    assert len(parts) >= 5


BASES = {"scale": "youtu_2b"}  # profiles that the parts on a page are for, where not nano
OWN_TEST = {"data", "tokenizer", "training"}  # above; those in docs/add are in test_howtos.py


@pytest.mark.parametrize(
    "page",
    [page for page in (ROOT / "docs").glob("*.md") if page.stem not in OWN_TEST],
    ids=lambda page: page.stem,
)
def test_every_profile_part_of_other_pages_loads(page: Path) -> None:
    base = yaml.safe_load(profile_path(BASES.get(page.stem, "nano")).read_text())
    for part in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        Profile.model_validate(merged(base, yaml.safe_load(part)))


def test_files_that_pages_show_are_what_they_are_called() -> None:
    kinds = {"new.yaml": EditFile, "deployments.yaml": DeploymentsConfig}
    found = set()
    for page in (ROOT / "docs").glob("*.md"):
        for title, part in re.findall(r'```yaml title="(.*?)"\n(.*?)```', page.read_text(), re.DOTALL):
            found.add(Path(title).name)
            kinds[Path(title).name].model_validate(yaml.safe_load(part))
    assert found == set(kinds)


def commands(page: Path) -> list[str]:
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL))
    found = re.findall(r"^\s*(stemma .*?)(?:\s{2,}|\s#|$)", blocks, re.MULTILINE)
    return found + re.findall(r"`(stemma [a-z][^`|]*)`", page.read_text())


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    for line in commands(page):
        here: Any = typer.main.get_command(app)
        words = shlex.split(line)[1:]
        while words and hasattr(here, "commands"):
            name = words.pop(0)
            if name.startswith("-"):
                break
            assert name in here.commands, line
            here = here.commands[name]
        known = {option for parameter in here.params for option in parameter.opts} | {"--help", "--version"}
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in known, f"{line}: {word} is not one of {sorted(known)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_linked_file_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", text):
        made = f"{FOLDER}/" in target  # the profile's reference, which `mkdocs` checks (test_docs_site.py)
        if "://" not in target and not made:
            assert (page.parent / target).exists(), target
