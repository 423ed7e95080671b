import contextlib
import importlib.metadata
import itertools
import pathlib
import sysconfig

import pytest
from datatrove.data import Document
from hypothesis import given
from hypothesis import strategies as st
from packaging.licenses import canonicalize_license_expression

from data_pipeline.cleaning.licence import BadExpression, LicenceIsPermitted, is_permitted
from data_pipeline.config.rewriting import Licence
from data_pipeline.sources.licences import stated

ALLOW = ("MIT", "Apache-2.0", "BSD-3-Clause", "GPL-2.0-only WITH Classpath-exception-2.0", "LicenseRef-house")


@pytest.mark.parametrize(
    ("expression", "permitted"),
    [
        ("MIT", True),
        ("mit", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT AND Apache-2.0", True),
        ("GPL-3.0-only OR MIT AND LGPL-3.0-only", False),  # AND binds closer
        ("MIT OR GPL-3.0-only AND LGPL-3.0-only", True),
        ("(GPL-3.0-only OR MIT) AND Apache-2.0", True),
        ("(GPL-3.0-only OR MIT) AND (ISC OR Apache-2.0) AND (BSD-3-Clause)", True),
        ("((GPL-3.0-only AND MIT) OR ISC)", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("GPL-2.0-only", False),
        ("GPL-2.0-only WITH GCC-exception-2.0", False),
        ("Apache-2.0+", True),
        ("LicenseRef-house", True),
        ("LicenseRef-other", False),
    ],
)
def test_expressions_mean_what_spdx_says(expression, permitted):
    assert is_permitted(expression, ALLOW) is permitted


@pytest.mark.parametrize(
    "expression", ["", "BSD", "MIT OR", "(MIT", "MIT Apache-2.0", "MIT WITH MIT", "see LICENSE", "MIT/X11"]
)
def test_what_is_no_expression_is_unknown(expression):
    with pytest.raises(BadExpression):
        is_permitted(expression, ALLOW)


NAMES = ("MIT", "ISC", "Zlib", "GPL-3.0-only")
EXPRESSIONS = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(
        lambda e: f"({e[0]} {e[1]} {e[2]})"
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, st.sets(st.sampled_from(NAMES), min_size=1))
def test_expressions_are_boolean_algebra(expression, allow):
    """Against Python's own ``and`` and ``or``."""
    python = canonicalize_license_expression(expression).replace("AND", "and").replace("OR", "or")
    for number, name in enumerate(NAMES):
        python = python.replace(name, f"names[{number}]")
    assert is_permitted(expression, allow) is eval(python, {"names": [name in allow for name in NAMES]})


@pytest.mark.parametrize(
    ("head", "expression"),
    [
        ("# SPDX-License-Identifier: MIT\n", "MIT"),
        ("/* SPDX-License-Identifier: MIT WITH LLVM-exception */\n", "MIT WITH LLVM-exception"),
        (
            "/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */",
            "GPL-2.0-only WITH Linux-syscall-note",
        ),
        ("// spdx-license-identifier: (MIT OR Apache-2.0)\n", "(MIT OR Apache-2.0)"),
        ("<!-- SPDX-License-Identifier: CC0-1.0 -->", "CC0-1.0"),
        ("# SPDX-License-Identifier: MIT\n# SPDX-License-Identifier: A OR B\n", "(MIT) AND (A OR B)"),
        ('# Licensed under the Apache License, Version 2.0 (the "License");\n', "Apache-2.0"),
        (
            " * You can redistribute it and/or modify\n * it under the terms of the GNU General\n"
            " * Public License as published by the Free Software Foundation; either version 2 of\n"
            " * the License, or (at your option) any later version.\n",
            "GPL-2.0-or-later",
        ),
        ("; under the GNU Lesser General Public License, version 3\n", "LGPL-3.0-only"),
        ("# GNU Affero General Public License ... any later version\n", "AGPL-3.0-or-later"),
        ("dnl Mozilla Public License, v. 2.0. If a copy", "MPL-2.0"),
        ("# Copyright ACME. Proprietary and Confidential.\n", "LicenseRef-proprietary"),
        ("# Under the MIT license.\n# Licensed to PSF under a Contributor Agreement.\n", "MIT AND PSF-2.0"),
        ("import os\n# license plates are read here\n", ""),
        ("def spdx(): return 'SPDX'\n", ""),
        ("x = 1\n" * 2_000 + "# SPDX-License-Identifier: MIT\n", ""),  # not in the head
        ("", ""),
    ],
)  # fmt: skip
def test_files_state_their_licence(head, expression):
    assert stated(head + "x = 1\n") == expression


def test_licences_are_recognised_in_real_files_of_installed_packages():
    """What the licence texts of installed distributions are recognised as agrees with their metadata."""
    agree, differ = 0, []
    for distribution in importlib.metadata.distributions():
        declared = distribution.metadata.get("License-Expression") or ""
        if declared not in ("MIT", "BSD-3-Clause", "BSD-2-Clause", "Apache-2.0", "ISC", "MPL-2.0"):
            continue
        for file in distribution.files or []:
            if file.name.upper().startswith(("LICENSE", "LICENCE")) and file.locate().is_file():
                text = file.locate().read_text(encoding="utf-8", errors="replace")
                found = stated(f'"""\n{text}\n"""')
                if found:
                    agree += declared in found
                    differ += [] if declared in found else [(distribution.name, declared, found)]
                break
    assert agree > 30
    assert len(differ) <= agree / 20, differ


def test_the_standard_library_passes_as_what_python_is_under():
    files = sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))
    step = LicenceIsPermitted(Licence())
    documents = [
        Document(f.read_text(encoding="utf-8"), f.name, metadata={"licence": "PSF-2.0"}) for f in files
    ]
    assert all(step.filter(document) is True for document in documents)
    stating = [d for d in documents if d.metadata.get("found")]
    assert len(stating) > 10
    assert {"PSF-2.0", "MIT"} <= {d.metadata["licence"] for d in stating}


