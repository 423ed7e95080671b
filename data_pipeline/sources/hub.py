"""Datasets of the Hugging Face Hub through the ``datasets`` library, streamed file by file.

A folder laid out like a hub repository works the same way without a network.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.config.sources import HuggingFaceSource
from data_pipeline.sources.item import Item
from stemma.core.errors import DamagedError
from stemma.core.packages import OutOfReach


class NoSuchDataset(Exception):
    """The hub or folder is there, but it has not what the profile names."""


def data_files(source: HuggingFaceSource, offline: bool) -> list[str]:
    """URLs of the data files of a source's split, in the dataset's order.

    Raises:
        NoSuchDataset: there is no such folder, configuration or split.
        OutOfReach: the hub does not answer, or the run is offline.
    """
    import datasets

    if source.is_folder and not folder_of(source).is_dir():
        raise NoSuchDataset(f"{source.repository} is no folder")
    if offline and not source.is_folder:
        raise OutOfReach("offline: the hub was not asked")
    try:
        builder = datasets.load_dataset_builder(
            str(folder_of(source)) if source.is_folder else source.repository,
            source.name,
            revision=source.revision,
        )
    except datasets.exceptions.DatasetNotFoundError as error:
        raise NoSuchDataset(f"{source.repository}: {first_line(error)}") from error
    except (ConnectionError, TimeoutError) as error:
        raise OutOfReach(f"the hub did not answer: {first_line(error)}") from error
    except (ValueError, FileNotFoundError) as error:
        raise NoSuchDataset(f"{source.repository}: {first_line(error)}") from error
    splits = builder.config.data_files or {}
    if source.split not in splits:
        raise NoSuchDataset(f"{source.repository} has no split {source.split!r}; it has {sorted(splits)}")
    return [str(url) for url in splits[source.split]]


def folder_of(source: HuggingFaceSource) -> Path:
    return Path(source.repository).expanduser().absolute()


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def file_name(number: int, url: str) -> str:
    """A data file's name here: its number, which finds its shard again, and its URL."""
    return f"{number:05d} {url}"


def url_of(name: str) -> str:
    """The URL in a name that ``file_name`` made; any other name is its own URL."""
    return re.sub(r"^\d{5} ", "", name)


def origin(source: HuggingFaceSource, name: str) -> str:
    """How lineage names a data file of a dataset."""
    if source.is_folder:
        return url_of(name)
    at = f"{source.repository}@{source.revision}/{source.name or 'default'}/{source.split}"
    return f"hf://datasets/{at}!{url_of(name).rpartition(f'@{source.revision}/')[2]}"


def rows(source: HuggingFaceSource, name: str) -> Iterator[Item]:
    """The texts of one data file of a dataset.

    Raises:
        DamagedError: the file cannot be read.
        SchemaError: it lacks a column of the text.
    """
    import datasets
    import pyarrow as pa

    from data_pipeline.sources.readers import SchemaError, joined

    repository = str(folder_of(source)) if source.is_folder else source.repository
    try:
        stream = datasets.load_dataset(  # which reads the schema, of the first file
            repository, source.name, split=source.split, revision=source.revision, streaming=True
        )
        shard = stream.shard(num_shards=stream.num_shards, index=int(name.split(" ")[0]))
        for number, row in enumerate(shard):
            values: list[Any] = []
            for field in source.fields:
                if field not in row:
                    raise SchemaError(
                        f"{origin(source, name)} has no column {field!r}; its columns are {', '.join(row)}. "
                        "Name one of them in `text_field`."
                    )
                values.append(row[field])
            yield joined(values, str(number), source.fields)
    except (pa.ArrowException, datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise DamagedError(
            f"{origin(source, name)} is not readable ({first_line(error)}). It was left as it is."
        ) from error
