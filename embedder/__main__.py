"""`python -m embedder`: load the model, listen, and stop cleanly."""

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import structlog
import typer
import uvicorn
from pydantic import ValidationError

from embedder import logs
from embedder.errors import ConfigurationWrong, ModelUnavailable
from embedder.metrics import Metrics
from embedder.server import assemble, opened
from embedder.service import Service
from embedder.settings import Settings
from embedder.tracing import tracer_provider

MISCONFIGURED = 2  # the exit status when the embedder cannot start as it is configured
GARBAGE_OBJECTS = 20_000  # new ones before the collector looks; at Python's 700 it looks every seventh request
KEEP_ALIVE_SECONDS = 75  # longer than callers keep idle connections: else one may be closed as a request comes

log = structlog.get_logger()
program = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@program.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. [EMBEDDER_HOST, 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on. [EMBEDDER_PORT, 8001]")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The bundled all-minilm-l6-v2, or a sentence-transformers model by name or directory. "
            "[EMBEDDER_MODEL, all-minilm-l6-v2]"
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file that declares the models, instead of the one. [EMBEDDER_CONFIG]"),
    ] = None,
) -> None:
    """Serve embeddings, sparse embeddings and reranking over the APIs of OpenAI, Cohere, Jina and others.

    The bundled model needs no network and no key. The port opens when it is loaded, so the first answer of
    /health is the sign that all is ready. Models declared in a file, with EMBEDDER_CONFIG, are loaded while the
    port is open: /ready says when. Ctrl-C or SIGTERM finishes what was admitted, within
    EMBEDDER_SHUTDOWN_SECONDS, then ends; a second one ends at once.

    Each option is also an environment variable (in brackets, with its default), as are EMBEDDER_API_KEY
    (asked of callers), EMBEDDER_ADMIN_KEY (opens /admin/models), EMBEDDER_SERVED_NAME, EMBEDDER_ENGINE,
    EMBEDDER_THREADS, EMBEDDER_CACHE_DIR, EMBEDDER_MAX_TEXTS, EMBEDDER_MAX_QUEUED_TOKENS,
    EMBEDDER_LOG_LEVEL (debug, info, warning, error), EMBEDDER_LOG_FORMAT (json, console) and more.

    Try it: `curl localhost:8001/v1/embeddings -d '{"model": "all-minilm-l6-v2", "input": "Hello"}'`
    """
    # uvicorn raises the signal again when it has shut down; this makes it, and one before that, a clean end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_well)
    settings = read_settings({"host": host, "port": port, "model": model, "config": config})
    logs.configure(level=settings.log_level, form=settings.log_format)
    try:
        run(settings)
    except (ModelUnavailable, ConfigurationWrong) as error:
        give_up(str(error))
    except OSError as error:
        give_up(why_not_listening(error, settings))


def end_well(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def read_settings(options: dict[str, str | int | Path | None]) -> Settings:
    try:
        return Settings.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        give_up(f"EMBEDDER_{first['loc'][0]}".upper() + f": {first['msg']}.")


def run(settings: Settings) -> None:
    with listener(settings) as bound, asyncio.Runner(loop_factory=new_event_loop()) as runner:
        runner.run(run_on(bound, settings))


class Server(uvicorn.Server):
    """Stops at the first signal when what was admitted is finished, at the second one at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)  # as a shell tells it
        super().handle_exit(sig, frame)


async def run_on(bound: socket.socket, settings: Settings) -> None:
    metrics = Metrics()
    async with tracer_provider() as provider, opened(settings, metrics) as pool:
        gc.set_threshold(GARBAGE_OBJECTS)
        gc.freeze()  # what was imported stays; walking over it costs a second at exit, and pauses before
        app = assemble(settings, metrics, provider=provider)
        app.state.service = Service(settings, pool, metrics)
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing here asks for the caller's address
            timeout_graceful_shutdown=settings.shutdown_seconds,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        host, port = bound.getsockname()[:2]
        log.info("ready", host=host, port=port, models=[model.declaration.name for model in pool.models])
        await Server(config).serve(sockets=[bound])


def new_event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ModuleNotFoundError:  # it is not made for Windows
        return None
    return uvloop.new_event_loop


def listener(settings: Settings) -> socket.socket:
    """Take the port before the model is loaded: one in use is told at once. uvicorn listens on it later."""
    family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    return bound


def why_not_listening(error: OSError, settings: Settings) -> str:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"Another program listens on {where}; stop it, or choose another --port (EMBEDDER_PORT)."
    return f"The embedder cannot listen on {where}: {error.strerror}; choose with --host and --port."


def give_up(message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    sys.exit(MISCONFIGURED)


def main() -> None:
    """Run the program, and end at once when it is over: a model that is still being loaded would abort the process."""
    status: object = 0
    try:
        program(prog_name="python -m embedder")
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    main()
