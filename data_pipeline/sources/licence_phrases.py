"""The words by which well-known licences are recognised: by their own text, or by a notice in a file."""

# Families of (SPDX identifier, phrases that must all be there: words of lower-case letters and digits). Of a
# family the first that fits is taken, so titles of texts and the more particular ones come first. Families
# are independent.
MIT_GRANT = "permission is hereby granted free of charge to any person"
BSD_GRANT = "redistribution and use in source and binary forms"
ISC_GRANT = "distribute this software for any purpose with or without fee"
GPL, LGPL, AGPL = (f"gnu {kind}general public license" for kind in ("", "lesser ", "affero "))
LATER = "any later version"

FAMILIES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        ("AGPL-3.0-only", f"{AGPL} version 3 19 november 2007"),
        ("LGPL-3.0-only", f"{LGPL} version 3 29 june 2007"),
        ("LGPL-2.1-only", f"{LGPL} version 2 1 february 1999"),
        ("LGPL-2.0-only", "gnu library general public license version 2 june 1991"),
        ("GPL-3.0-only", f"{GPL} version 3 29 june 2007"),
        ("GPL-2.0-only", f"{GPL} version 2 june 1991"),
        ("AGPL-3.0-or-later", AGPL, LATER),
        ("AGPL-3.0-only", AGPL),
        ("LGPL-3.0-or-later", LGPL, "version 3", LATER),
        ("LGPL-3.0-only", LGPL, "version 3"),
        ("LGPL-2.1-or-later", LGPL, LATER),
        ("LGPL-2.1-only", LGPL),
        ("LGPL-2.0-or-later", "gnu library general public license"),
        ("GPL-3.0-or-later", GPL, "version 3", LATER),
        ("GPL-3.0-only", GPL, "version 3"),
        ("GPL-2.0-or-later", GPL, LATER),
        ("GPL-2.0-only", GPL),
    ),
    (
        ("BSD-4-Clause", BSD_GRANT, "all advertising materials"),
        ("BSD-3-Clause", BSD_GRANT, "endorse or promote products"),
        ("BSD-2-Clause", BSD_GRANT),
    ),
    (
        ("NCSA", MIT_GRANT, "redistributions of source code must retain"),
        ("BSL-1.0", MIT_GRANT, "or organization obtaining a copy"),
        ("MIT", MIT_GRANT, "and this permission notice"),
        ("MIT-0", MIT_GRANT),
        ("MIT", "under the mit license"),
        ("MIT", "under the terms of the mit license"),
    ),
    (("BSL-1.0", "boost software license version 1 0"),),
    (("ISC", ISC_GRANT),),
    (
        ("Apache-2.0", "apache license version 2 0 january 2004"),
        ("Apache-2.0", "under the apache license version 2 0"),
        ("Apache-2.0", "under the terms of the apache license version 2 0"),
        ("Apache-2.0", "apache org licenses license 2 0"),
    ),
    (
        ("MPL-2.0", "mozilla public license version 2 0"),
        ("MPL-2.0", "mozilla public license v 2 0"),
        ("MPL-1.1", "mozilla public license version 1 1"),
    ),
    (("Unlicense", "this is free and unencumbered software released into the public domain"),),
    (("Zlib", "provided as is without any express or implied warranty", "must not be misrepresented"),),
    (("CC0-1.0", "cc0 1 0 universal"), ("CC0-1.0", "creativecommons org publicdomain zero 1 0")),
    (
        ("CC-BY-SA-4.0", "attribution sharealike 4 0 international"),
        ("CC-BY-4.0", "attribution 4 0 international"),
    ),
    (
        ("PSF-2.0", "licensed to psf under a contributor agreement"),
        ("PSF-2.0", "python software foundation license version 2"),
    ),
    (
        ("EPL-2.0", "eclipse public license v 2 0"),
        ("EPL-2.0", "eclipse public license 2 0"),
        ("EPL-1.0", "eclipse public license v1 0"),
    ),
    (("CDDL-1.0", "common development and distribution license"),),
    (
        ("LicenseRef-proprietary", "proprietary and confidential"),
        ("LicenseRef-proprietary", "confidential and proprietary"),
        ("LicenseRef-proprietary", "unauthorized copying of this file"),
    ),
)
# One of these is in the head of every file that holds such phrases; most hold none and need no closer look.
HINTS = (
    *("license", "redistribution", "granted", "without fee", "warranty", "proprietary", "unauthorized"),
    *("cc0", "publicdomain", "public domain"),
)
