-- The tables of Quiver. A database that litellm-pgvector made is adopted in place: no row of it is copied.

CREATE EXTENSION IF NOT EXISTS vector;

-- The types `vector` and `halfvec` may live in another schema than ours; until the end of this transaction
-- names are looked for there, too.
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(nspname)), true)
  FROM pg_extension
  JOIN pg_namespace ON pg_namespace.oid = extnamespace
 WHERE extname = 'vector';

CREATE TABLE IF NOT EXISTS vector_stores (
    id                   text        NOT NULL,
    name                 text        NOT NULL DEFAULT '',
    description          text,
    status               text        NOT NULL DEFAULT 'completed',
    usage_bytes          bigint      NOT NULL DEFAULT 0,
    file_counts          jsonb       NOT NULL DEFAULT '{"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}',
    metadata             jsonb,
    expires_after        jsonb,
    expires_at           timestamptz,
    last_active_at       timestamptz,
    created_at           timestamptz NOT NULL DEFAULT now(),
    embedding_model      text,
    embedding_dimension  integer,
    CONSTRAINT vector_stores_pkey PRIMARY KEY (id)
);

-- litellm-pgvector's stores: the columns they lack, and our types for those they have.
ALTER TABLE vector_stores
    ADD COLUMN IF NOT EXISTS description         text,
    ADD COLUMN IF NOT EXISTS embedding_model     text,
    ADD COLUMN IF NOT EXISTS embedding_dimension integer;

UPDATE vector_stores
   SET usage_bytes = coalesce(usage_bytes, 0),
       file_counts = coalesce(file_counts, '{"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}')
 WHERE usage_bytes IS NULL
    OR file_counts IS NULL;

DO $$
DECLARE
    adopted name;
BEGIN
    FOR adopted IN
        SELECT attname
          FROM pg_attribute
         WHERE attrelid = 'vector_stores'::regclass
           AND atttypid = 'timestamp'::regtype
           AND NOT attisdropped
    LOOP
        -- Prisma wrote UTC into columns without a time zone.
        EXECUTE format('ALTER TABLE vector_stores ALTER COLUMN %1$I TYPE timestamptz USING %1$I AT TIME ZONE ''UTC''', adopted);
    END LOOP;
END;
$$;

ALTER TABLE vector_stores
    ALTER COLUMN name        SET DEFAULT '',
    ALTER COLUMN usage_bytes TYPE bigint,
    ALTER COLUMN usage_bytes SET NOT NULL,
    ALTER COLUMN file_counts SET DEFAULT '{"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}',
    ALTER COLUMN file_counts SET NOT NULL,
    ALTER COLUMN created_at  SET DEFAULT now();

-- Serves the list of stores: keyset pages ordered by (created_at, id), either way.
CREATE INDEX IF NOT EXISTS vector_stores_created_at_id_idx ON vector_stores (created_at, id);

-- Serves the expiry sweep: WHERE expires_at <= now(). Most stores never expire. Prisma cannot express a
-- partial index and leaves it out of its comparisons.
CREATE INDEX IF NOT EXISTS vector_stores_expires_at_idx ON vector_stores (expires_at) WHERE expires_at IS NOT NULL;

CREATE SEQUENCE IF NOT EXISTS embeddings_seq_seq AS bigint;

DO $$
BEGIN
    IF to_regclass(quote_ident(current_schema()) || '.embeddings') IS NULL THEN
        -- No foreign key to vector_stores: inserting updates the store's row in the same transaction,
        -- deleting removes both.
        CREATE TABLE embeddings (
            vector_store_id text        NOT NULL,
            id              text        NOT NULL,
            content         text        NOT NULL,
            embedding       halfvec     NOT NULL, -- of any dimension; the store's row knows which
            metadata        jsonb,
            created_at      timestamptz NOT NULL DEFAULT now(),
            file_id         text,
            filename        text,
            chunk_index     integer,
            -- Rises with every insert; an HNSW segment covers a range of it. NULL is older than every segment.
            seq             bigint               DEFAULT nextval('embeddings_seq_seq'),
            -- Keeps the rows of a store together; serves the exact search of a small store, and every
            -- retrieve, upsert and delete by id.
            CONSTRAINT embeddings_pkey PRIMARY KEY (vector_store_id, id)
        ) WITH (toast_tuple_target = 128);

        -- Vectors and attributes stay in the row, long texts move out of it: an exact scan is then 3 to 6
        -- times faster.
        ALTER TABLE embeddings
            ALTER COLUMN embedding SET STORAGE MAIN,
            ALTER COLUMN metadata  SET STORAGE MAIN;
    END IF;

    -- A table whose columns have other names is reached through DB_FIELDS__* and stays as it is.
    IF (SELECT count(*) < 3
          FROM pg_attribute
         WHERE attrelid = 'embeddings'::regclass
           AND (attname IN ('vector_store_id', 'id') OR attname = 'metadata' AND atttypid = 'jsonb'::regtype))
    THEN
        RETURN;
    END IF;

    -- litellm-pgvector's table keeps its types and its primary key. Nullable columns without a default and
    -- a default that comes later do not rewrite it.
    ALTER TABLE embeddings
        ADD COLUMN IF NOT EXISTS file_id     text,
        ADD COLUMN IF NOT EXISTS filename    text,
        ADD COLUMN IF NOT EXISTS chunk_index integer,
        ADD COLUMN IF NOT EXISTS seq         bigint;
    ALTER TABLE embeddings
        ALTER COLUMN seq SET DEFAULT nextval('embeddings_seq_seq');
    ALTER SEQUENCE embeddings_seq_seq OWNED BY embeddings.seq;

    IF NOT EXISTS (
        SELECT
          FROM pg_index
          JOIN pg_attribute store ON store.attrelid = indrelid AND store.attnum = indkey[0]
          JOIN pg_attribute chunk ON chunk.attrelid = indrelid AND chunk.attnum = indkey[1]
         WHERE indrelid = 'embeddings'::regclass
           AND indisunique
           AND store.attname = 'vector_store_id'
           AND chunk.attname = 'id'
    ) THEN
        -- In an adopted table: serves what our primary key serves.
        CREATE UNIQUE INDEX embeddings_vector_store_id_id_idx ON embeddings (vector_store_id, id);
    END IF;

    -- Serves the chunks of one file: listing them, deleting them with it.
    CREATE INDEX IF NOT EXISTS embeddings_vector_store_id_file_id_idx ON embeddings (vector_store_id, file_id);

    -- Serves searches with a filter: equality and `in` on attributes, as metadata @> '{"key": value}'.
    CREATE INDEX IF NOT EXISTS embeddings_metadata_idx ON embeddings USING gin (metadata jsonb_path_ops);
END;
$$;
