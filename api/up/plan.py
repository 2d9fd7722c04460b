"""What `quiver up` will start, decided before anything is: parts, ports, keys, and each part's own environment."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values
from pydantic import SecretStr

from api.auth import required_key
from api.errors import ConfigurationError
from api.listener import listen
from api.settings import Settings
from api.up import keys, system_account
from api.up.embedded_postgres import find_binaries

LOCAL = "127.0.0.1"
# What only one part may know. The proxy with a DATABASE_URL would start a Prisma of its own on it.
SECRETS = (
    "DATABASE_URL",
    "DATABASE_DIRECT_URL",
    "DIRECT_URL",
    "SERVER_API_KEY",
    "EMBEDDING__API_KEY",
    "SPARSE__API_KEY",
    "LITELLM_MASTER_KEY",
)
# The click options of the proxy read these, which are ours.
PROXY_OPTIONS = ("HOST", "PORT")


@dataclass(frozen=True)
class Plan:
    settings: Settings  # with every key and port filled in
    home: Path
    key_setting: str | None  # the variable that the server's key came from; None when it was generated
    starts_postgres: bool
    starts_embedder: bool
    starts_proxy: bool
    proxy_config: Path | None

    @property
    def api_url(self) -> str:
        return _url(self.settings.host, self.settings.port)

    @property
    def embedder_url(self) -> str:
        """The embedder's base, which ends in /v1."""
        given = self.settings.embedder_base_url
        if given is None:
            return f"{_url(LOCAL, self.settings.embedder_port)}/v1"
        return given if given.rstrip("/").endswith("/v1") else f"{given.rstrip('/')}/v1"

    @property
    def proxy_url(self) -> str:
        return self.settings.embedding.base_url or _url(LOCAL, self.settings.litellm_port)

    @property
    def server_key(self) -> str:
        return _reveal(self.settings.server_api_key)

    def api_command(self, command: str) -> list[str]:
        return [sys.executable, "-m", "api.cli", command]

    def api_environment(self, database_url: str) -> dict[str, str]:
        """For the API and the worker."""
        settings = self.settings
        ours = {
            "DATABASE_URL": database_url,
            "SERVER_API_KEY": self.server_key,
            "HOST": settings.host,
            "PORT": str(settings.port),
            "EMBEDDING__BASE_URL": self.proxy_url,
            "LOG_FORMAT": settings.log_format if "log_format" in settings.model_fields_set else "console",
        }
        if settings.embedding.api_key is not None or self.starts_proxy:
            ours["EMBEDDING__API_KEY"] = _reveal(settings.embedding.api_key or settings.litellm_master_key)
        if settings.sparse.base_url is None:
            ours["SPARSE__BASE_URL"] = self.embedder_url
        if settings.sparse.api_key is not None:
            ours["SPARSE__API_KEY"] = _reveal(settings.sparse.api_key)
        if settings.database_direct_url is not None and not self.starts_postgres:
            ours["DATABASE_DIRECT_URL"] = _reveal(settings.database_direct_url)
        if settings.database_replica_url is not None and not self.starts_postgres:
            ours["DATABASE_REPLICA_URL"] = _reveal(settings.database_replica_url)
        return _without(os.environ, SECRETS) | ours

    def embedder_command(self) -> list[str]:
        return [sys.executable, "-m", "embedder"]

    def embedder_environment(self) -> dict[str, str]:
        ours = {
            "EMBEDDER_HOST": LOCAL,
            "EMBEDDER_PORT": str(self.settings.embedder_port),
            "EMBEDDER_LOG_FORMAT": os.environ.get("EMBEDDER_LOG_FORMAT", "console"),
        }
        return _without(os.environ, (*SECRETS, "OPENAI_API_KEY")) | ours

    def proxy_command(self) -> list[str]:
        program = Path(sys.executable).with_name("litellm")
        return [
            sys.executable,
            str(program if program.exists() else shutil.which("litellm") or "litellm"),
            *("--config", str(self.proxy_config)),
            *("--host", LOCAL),
            *("--port", str(self.settings.litellm_port)),
        ]

    def proxy_environment(self) -> dict[str, str]:
        """Providers' keys come along from the environment and `.env`, and what litellm_config.yaml asks for."""
        given = {name: value for name, value in dotenv_values(".env").items() if value is not None} | dict(os.environ)
        defaults = {
            "EMBEDDER_API_KEY": "none",
            "QUIVER_PG_VECTOR_STORE_ID": "quiver-pg-vector",
            "QUIVER_OPENAI_VECTOR_STORE_ID": "quiver-openai",
            "LITELLM_LOG": "ERROR",
        }
        ours = {
            "LITELLM_MASTER_KEY": _reveal(self.settings.litellm_master_key),
            "LITELLM_MODE": "PRODUCTION",  # else it reads `.env` by itself, DATABASE_URL and all
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the internet for prices
            "EMBEDDER_BASE_URL": self.embedder_url,
            "QUIVER_BASE_URL": f"{self.api_url}/v1",
            "QUIVER_API_KEY": self.server_key,
            "PG_VECTOR_API_BASE": self.api_url,
            "PG_VECTOR_API_KEY": self.server_key,
        }
        return defaults | _without(given, (*SECRETS, *PROXY_OPTIONS)) | ours