def judge(text="x = 1", found=None, source="", **options):
    about = {"licence": source} | ({"licence_found": found} if found is not None else {})
    document = Document(text, "0", metadata=about)
    return LicenceIsPermitted(Licence(**options)).filter(document), document.metadata


def test_the_nearest_statement_decides():
    kept, about = judge("# SPDX-License-Identifier: mit\n", found="GPL-3.0-only", source="GPL-2.0-only")
    assert kept is True
    assert (about["licence"], about["found"]) == ("MIT", {"licence": "header"})
    kept, about = judge("# SPDX-License-Identifier: GPL-3.0-or-later\n", found="MIT", source="MIT")
    assert kept == (False, "licence")
    assert about["value"] == "GPL-3.0-or-later (header)"
    kept, about = judge(found="GPL-3.0-only", source="MIT")
    assert (kept, about["value"]) == ((False, "licence"), "GPL-3.0-only (reader)")
    kept, about = judge(found="", source="MIT")
    assert kept is True
    assert about["licence"] == "MIT"
    assert "found" not in about
    assert judge(source="MIT", allow=("ISC",))[0] == (False, "licence")
    # a licence file that nobody knows is not overruled by what the source says
    kept, about = judge(found="LicenseRef-unknown", source="MIT")
    assert (kept, about["value"]) == ((False, "licence"), "unknown: LicenseRef-unknown (reader)")


@pytest.mark.parametrize(
    ("source", "value"), [("", "unknown: none (source)"), ("BSD", "unknown: BSD (source)")]
)
def test_the_unknown_is_kept_or_rejected_by_option(source, value):
    kept, about = judge(source=source)
    assert (kept, about["value"]) == ((False, "licence"), value)
    kept, about = judge(source=source, unknown="keep")
    assert kept is True
    assert about == {"licence": source, "found": {"licence": value}}  # no value: that is for rejects


@given(st.text(alphabet="AND OR()MITWH+-.0lgpl", max_size=40))
def test_no_text_does_anything_but_pass_fail_or_be_refused(expression):
    with contextlib.suppress(BadExpression):
        is_permitted(expression, ALLOW)


def test_order_does_not_matter():
    names = ["MIT", "GPL-3.0-only", "ISC"]
    for order in itertools.permutations(names):
        assert is_permitted(" OR ".join(order), ["ISC"])
        assert not is_permitted(" AND ".join(order), ["ISC", "MIT"])
