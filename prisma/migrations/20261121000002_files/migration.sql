-- Uploaded files. Their bytes are in the blob store under the file's id; bytes without a row are no file.

CREATE TABLE files (
    id         text        NOT NULL,
    filename   text        NOT NULL,
    purpose    text        NOT NULL,
    bytes      bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    -- Serves every retrieve and delete, and the sweep of bytes without a row.
    CONSTRAINT files_pkey PRIMARY KEY (id)
);

-- Serves the list of files: keyset pages ordered by (created_at, id), either way.
CREATE INDEX files_created_at_id_idx ON files (created_at, id);

-- Serves the expiry sweep: WHERE expires_at <= now(). Most files never expire. Prisma cannot express a
-- partial index and leaves it out of its comparisons.
CREATE INDEX files_expires_at_idx ON files (expires_at) WHERE expires_at IS NOT NULL;

-- Files that are uploaded in parts. The bytes of a part are in the blob store under the part's id.

CREATE TABLE uploads (
    id                    text        NOT NULL,
    filename              text        NOT NULL,
    purpose               text        NOT NULL,
    bytes                 bigint      NOT NULL,
    status                text        NOT NULL DEFAULT 'pending',
    created_at            timestamptz NOT NULL DEFAULT now(),
    expires_at            timestamptz NOT NULL,
    expires_after_seconds integer, -- of the file
    file_id               text,    -- of the file, when it is completed
    CONSTRAINT uploads_pkey PRIMARY KEY (id)
);

CREATE TABLE upload_parts (
    id         text        NOT NULL,
    upload_id  text        NOT NULL,
    bytes      bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Serves the completion, which names the parts, and the sweep of bytes without a row.
    CONSTRAINT upload_parts_pkey PRIMARY KEY (id)
);

-- Serves the end of an upload: all parts of it are deleted.
CREATE INDEX upload_parts_upload_id_idx ON upload_parts (upload_id);
