"""Licences that source trees state."""

import json
from pathlib import Path

import pytest
from datatrove.data import Document
from pydantic import TypeAdapter

from data_pipeline.cleaning.chain import Decide, build_chain
from data_pipeline.cleaning.records import RejectWriter, to_draft
from data_pipeline.config import LocalSource
from data_pipeline.config.cleaning import Chain
from data_pipeline.sources import licences
from data_pipeline.sources.documents import SourceReader, document_id
from data_pipeline.sources.find import look
from data_pipeline.sources.units import units

COMMON = Path("/usr/share/common-licenses")  # of every Debian system


@pytest.mark.skipif(not COMMON.is_dir(), reason="no Debian")
@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("Apache-2.0", "Apache-2.0"),
        ("BSD", "BSD-3-Clause"),
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("LGPL-3", "LGPL-3.0-only"),
        ("MPL-2.0", "MPL-2.0"),
        ("Artistic", licences.UNKNOWN),
    ],
)
def test_a_licence_is_known_by_its_text_though_it_names_others(name, expression):
    assert licences.of_text((COMMON / name).read_text()) == expression


def test_the_nearest_licence_file_counts_and_a_wheel_has_one_for_all():
    mit = (
        b"Permission is hereby granted, free of charge, to any person ... notice and this permission\nnotice"
    )
    apache = b"Apache License\nVersion 2.0, January 2004"
    files = {
        "pkg-1.dist-info/licenses/LICENSE": mit,
        "a/LICENSE-MIT": mit,
        "a/LICENSE-APACHE.txt": apache,
        "a/b/COPYING": b"All rights reserved.",
        "a/licensing.py": b"",
    }
    folders = licences.of_folders(files, lambda names: ((name, files[name]) for name in names))
    assert folders == {"": "MIT", "a": "Apache-2.0 OR MIT", "a/b": licences.UNKNOWN}
    assert licences.nearest(folders, "a/c/d.py") == "Apache-2.0 OR MIT"
    assert licences.nearest(folders, "a/b/d.py") == licences.UNKNOWN
    assert licences.nearest(folders, "pkg/x.py") == "MIT"


def test_what_a_reader_found_reaches_the_licence_filter_through_the_drafts(tmp_path):
    """Between reading and filtering there are Parquet rows of texts; the real steps on both sides of them."""
    texts = {
        "ours": "Permission is hereby granted, free of charge, to any person obtaining a copy",
        "theirs": "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007",
    }
    for name, text in texts.items():
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "COPYING").write_text(text)
        (tmp_path / "tree" / name / "a.c").write_text("int main(void) { return 0; }\n")
    about = {"domain": "code", "licence": "MIT", "filters": "code", "format": "code"}
    source = LocalSource(urls=(str(tmp_path / "tree"),), **about)
    work = units("s", source, look(source, None, True))
    reader = SourceReader(work, {"s": source}, 10_000, 10_000, RejectWriter(tmp_path / "rejects" / "read"))
    rows = [to_draft(None, document) for rank in range(len(work)) for document in reader.run(None, rank)]
    drafts = [Document(text=row.pop("text"), id=row.pop("id"), metadata=row) for row in rows]
    (step,) = TypeAdapter(Chain).validate_python([{"licence": {"allow": ["MIT-0"]}}])
    kept = iter(drafts)
    steps = build_chain((step,), "en", tmp_path / "rejects", tmp_path / "tallies")
    for each in [*steps, Decide(("licence",), document_id)]:
        kept = each.run(kept, 0, 1)
    (document,) = kept
    assert document.metadata["licence"] == "MIT-0"
    decisions = json.loads(document.metadata["decisions"])
    assert decisions["about"] == {"licence_found": "MIT-0", "path": "ours/a.c", "programming_language": "c"}
    assert decisions["found"] == {"licence": "reader"}


def test_every_part_of_a_long_file_is_under_what_its_head_says(tmp_path):
    """Only the first part has the header, and the others would pass as what their source is under."""
    (tmp_path / "a.txt").write_text("# SPDX-License-Identifier: GPL-3.0-only\n" + "x = 1\n" * 1_000)
    about = {"domain": "code", "licence": "MIT", "filters": "code", "format": "text"}
    source = LocalSource(urls=(str(tmp_path / "a.txt"),), **about)
    work = units("s", source, look(source, None, True))
    parts = list(SourceReader(work, {"s": source}, 1_000, 10_000, RejectWriter(tmp_path / "read")).run(None))
    assert len(parts) == 7
    (step,) = TypeAdapter(Chain).validate_python([{"licence": {"allow": ["MIT"]}}])
    kept = iter(parts)
    for each in build_chain((step,), "en", tmp_path / "rejects", tmp_path / "tallies"):
        kept = each.run(kept, 0, 1)
    assert list(kept) == []


def test_a_licence_file_that_changes_makes_another_corpus(tmp_path):
    """What the licence filter keeps depends on it, though no file that is read has changed."""
    (tmp_path / "a.c").write_text("int a;\n")
    (tmp_path / "COPYING").write_text("GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007")
    about = {"domain": "code", "licence": "MIT", "filters": "code", "format": "code"}
    source = LocalSource(urls=(str(tmp_path),), **about)
    before = look(source, None, True).digest
    assert look(source, None, True).digest == before
    (tmp_path / "COPYING").write_text("Apache License\nVersion 2.0, January 2004")
    assert look(source, None, True).digest != before
