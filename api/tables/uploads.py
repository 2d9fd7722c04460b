"""The tables `uploads` and `upload_parts`: files that arrive in parts. The SELECT lists are the wire."""

from datetime import datetime
from typing import Any, cast

from api.schemas.uploads import Upload, UploadPart
from api.tables import scope
from api.tables.columns import Uploads
from api.tables.database import Connection
from api.tables.scope import Owner

PENDING = "(status = 'pending' AND expires_at > now())"

# `file` is filled in by whoever completes the upload.
UPLOAD = """
    id,
    'upload' AS object,
    bytes,
    floor(extract(epoch FROM created_at))::bigint AS created_at,
    floor(extract(epoch FROM expires_at))::bigint AS expires_at,
    filename,
    purpose,
    CASE WHEN status = 'pending' AND expires_at <= now() THEN 'expired' ELSE status END AS status,
    NULL AS file
"""

INSERT = f"""
INSERT INTO uploads (id, filename, purpose, bytes, created_at, expires_at, expires_after_seconds, tenant, api_key_id)
VALUES (%(id)s, %(filename)s, %(purpose)s, %(bytes)s, %(created_at)s,
        %(created_at)s::timestamptz + make_interval(secs => %(lifetime_seconds)s), %(expires_after_seconds)s,
        %(tenant)s, %(api_key_id)s)
RETURNING {UPLOAD}
"""  # noqa: S608  # only constants of this file are put together

GET = f"SELECT {UPLOAD} FROM uploads WHERE id = %(id)s AND {{visible}}"  # noqa: S608

GET_OF_FILE = """
SELECT file_id, expires_after_seconds, tenant, api_key_id FROM uploads WHERE id = %(id)s AND {visible}
"""

COMPLETE = f"""
UPDATE uploads SET status = 'completed', file_id = %(file_id)s
WHERE id = %(id)s AND {{visible}} AND {PENDING}
RETURNING {UPLOAD}
"""  # noqa: S608

CANCEL = f"""
UPDATE uploads SET status = 'cancelled' WHERE id = %(id)s AND {{visible}} AND {PENDING} RETURNING {UPLOAD}
"""  # noqa: S608

# Holds the upload's row, so that it does not end between the look at its status and the part's row.
INSERT_PART = f"""
WITH upload AS (SELECT id FROM uploads WHERE id = %(upload_id)s AND {{visible}} AND {PENDING} FOR SHARE)
INSERT INTO upload_parts (id, upload_id, bytes, created_at)
SELECT %(id)s, upload.id, %(bytes)s, %(created_at)s FROM upload
RETURNING id, 'upload.part' AS object, floor(extract(epoch FROM created_at))::bigint AS created_at, upload_id
"""  # noqa: S608

LIST_PARTS = "SELECT id, bytes FROM upload_parts WHERE upload_id = %(upload_id)s AND id = ANY(%(ids)s)"

LIST_PENDING_PARTS = f"""
SELECT upload_parts.id FROM upload_parts JOIN uploads ON uploads.id = upload_parts.upload_id
WHERE upload_parts.id = ANY(%(ids)s) AND {PENDING}
"""  # noqa: S608

DELETE_PARTS = "DELETE FROM upload_parts WHERE upload_id = %(upload_id)s RETURNING id"

# An upload that is not pending any more has its answer for whoever asks again, for a day.
FORGET_ENDED = """
WITH ended AS (DELETE FROM uploads WHERE expires_at < now() - interval '1 day' RETURNING id)
DELETE FROM upload_parts USING ended WHERE upload_id = ended.id
"""


async def insert(connection: Connection, *, id: str, created_at: datetime, values: dict[str, Any]) -> Upload:
    """Insert an upload.

    `values` are its `filename`, `purpose`, `bytes`, `lifetime_seconds` and `expires_after_seconds`.
    """
    owner = scope.owner(connection)
    params = {**values, "id": id, "created_at": created_at, "tenant": owner.tenant, "api_key_id": owner.api_key_id}
    row = await (await connection.execute(INSERT, params)).fetchone()
    return cast("Upload", row)


async def find(connection: Connection, id: str) -> Upload | None:
    row = await (await scope.execute(connection, Uploads.TABLE, GET, {"id": id})).fetchone()
    return cast("Upload | None", row)


async def get_of_file(connection: Connection, id: str) -> tuple[str | None, int | None, Owner]:
    """The id of the file that an upload became, the seconds that the file is to live, and whose it is."""
    row = await (await scope.execute(connection, Uploads.TABLE, GET_OF_FILE, {"id": id})).fetchone()
    assert row is not None  # found just now, and not a day old
    return row["file_id"], row["expires_after_seconds"], Owner(row["tenant"], row["api_key_id"])


async def complete(connection: Connection, id: str, *, file_id: str) -> Upload | None:
    """Complete an upload; None if it is not pending."""
    row = await (await scope.execute(connection, Uploads.TABLE, COMPLETE, {"id": id, "file_id": file_id})).fetchone()
    return cast("Upload | None", row)


async def cancel(connection: Connection, id: str) -> Upload | None:
    """Cancel an upload; None if it is not pending."""
    row = await (await scope.execute(connection, Uploads.TABLE, CANCEL, {"id": id})).fetchone()
    return cast("Upload | None", row)


async def insert_part(
    connection: Connection, upload_id: str, *, id: str, size: int, created_at: datetime
) -> UploadPart | None:
    """Insert a part; None if its upload is not pending."""
    params = {"id": id, "upload_id": upload_id, "bytes": size, "created_at": created_at}
    row = await (await scope.execute(connection, Uploads.TABLE, INSERT_PART, params)).fetchone()
    return cast("UploadPart | None", row)


async def list_parts(connection: Connection, upload_id: str, ids: list[str]) -> dict[str, int]:
    """The sizes of those of the ids that are parts of the upload."""
    rows = await (await connection.execute(LIST_PARTS, {"upload_id": upload_id, "ids": ids})).fetchall()
    return {row["id"]: row["bytes"] for row in rows}


async def list_pending_parts(connection: Connection, ids: list[str]) -> set[str]:
    """Those of the ids that are parts of uploads that may still be completed."""
    rows = await (await connection.execute(LIST_PENDING_PARTS, {"ids": ids})).fetchall()
    return {row["id"] for row in rows}


async def delete_parts(connection: Connection, upload_id: str) -> list[str]:
    rows = await (await connection.execute(DELETE_PARTS, {"upload_id": upload_id})).fetchall()
    return [row["id"] for row in rows]


async def forget_ended(connection: Connection) -> None:
    """Delete uploads that expired, or would have, more than a day ago."""
    await connection.execute(FORGET_ENDED)
