"""Label many documents at an endpoint: concurrent, resumable, counted.

Answers are appended to a JSON-lines file, each as one write of one line that is forced to disk, under a key
of document, taxonomy, prompt and model. A run that dies loses only what was under way; what is there is not
paid for again, failures included, whatever run or corpus asks for the document next.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config.quality import EndpointConfig
from data_pipeline.quality.endpoint import PROMPT, Answer, Endpoint
from data_pipeline.quality.labels import Label
from data_pipeline.quality.sampling import Drawn, excerpt
from data_pipeline.quality.taxonomy import Taxonomy
from stemma.core.config import identity
from stemma.core.errors import StageFailed
from stemma.core.files import read_jsonl

ANSWERS = Path("labels") / "answers.jsonl"  # in a store's cache


@dataclass
class Bill:
    """What the labels of a sample took: totals over all its answers, paid for now or earlier.

    ``cost`` is in the currency of the configured prices.
    """

    documents: int = 0
    labelled: int = 0
    failed: int = 0
    reused: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def facts(self) -> dict[str, Any]:
        """What belongs to the result; how much of it was known before belongs to an attempt."""
        return {name: value for name, value in asdict(self).items() if name != "reused"}


class AnswerLog:
    """An append-only file of answers by key. Safe to share among threads of one process.

    Args:
        path: the file; made when the first answer is added. A line that a killed writer left torn is cut off.

    Raises:
        DamagedError: a whole line of it is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        self._lock = threading.Lock()
        if path.exists():
            _cut_torn_line(path)
        for row in read_jsonl(path):
            self.answers[row["key"]] = Answer(**row["answer"])

    def add(self, key: str, answer: Answer, **facts: Any) -> None:
        """Append an answer; on disk when this returns.

        Raises:
            OSError: it cannot be written, as when the disk is full; the file is as it was before.
        """
        line = json.dumps({"key": key, **facts, "answer": asdict(answer)}, ensure_ascii=False) + "\n"
        raw = line.encode()
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, raw) < len(raw):  # what there was room for
                    os.ftruncate(descriptor, size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self.answers[key] = answer


def _cut_torn_line(path: Path) -> None:
    with open(path, "rb+") as handle:
        content = handle.read()
        handle.truncate(content.rfind(b"\n") + 1)


def answer_key(document_id: str, taxonomy: Taxonomy, config: EndpointConfig) -> str:
    """What an answer depends on: document (its id hashes its text), taxonomy, prompt, model, sampling."""
    asked = identity(config)
    del asked["documents"], asked["max_failed"]
    parts = [document_id, taxonomy.canonical, PROMPT, asked]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def label_documents(
    sample: Sequence[Drawn],
    endpoint: Endpoint,
    log: AnswerLog,
    done: Callable[[int, int], None] = lambda step, total: None,
) -> tuple[list[Label], Bill]:
    """Have every document of a sample labelled.

    Args:
        sample: what to label.
        endpoint: who labels.
        log: where answers are kept; documents it has are not asked about again.
        done: called with how many documents are done, and of how many.

    Returns:
        the labels in the order of the sample, and what they took.

    Raises:
        EndpointError: the server is out of reach or refuses; answers so far are in the log.
        StageFailed: too many documents have no valid answer.
    """
    config, taxonomy = endpoint.config, endpoint.taxonomy
    keys = [answer_key(drawn.document.id, taxonomy, config) for drawn in sample]
    todo = [index for index, key in enumerate(keys) if key not in log.answers]
    count = len(sample) - len(todo)
    bill = Bill(documents=len(sample), reused=count)

    def ask(index: int) -> None:
        document = sample[index].document
        answer = endpoint.label(excerpt(sample[index].text, config.excerpt_chars))
        log.add(keys[index], answer, id=document.id, source=document.source, model=config.model)

    with ThreadPoolExecutor(config.concurrency) as threads:
        waiting: set[Future[None]] = {threads.submit(ask, index) for index in todo}
        try:
            while waiting:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                count += len(finished)
                done(count, len(sample))
        finally:
            for future in waiting:
                future.cancel()
    answers = [log.answers[key] for key in keys]
    for answer in answers:
        bill.answers += answer.attempts
        bill.prompt_tokens += answer.prompt_tokens
        bill.completion_tokens += answer.completion_tokens
    bill.failed = sum(bool(answer.failed) for answer in answers)
    bill.labelled = len(answers) - bill.failed
    prices = config.prompt_price * bill.prompt_tokens + config.completion_price * bill.completion_tokens
    bill.cost = prices / 1e6
    if bill.failed > config.max_failed * len(sample):
        example = next(answer.failed for answer in answers if answer.failed)
        raise StageFailed(
            f"{bill.failed} of {len(sample)} documents got no valid label from {config.model!r}; "
            f"quality.endpoint.max_failed is {config.max_failed:.0%}. The first: {example}. Take a model "
            "that keeps to JSON schemas, or raise attempts or max_failed"
        )
    labels = [
        Label(
            id=drawn.document.id,
            source=drawn.document.source,
            origin=drawn.document.origin,
            annotator=config.model,
            kind="model",
            taxonomy=taxonomy.version,
            subdomain=answer.subdomain,
            scores=answer.scores,
        )
        for drawn, answer in zip(sample, answers)
        if not answer.failed
    ]
    return labels, bill
