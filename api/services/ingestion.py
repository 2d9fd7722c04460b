"""What a worker does with a file in a store: read it, extract its text, cut it into chunks, embed and write them.

Nothing of a file is in its store until all of it is: one transaction at the end writes its chunks, its status and the
counts. A worker that dies before that leaves nothing behind, and another begins anew.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TextIO

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from api import chunking, extraction, tokenizers
from api.chunking import Chunk
from api.errors import ApiError, EmbeddingTimeout, EmbeddingUnavailable, InvalidRequest
from api.extraction import ExtractionError, ExtractorFailed
from api.resources import Resources
from api.schemas.vector_store_files import LastError
from api.schemas.vector_stores import VectorStore
from api.services import stores
from api.services.spool import Spool
from api.tables import file_chunks, files, jobs, vector_store_files, vector_stores
from api.tables.file_chunks import ChunkedFile
from api.tables.vector_store_files import Claim
from api.vectors import Vectors

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# Texts in one call to the proxy. Several files are embedded at once, by several workers, and behind the proxy there
# may be two cores: a call of 32 texts is answered within seconds there, too.
EMBED_TEXTS = 32
EMBED_RETRY_SECONDS = 60  # for one call, so that a short absence of the proxy does not cost the work done so far

# On AWS Lambda a worker ends after some minutes. A file that had most of them so often takes longer than one has.
MAX_CUT_OFFS = 3
CUT_OFF_SHARE = 0.5

MAX_STARTS = 20  # killed that often in the middle, it is not the workers' fault
MAX_EXTRACTIONS = 3  # a process that the system killed for want of memory may have been another's fault

TEXT_PIECE_CHARACTERS = 256 * 1024

TOO_LONG_FOR_LAMBDA = (
    "The file takes longer than an invocation of AWS Lambda may: run `quiver worker` in a container, and put the file "
    "into the vector store again."
)

UNAVAILABLE = (EmbeddingUnavailable, EmbeddingTimeout)


class _Superseded(Exception):
    """The file was cancelled, taken out or put in anew meanwhile."""


async def ingest(
    resources: Resources, vector_store_id: str, file_id: str, *, worker_seconds: float | None = None
) -> None:
    """Bring a waiting file into its store, or note why it cannot be.

    Does nothing for a file that nobody waits for. `worker_seconds` is the time of a worker that has only so much.

    Raises:
        ApiError: something is away that may come back; try again later.
        ExtractorFailed: likewise.
    """
    async with resources.database.connection() as connection:
        claim = await vector_store_files.claim(connection, vector_store_id, file_id)
    if claim is None:
        return
    started = time.monotonic()
    facts = {"vector_store_id": vector_store_id, "file_id": file_id}
    try:
        if claim["starts"] > MAX_STARTS:
            raise ExtractionError("The worker was killed again and again while it had this file; its log may say why.")
        with Spool() as spool:
            filename = await _fill(resources, vector_store_id, file_id, claim, spool)
            await _complete(resources, vector_store_id, ChunkedFile(file_id, filename, None), claim, spool)
        resources.metrics.count_file("completed", chunks=spool.chunks)
        log.info("file_ingested", **facts, chunks=spool.chunks, seconds=round(time.monotonic() - started, 3))
    except asyncio.CancelledError:  # this worker stops
        is_cut_off = bool(worker_seconds) and time.monotonic() - started >= CUT_OFF_SHARE * worker_seconds
        with suppress(ApiError):
            await _interrupt(resources, vector_store_id, file_id, claim, is_cut_off=is_cut_off)
        raise
    except _Superseded:
        resources.metrics.count_file("superseded")
        log.info("ingestion_superseded", **facts)
    except ExtractionError as error:
        if isinstance(error, ExtractorFailed) and claim["starts"] < MAX_EXTRACTIONS:
            resources.metrics.count_file("retried")
            raise
        resources.metrics.count_file("failed")
        log.info("file_failed", **facts, code=error.code, message=error.message, detail=error.detail)
        await _fail(resources, vector_store_id, file_id, claim, {"code": error.code, "message": error.message})
    except ApiError as error:
        if not _is_final(error) and claim["age_seconds"] < resources.settings.ingestion_retry_seconds:
            resources.metrics.count_file("retried")
            await _release(resources, vector_store_id, file_id, claim)
            raise
        resources.metrics.count_file("failed")
        log.warning("file_failed", **facts, code=error.code, message=error.message)
        await _fail(resources, vector_store_id, file_id, claim, {"code": "server_error", "message": error.message})


async def requeue_lost(resources: Resources) -> list[tuple[str, str]]:
    """Have files ingested that wait without a job, and answer with their stores' ids and theirs."""
    async with resources.database.transaction() as connection:
        lost = await jobs.list_lost(connection)
        for vector_store_id, file_id in lost:
            await jobs.enqueue(connection, vector_store_id, [file_id])
    return lost


async def _fill(resources: Resources, vector_store_id: str, file_id: str, claim: Claim, spool: Spool) -> str:
    """Put all chunks of the file with their vectors into the spool, and answer with the file's name."""
    async with resources.database.connection() as connection:
        store = await stores.get_unexpired(connection, vector_store_id)
        file = await files.find(connection, file_id)
    if file is None:  # it has expired, and will be taken out
        raise _Superseded
    model = store["embedding_model"] or resources.embeddings.default_model
    tokenizer = await asyncio.to_thread(tokenizers.tokenizer_for, model)
    sizes = claim["chunking_strategy"]["static"]
    kind, text = await _extract(resources, file_id, file["filename"])
    with text:
        chunks = chunking.split(
            _pieces(text),
            kind=kind,
            max_tokens=sizes["max_chunk_size_tokens"],
            overlap_tokens=sizes["chunk_overlap_tokens"],
            tokenizer=tokenizer,
        )
        following = await asyncio.to_thread(_next_texts, chunks)
        while texts := following:
            await _require_claimed(resources, vector_store_id, file_id, claim)
            # The next are cut while these are embedded.
            cutting = asyncio.create_task(asyncio.to_thread(_next_texts, chunks))
            try:
                vectors = await _embed(resources, store, model, texts)
            finally:
                following = await cutting  # a generator runs in one thread at a time, and is closed in none
            await asyncio.to_thread(spool.append, texts, vectors)
    return file["filename"]


