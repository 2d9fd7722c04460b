"""Callers' keys: made, listed and revoked; and looked up for each request, from a short memory."""

import hashlib
import secrets
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from api import ids
from api.errors import ApiError, Forbidden, InvalidRequest, NotFound
from api.resources import Resources
from api.schemas.keys import ApiKey, ApiKeyDeleted, ApiKeyPage, CreateApiKeyRequest, Role
from api.schemas.requests import PageQuery
from api.services import paging
from api.tables import api_keys, vector_stores
from api.tables.api_keys import Grant
from api.tables.scope import DEFAULT_TENANT, EVERYTHING, Scope

PREFIX = "qv_"  # by which a secret that leaked is recognised
ENDING_CHARACTERS = 4

REMEMBERED_SECONDS = 5.0  # a revoked key works for so long at most
MAX_REMEMBERED = 10_000


@dataclass(frozen=True)
class Caller:
    """Who sent a request: what it may do and see. Without an `api_key_id` it is the server's own key."""

    role: Role
    scope: Scope
    api_key_id: str | None = None
    requests_per_minute: int | None = None


SERVER = Caller("admin", EVERYTHING)


class Keyring:
    """The keys that this process has seen within the last seconds. One for a process."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._known: OrderedDict[bytes, tuple[Grant, float]] = OrderedDict()

    async def find(self, key: str) -> Caller | None:
        """Whose key it is; None for one that there is not, or that has expired.

        Raises:
            DatabaseUnavailable: the database cannot be asked.
        """
        digest = _digest(key)
        known = self._known.get(digest)
        if known is not None and time.monotonic() < known[1]:
            return _caller(known[0])
        self._known.pop(digest, None)
        async with self._resources.database.connection() as connection:
            grant = await api_keys.find_grant(connection, digest)
            if grant is None:
                return None
            self._known[digest] = (grant, time.monotonic() + REMEMBERED_SECONDS)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        if grant["is_unnoted"]:
            with suppress(ApiError):  # a database that can only be read is no reason to refuse
                async with self._resources.database.connection() as connection:
                    await api_keys.note_use(connection, grant["id"])
        return _caller(grant)


async def create(resources: Resources, request: CreateApiKeyRequest) -> ApiKey:
    """Make a key. The answer has it, and nothing else ever will.

    Raises:
        Forbidden: it is to be for another tenant than the caller's.
        InvalidRequest: it would be expired.
        NotFound: a store is named that the tenant does not have.
    """
    tenant = _tenant(resources.database.scope, request)
    if request.expires_at is not None and request.expires_at <= time.time():
        raise InvalidRequest("expires_at must be in the future.", param="expires_at")
    key = PREFIX + secrets.token_urlsafe(32)
    id = ids.new_ids("key", 1)[0]
    values: dict[str, Any] = {
        **request.model_dump(),
        "tenant": tenant,
        "hash": _digest(key),
        "ending": key[-ENDING_CHARACTERS:],
    }
    async with resources.database.connection() as connection:
        if request.vector_store_ids is not None:
            existing = await vector_stores.list_existing(
                connection, request.vector_store_ids, tenant=tenant or DEFAULT_TENANT
            )
            for vector_store_id in request.vector_store_ids:
                if vector_store_id not in existing:
                    raise NotFound(f"No vector store found with id {vector_store_id!r}.", param="vector_store_ids")
        created_at = ids.created_at(id) or datetime.now(UTC)
        row = await api_keys.insert(connection, id=id, created_at=created_at, values=values)
    return {**row, "value": key}


async def list_page(resources: Resources, query: PageQuery) -> ApiKeyPage:
    """A page of keys in the order of their creation, ties by id."""
    async with resources.database.connection() as connection:
        after = await paging.position(connection, query.after, param="after", find=api_keys.find_created_at)
        before = await paging.position(connection, query.before, param="before", find=api_keys.find_created_at)
        above, below = paging.bounds(query, after, before)
        rows = await api_keys.list_between(
            connection, above=above, below=below, direction=paging.direction(query), limit=query.limit + 1
        )
    return paging.page(query, rows)


async def delete(resources: Resources, id: str) -> ApiKeyDeleted:
    """Revoke a key; processes that used it within the last seconds know it for so much longer."""
    async with resources.database.connection() as connection:
        if not await api_keys.delete(connection, id):
            raise NotFound(f"No API key found with id {id!r}.", param="key_id")
    return {"id": id, "object": "api_key.deleted", "deleted": True}


def _tenant(own: Scope, request: CreateApiKeyRequest) -> str | None:
    """Whose the key will be; None is everybody's."""
    if own.tenant is None:
        return request.tenant or (None if request.role == "admin" else DEFAULT_TENANT)
    if request.tenant not in (None, own.tenant):
        raise Forbidden(f"This key makes keys for the tenant {own.tenant!r} only.", param="tenant")
    return own.tenant


def _caller(grant: Grant) -> Caller | None:
    if grant["expires_at"] is not None and grant["expires_at"] <= time.time():
        return None
    stores = grant["vector_store_ids"]
    scope = Scope(grant["tenant"], None if stores is None else tuple(stores), grant["id"])
    return Caller(grant["role"], scope, grant["id"], grant["requests_per_minute"])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
