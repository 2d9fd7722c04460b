"""`quiver migrate` from beginning to end: look, show, ask, move, verify."""

import hashlib
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from api.embeddings import Embeddings
from api.errors import ConfigurationError
from api.migrate import opening
from api.migrate.api_target import ApiTarget
from api.migrate.checks import Limits
from api.migrate.database_target import DatabaseTarget
from api.migrate.embedding import Embedder
from api.migrate.fields import LEFT_OUT
from api.migrate.moving import Move, move
from api.migrate.options import Options
from api.migrate.progress import Progress, duration, rows_of, say
from api.migrate.records import Record, Source, StoreSettings, Tally
from api.migrate.rejects import Rejects, check_writable
from api.migrate.target import StoreFacts, Target
from api.migrate.trial import try_out
from api.migrate.verify import Verdict, verify
from api.settings import Settings
from api.tables.migration_checkpoints import Checkpoint

SHOWN_CHARACTERS = 60
SHOWN_ROWS = 3
PROBLEMS_SHOWN = 5


async def run(options: Options, settings: Settings) -> bool:
    """Migrate every source that was meant. False: the verification found something wrong.

    Raises:
        ConfigurationError: an option is wrong, or nobody said yes.
        ApiError: source, target or embedding service is away; the same command goes on later.
    """
    if options.re_embed:
        options = replace(
            options, source=replace(options.source, fields=replace(options.source.fields, ignores_vectors=True))
        )
    async with opening.open_sources(options.source) as sources:
        if len(sources) > 1 and options.store is not None:
            raise ConfigurationError(
                f"--store names one store, and there are {len(sources)} sources: choose one with --collection, "
                "or leave --store out to make a store for each."
            )
        target = await _open_target(options, settings)
        try:
            verdicts = [await _Migration(options, source, target, settings).run() for source in sources]
        finally:
            await target.close()
    return all(verdicts)


async def _open_target(options: Options, settings: Settings) -> Target:
    if options.api_url is not None:
        directory = options.rejects.parent if options.rejects else Path()
        return ApiTarget(options.api_url, options.api_key, directory=directory)
    if settings.database_url is None:
        raise ConfigurationError(
            "Say where the rows go: --database-url or DATABASE_URL for Quiver's database, or --api-url for its API."
        )
    return await DatabaseTarget.open(settings)


