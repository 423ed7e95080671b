"""Licences that source trees state."""

from pathlib import Path

import pytest

from data_pipeline.sources import licences

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
