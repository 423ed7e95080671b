"""Imports spaCy without torch, which its library of arrays would import too: two seconds in every worker, for
nothing that splitting words needs. Import this before the first module of spaCy."""

import sys

if "torch" not in sys.modules:
    sys.modules["torch"] = None  # type: ignore[assignment]  # what Python takes for "not installed"
    try:
        import spacy  # noqa: F401
    finally:
        del sys.modules["torch"]