def make_plan(settings: Settings) -> Plan:
    """Decide what to start.

    Raises:
        ConfigurationError: a port is in use, a package is missing, or a setting is wrong; nothing was started.
    """
    starts_proxy = settings.embedding.base_url is None
    starts_embedder = starts_proxy and settings.embedder_base_url is None
    starts_postgres = settings.database_url is None
    if starts_postgres:
        find_binaries()
    if starts_embedder and importlib.util.find_spec("sentence_transformers") is None:
        raise _missing("The embedder", extra="embedder", setting="EMBEDDER_BASE_URL to an embedder")
    if starts_proxy and importlib.util.find_spec("litellm") is None:
        raise _missing("The LiteLLM proxy", extra="proxy", setting="EMBEDDING__BASE_URL to a proxy")
    proxy_config = _find_proxy_config(settings.litellm_config) if starts_proxy else None
    ports = _choose_ports(settings, starts_embedder=starts_embedder, starts_proxy=starts_proxy)
    if settings.server_api_key is not None:
        required_key(settings)
    home = settings.quiver_data_dir.expanduser().absolute()
    _create_home(home, shared_with_postgres=starts_postgres)
    generated = keys.load_or_create(home, _missing_keys(settings, starts_proxy=starts_proxy))
    return Plan(
        settings=settings.model_copy(update={**ports, **{name: SecretStr(key) for name, key in generated.items()}}),
        home=home,
        key_setting=_key_setting(settings),
        starts_postgres=starts_postgres,
        starts_embedder=starts_embedder,
        starts_proxy=starts_proxy,
        proxy_config=proxy_config,
    )


def _missing_keys(settings: Settings, *, starts_proxy: bool) -> list[str]:
    wanted = {"server_api_key": settings.server_api_key}
    if starts_proxy:
        wanted["litellm_master_key"] = settings.litellm_master_key
    return [name for name, key in wanted.items() if key is None]


def _key_setting(settings: Settings) -> str | None:
    if settings.server_api_key is None:
        return None
    return "OPENAI_API_KEY" if settings.server_api_key is settings.openai_api_key else "SERVER_API_KEY"


def _choose_ports(settings: Settings, *, starts_embedder: bool, starts_proxy: bool) -> dict[str, int]:
    """Each part's port, free ones in the place of 0; all are taken at once, so that no two are the same."""
    wanted = [("port", settings.host, settings.port, "HOST")]
    if starts_proxy:
        wanted.append(("litellm_port", LOCAL, settings.litellm_port, "LITELLM_PORT"))
    if starts_embedder:
        wanted.append(("embedder_port", LOCAL, settings.embedder_port, "EMBEDDER_PORT"))
    chosen: dict[str, int] = {}
    with ExitStack() as taken:
        for name, host, port, host_setting in wanted:
            listener = listen(host, port, host_setting=host_setting, port_setting=name.upper())
            chosen[name] = taken.enter_context(listener).getsockname()[1]
    return chosen


def _create_home(home: Path, *, shared_with_postgres: bool) -> None:
    """Make the data directory, for nobody else to enter; one that exists is left as it is.

    As root, PostgreSQL's user gets through to the directory below that is its own, but reads nothing here.
    """
    if home.is_dir():
        return
    try:
        home.mkdir(mode=0o700, parents=True)
        account = system_account.find_or_create() if shared_with_postgres else None
        if account is not None:
            os.chown(home, 0, account.pw_gid)
            home.chmod(0o710)
    except OSError as error:
        raise ConfigurationError(
            f"The data directory {str(home)!r} cannot be made ({error.strerror}): set QUIVER_DATA_DIR to one that can."
        ) from error


def _find_proxy_config(path: Path) -> Path:
    """Look in the current directory, then for the one that Quiver brings, which lies beside this file."""
    for candidate in (path.expanduser().absolute(), Path(__file__).with_name(str(path))):
        if candidate.is_file():
            return candidate
    raise ConfigurationError(
        f"There is no {str(path)!r}: set LITELLM_CONFIG to the LiteLLM proxy's configuration file, "
        "or EMBEDDING__BASE_URL to a proxy of your own."
    )


def _missing(what: str, *, extra: str, setting: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} needs its own packages: pip install 'quiver[{extra}]', or set {setting} of your own."
    )


def _url(host: str, port: int) -> str:
    reachable = {"0.0.0.0": LOCAL, "::": "[::1]", "": LOCAL}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{reachable}:{port}"


def _reveal(key: SecretStr | None) -> str:
    return key.get_secret_value() if key is not None else ""


def _without(environment: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.upper() not in names}