class _Migration:
    """One source into one store."""

    def __init__(self, options: Options, source: Source, target: Target, settings: Settings) -> None:
        self._options = options
        self._source = source
        self._target = target
        self._settings = settings
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    async def run(self) -> bool:
        options, source = self._options, self._source
        is_embedding = options.re_embed or not source.has_vectors
        checkpoint = await self._target.find(self._id)
        total, first = await source.count(), await _first(source)
        store = await self._existing_store(None if checkpoint is None else checkpoint["vector_store_id"])
        dimension = options.dimension or (store.dimension if store else None)
        if dimension is None and not is_embedding:
            dimension = _commonest_dimension(first)
        limits = Limits(dimension, not is_embedding, options.max_text_bytes)
        self._show(first, total=total, limits=limits, store=store, done=_done(checkpoint))
        if options.verify_only:
            if store is None:
                raise ConfigurationError("Nothing has been migrated from there yet; nothing can be verified.")
            return await self._verify(store, limits, total)
        if options.dry_run:
            await try_out(source, self._target, limits, total=total)
            return True
        check_writable(self._rejects_path())
        self._ask()
        store, checkpoint = await self._target.begin(
            self._id,
            source=source.shown,
            store_id=options.store,
            settings=self._settings_of_store(),
            dimension=dimension,
        )
        limits = replace(limits, dimension=limits.dimension or store.dimension)
        length = None if checkpoint["is_finished"] else checkpoint["rejects_bytes"]
        rejects = Rejects(self._rejects_path(), length=length)
        started = time.monotonic()
        done = _done(checkpoint)
        async with AsyncExitStack() as stack:
            embed = None
            if is_embedding and options.api_url is None:  # the API embeds by itself
                embeddings = Embeddings(self._settings.embedding)
                stack.push_async_callback(embeddings.close)
                embed = Embedder(embeddings, store).embed
            progress = stack.enter_context(Progress(f"Into {store.id}", total=total, done=done))
            work = Move(source, self._target, store, limits, embed)
            tally = await move(work, checkpoint, rejects, on_progress=progress.show)
        self._report(tally, store, rejects, seconds=time.monotonic() - started, done=done)
        is_good = not tally.rejected or tally.written + tally.skipped > 0
        return is_good and (not options.verifies or await self._verify(store, limits, total))

    @property
    def _id(self) -> str:
        """The migration's: the same source, read in the same way, into the same store, is the same migration."""
        options = self._options
        model = options.embedding_model if options.re_embed else None
        reading = {role: name for role, name in self._source.reading.items() if role != LEFT_OUT}
        parts = [self._source.identity, reading, options.store, options.name, options.re_embed, model]
        return f"mig_{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"

    async def _existing_store(self, of_checkpoint: str | None) -> StoreFacts | None:
        if self._options.store is not None:
            return await self._target.find_store(self._options.store)
        return None if of_checkpoint is None else await self._target.find_store(of_checkpoint)

    def _settings_of_store(self) -> StoreSettings:
        options, own = self._options, self._source.store
        return replace(
            own,
            name=options.name or own.name,
            embedding_model=options.embedding_model or (None if options.re_embed else own.embedding_model),
        )

    def _rejects_path(self) -> Path:
        return self._options.rejects or Path(f"quiver-rejects-{self._id[4:12]}.jsonl")

    def _show(
        self, first: list[Record], *, total: int | None, limits: Limits, store: StoreFacts | None, done: int
    ) -> None:
        options, settings = self._options, self._settings_of_store()
        model = (store and store.model) or settings.embedding_model or self._settings.embedding.model

        def row(name: str, value: str) -> None:
            self._console.print(Text.assemble((f"{name:14} ", "bold"), value))

        rows = "" if total is None else f", {rows_of(total)}"
        row("from", f"{self._source.shown}{rows}")
        for role, name in self._source.reading.items():
            row(f"  {role}", name)
        into = f"store {store.id} ({store.name})" if store else f"a new store {settings.name!r}"
        row("into", f"{into}, {self._target.shown}")
        row(
            "  dimensions", str(limits.dimension or ("not known yet" if limits.needs_vectors else "those of the model"))
        )
        row("  model", f"{model}, {'for the questions of searches' if limits.needs_vectors else 'embeds all texts'}")
        row("rejected rows", str(self._rejects_path()))
        if done:
            row("so far", f"{rows_of(done)} done{'' if options.verify_only else '; the migration goes on behind them'}")
        for record in first[:SHOWN_ROWS]:
            text = " ".join((record.content or "")[: SHOWN_CHARACTERS * 2].split())[:SHOWN_CHARACTERS]
            size = "no vector" if record.vector is None else f"{record.vector.size} numbers"
            self._console.print(Text(f"  {record.id}: {text!r}, {size}, {record.metadata!r}"[:200], style="dim"))
        if not first:
            self._console.print("The source has no rows.")

    def _ask(self) -> None:
        if self._options.yes:
            return
        if not sys.stdin.isatty():
            raise ConfigurationError(
                "Nobody can be asked whether this is right; say --yes, or --dry-run to look first."
            )
        if _answer("Is that right? [y/N] ").strip().lower() not in ("y", "yes"):
            raise ConfigurationError("Nothing was done. Options name the fields: see quiver migrate --help.")

    def _report(self, tally: Tally, store: StoreFacts, rejects: Rejects, *, seconds: float, done: int) -> None:
        rate = (tally.read - done) / max(seconds, 1e-9)
        say(
            f"Written into store {store.id}: {rows_of(tally.written)}; there before: {tally.skipped:,}; "
            f"rejected: {tally.rejected:,} ({duration(seconds)}, {rate:,.0f} rows a second)."
        )
        if tally.rejected:
            say(f"The rejected rows are in {rejects.path}, with the reasons:")
            for reason, count in Counter(tally.reasons).most_common(PROBLEMS_SHOWN):
                say(f"  {rows_of(count)}: {reason}")
        if tally.rejected and not tally.written + tally.skipped:
            say("Not one row could go. Options name the fields: see quiver migrate --help.")

    async def _verify(self, store: StoreFacts, limits: Limits, total: int | None) -> bool:
        with Progress("Verifying", total=total) as progress:
            verdict = await verify(self._source, self._target, store, limits, on_progress=progress.show)
        return report_verdict(verdict)


def report_verdict(verdict: Verdict) -> bool:
    if not verdict.problems:
        searches = f", {verdict.searches} searches agree" if verdict.searches else ""
        say(
            f"Verified: {rows_of(verdict.rows)} of the source can go, and all {verdict.looked_up:,} that were looked "
            f"for are in the store; {rows_of(verdict.compared)} compared and equal{searches}."
        )
        return True
    say("The verification failed:")
    for problem, ids in verdict.problems.items():
        say(f"  {len(ids):,} rows {problem}, such as {ids[0]!r}")
    return False


def _answer(question: str) -> str:
    """What is typed; nothing at the end of the input. Ctrl-C counts at once, which asyncio would keep for later."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input(question)
    except EOFError:
        return ""
    finally:
        signal.signal(signal.SIGINT, before)


async def _first(source: Source) -> list[Record]:
    async with aclosing(source.read()) as batches:
        async for batch in batches:
            return batch.records
    return []


def _done(checkpoint: Checkpoint | None) -> int:
    if checkpoint is None:
        return 0
    return checkpoint["rows_written"] + checkpoint["rows_skipped"] + checkpoint["rows_rejected"]


def _commonest_dimension(records: list[Record]) -> int | None:
    sizes = Counter(record.vector.size for record in records if record.vector is not None)
    return sizes.most_common(1)[0][0] if sizes else None