async def _extract(resources: Resources, file_id: str, filename: str) -> tuple[extraction.Kind, TextIO]:
    """The kind of the file's text, and the text opened; its file has no name any more and goes when it is closed."""
    with tempfile.TemporaryDirectory(prefix="quiver-") as directory:
        into = Path(directory) / "text"
        try:
            async with resources.blobs.local_copy(file_id) as path:
                extracted = await extraction.extract(path, filename=filename, into=into)
        except FileNotFoundError as error:
            message = "The content of the file is not in the server's storage; upload it again."
            raise ExtractionError(message) from error
        return extracted.kind, into.open(encoding="utf-8", newline="")


def _pieces(text: TextIO) -> Iterator[str]:
    while piece := text.read(TEXT_PIECE_CHARACTERS):
        yield piece


def _next_texts(chunks: Iterator[Chunk]) -> list[str]:
    return [chunk.text for chunk in islice(chunks, EMBED_TEXTS)]


async def _embed(resources: Resources, store: VectorStore, model: str, texts: list[str]) -> Vectors:
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(UNAVAILABLE),
        stop=stop_after_delay(EMBED_RETRY_SECONDS),
        wait=wait_exponential_jitter(multiplier=0.5, max=10),
        reraise=True,
    )
    return await retrying(resources.embeddings.embed, texts, model=model, dimension=store["embedding_dimension"])


async def _require_claimed(resources: Resources, vector_store_id: str, file_id: str, claim: Claim) -> None:
    async with resources.database.connection() as connection:
        if not await vector_store_files.is_claimed(connection, vector_store_id, file_id, claim["created_at"]):
            raise _Superseded


async def _complete(resources: Resources, vector_store_id: str, file: ChunkedFile, claim: Claim, spool: Spool) -> None:
    """Write the chunks and the file's status; a file that is ingested anew loses those it had.

    Raises:
        InvalidRequest: the store has vectors of another dimension by now.
    """
    table = await resources.database.chunk_table()
    async with resources.database.transaction(is_long=True) as connection:
        if not await vector_stores.hold(connection, vector_store_id):
            raise _Superseded
        there = await vector_store_files.lock_claimed(connection, vector_store_id, file.file_id, claim["created_at"])
        if there is None:
            raise _Superseded
        await file_chunks.delete(connection, table, vector_store_id, [file.file_id])
        file = ChunkedFile(file.file_id, file.filename, there["attributes"])
        start = 0
        for texts, vectors in spool.read():
            await file_chunks.copy(connection, table, vector_store_id, file, start=start, texts=texts, vectors=vectors)
            start += len(texts)
        await vector_store_files.settle(
            connection,
            vector_store_id,
            file.file_id,
            status="completed",
            last_error=None,
            usage_bytes=spool.usage_bytes,
        )
        is_counted = await vector_stores.count_files(
            connection,
            vector_store_id,
            {"in_progress": -1, "completed": 1},
            usage_bytes=spool.usage_bytes - there["usage_bytes"],
            dimension=spool.dimension,
        )
        if not is_counted:
            raise InvalidRequest(
                f"The vector store has vectors of another dimension than {spool.dimension}, the model's.",
                code="embedding_dimension_mismatch",
            )


async def _fail(resources: Resources, vector_store_id: str, file_id: str, claim: Claim, last_error: LastError) -> None:
    table = await resources.database.chunk_table()
    async with resources.database.transaction() as connection:
        if not await vector_stores.hold(connection, vector_store_id):
            return
        there = await vector_store_files.lock_claimed(connection, vector_store_id, file_id, claim["created_at"])
        if there is None:
            return
        await file_chunks.delete(connection, table, vector_store_id, [file_id])
        await vector_store_files.settle(
            connection, vector_store_id, file_id, status="failed", last_error=last_error, usage_bytes=0
        )
        await vector_stores.count_files(
            connection,
            vector_store_id,
            {"in_progress": -1, "failed": 1},
            usage_bytes=-there["usage_bytes"],
            dimension=None,
        )


async def _interrupt(
    resources: Resources, vector_store_id: str, file_id: str, claim: Claim, *, is_cut_off: bool
) -> None:
    """Leave the file to another worker; one that was cut off once too often is given up."""
    if not is_cut_off:
        await _release(resources, vector_store_id, file_id, claim)
    elif claim["starts"] >= MAX_CUT_OFFS:
        log.warning("file_failed", vector_store_id=vector_store_id, file_id=file_id, message=TOO_LONG_FOR_LAMBDA)
        last_error: LastError = {"code": "server_error", "message": TOO_LONG_FOR_LAMBDA}
        await _fail(resources, vector_store_id, file_id, claim, last_error)


async def _release(resources: Resources, vector_store_id: str, file_id: str, claim: Claim) -> None:
    """Have this start not count among those that killed a worker."""
    async with resources.database.connection() as connection:
        await vector_store_files.release(connection, vector_store_id, file_id, claim["created_at"])


def _is_final(error: ApiError) -> bool:
    """Whether trying again would fail in the same way."""
    return isinstance(error, InvalidRequest) or error.code == "embedding_dimension_mismatch"
