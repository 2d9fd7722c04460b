-- Tables of texts that are kept searchable: which table goes into which store, and what of it has changed.

CREATE TABLE table_syncs (
    id                text        NOT NULL,
    vector_store_id   text        NOT NULL,
    table_schema      text        NOT NULL,
    table_name        text        NOT NULL,
    key_columns       text[]      NOT NULL,
    key_types         text[]      NOT NULL,
    template          text        NOT NULL,
    attribute_columns text[]      NOT NULL,
    chunking_strategy jsonb       NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(),
    -- All keys of the table are looked through ('rows'), then all that have chunks ('chunks'), then it is 'done'.
    scan              text        NOT NULL DEFAULT 'rows',
    scan_after        text,                               -- the key that the scan has come to
    error             text,                               -- why the table cannot be read
    retry_at          timestamptz NOT NULL DEFAULT now(), -- when it is tried again
    -- Serves the worker, and every retrieve and deletion.
    CONSTRAINT table_syncs_pkey PRIMARY KEY (id)
);

-- A table is in a store once: a chunk tells its row by the table and the key. Serves the deletion of a store.
CREATE UNIQUE INDEX table_syncs_vector_store_id_table_idx ON table_syncs (vector_store_id, table_schema, table_name);

-- Serves the list of syncs: keyset pages ordered by (created_at, id), either way.
CREATE INDEX table_syncs_created_at_id_idx ON table_syncs (created_at, id);

-- What the triggers write, and all that they do: nothing here conflicts with anything, so that nobody who writes to
-- the source table ever waits for a worker or for another writer. The worker takes the keys over from here.
CREATE TABLE table_sync_changes (
    table_sync_id text      NOT NULL,
    seq           bigserial NOT NULL,
    key           text,               -- NULL: any row may have changed
    -- Serves the worker, which takes the oldest first.
    CONSTRAINT table_sync_changes_pkey PRIMARY KEY (table_sync_id, seq)
);

-- The rows that wait to be written to the store, each once, however often it has changed.
CREATE TABLE table_sync_rows (
    table_sync_id text        NOT NULL,
    key           text        NOT NULL,
    version       bigint      NOT NULL DEFAULT 1,     -- rises with every change; another one than was claimed waits on
    is_scanned    boolean     NOT NULL,               -- found by the scan; what changes goes first
    attempts      integer     NOT NULL DEFAULT 0,     -- that failed
    error         text,                               -- of the last attempt
    retry_at      timestamptz NOT NULL DEFAULT now(),
    claim         text,                               -- of the worker that has it
    claimed_until timestamptz,                        -- which must say again and again that it lives
    -- Serves the worker, which comes with keys.
    CONSTRAINT table_sync_rows_pkey PRIMARY KEY (table_sync_id, key)
);

-- Serves the claim of the rows that are due.
CREATE INDEX table_sync_rows_due_idx ON table_sync_rows (table_sync_id, is_scanned, retry_at);

-- Search for those who live in SQL: the chunks of a store nearest to a vector, nearest first, exactly. A table of chunks
-- with columns of other names gets its own by `quiver db migrate`.
DO $do$
DECLARE
    vector_schema name := (SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
                            WHERE extname = 'vector');
BEGIN
    IF (SELECT count(*) < 7
          FROM pg_attribute
          JOIN pg_type ON pg_type.oid = atttypid
         WHERE attrelid = to_regclass(quote_ident(current_schema()) || '.embeddings')
           AND (attname IN ('id', 'vector_store_id', 'content', 'file_id', 'filename')
                OR attname = 'embedding' AND typname IN ('vector', 'halfvec')
                OR attname = 'metadata' AND typname IN ('jsonb', 'json')))
    THEN
        RETURN;
    END IF;
    -- The search path is the function's own: the caller's may lack pgvector's operators.
    EXECUTE format($format$
        CREATE FUNCTION %1$I.quiver_semantic_search(
            vector_store_id text, query %2$I.vector, max_results integer DEFAULT 10, filter jsonb DEFAULT '{}')
        RETURNS TABLE (id text, file_id text, filename text, score double precision, attributes jsonb, content text)
        LANGUAGE sql STABLE PARALLEL SAFE SET search_path = %1$I, %2$I, pg_temp
        AS $body$
            SELECT chunk.id::text, chunk.file_id, chunk.filename,
                   1 - (chunk.embedding <=> $2::%3$s) / 2, chunk.metadata::jsonb, chunk.content
            FROM %1$I.embeddings AS chunk
            WHERE chunk.vector_store_id = $1::%4$s AND coalesce(chunk.metadata::jsonb, '{}') @> $4
              AND chunk.embedding IS NOT NULL
            ORDER BY (chunk.embedding <=> $2::%3$s) + 0, chunk.id
            LIMIT $3
        $body$
    $format$, current_schema(), vector_schema,
              (SELECT format_type(atttypid, NULL) FROM pg_attribute
                WHERE attrelid = (quote_ident(current_schema()) || '.embeddings')::regclass AND attname = 'embedding'),
              (SELECT format_type(atttypid, NULL) FROM pg_attribute
                WHERE attrelid = (quote_ident(current_schema()) || '.embeddings')::regclass
                  AND attname = 'vector_store_id'));
END;
$do$;
