-- How far each `quiver migrate` into this database has come. The row moves in the transaction that writes the chunks.

CREATE TABLE migration_checkpoints (
    id              text        NOT NULL, -- a digest of what is migrated, and where to
    vector_store_id text        NOT NULL,
    source          text        NOT NULL, -- as it is shown
    position        jsonb,                -- behind the last row that was dealt with, in the source's own terms
    rows_written    bigint      NOT NULL DEFAULT 0,
    rows_skipped    bigint      NOT NULL DEFAULT 0, -- the store had them already
    rows_rejected   bigint      NOT NULL DEFAULT 0,
    rejects_bytes   bigint      NOT NULL DEFAULT 0, -- length of the file of rejected rows
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    -- Serves the migration, which knows its id.
    CONSTRAINT migration_checkpoints_pkey PRIMARY KEY (id)
);
