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


@pytest.mark.parametrize(
    ("head", "expression"),
    [
        (
            b"/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */",
            "GPL-2.0-only WITH Linux-syscall-note",
        ),
        (b"# SPDX-License-Identifier: (MIT OR Apache-2.0)\n#", "(MIT OR Apache-2.0)"),
        (b"<!-- SPDX-License-Identifier: CC0-1.0 -->", "CC0-1.0"),
        (b"// no licence here", ""),
    ],
)
def test_an_spdx_line_is_read_out_of_any_comment(head, expression):
    assert licences.in_file(head) == expression


def test_the_nearest_licence_file_counts_and_a_wheel_has_one_for_all():
    mit = b"Permission is hereby granted, free of charge. The above copyright notice and this permission"
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
        "ours": "Permission is hereby granted, free of charge",
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
