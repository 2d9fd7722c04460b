-- The sparse vectors of each store's chunks, kept beside the table of chunks and filled behind the writes, as the
-- keyword index is. Empty where no sparse model is configured.

-- The type `sparsevec` may live in another schema than ours; until the end of this transaction names are looked for
-- there, too.
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(nspname)), true)
  FROM pg_extension
  JOIN pg_namespace ON pg_namespace.oid = extnamespace
 WHERE extname = 'vector';

CREATE TABLE sparse_stores (
    vector_store_id text    NOT NULL,
    model           text    NOT NULL,               -- that made the vectors; those of another are made anew
    adopted_id      text,                           -- these five are as in keyword_stores
    is_adopted      boolean NOT NULL DEFAULT false,
    indexed_seq     bigint  NOT NULL DEFAULT 0,
    settling_seq    bigint,
    settling_after  text[],
    chunk_count     bigint  NOT NULL DEFAULT 0,     -- rows of sparse_chunks: never fewer, and as many after the sweep
    -- Serves the worker and the search, which come with a store.
    CONSTRAINT sparse_stores_pkey PRIMARY KEY (vector_store_id)
);

-- The vector of a chunk that was deleted, or deleted and put in anew under its id (then it has another `seq`), is found
-- by no search; the sweep takes its row away.
CREATE TABLE sparse_chunks (
    vector_store_id text      NOT NULL,
    chunk_id        text      NOT NULL,
    seq             bigint,
    weights         sparsevec NOT NULL,
    -- Serves the search, which reads a store or looks up the chunks that were found otherwise.
    CONSTRAINT sparse_chunks_pkey PRIMARY KEY (vector_store_id, chunk_id)
);

-- Inline and as they are: read from elsewhere or unpacked, exact searches take several times as long. A vector has at
-- most 512 weights, 4 kB.
ALTER TABLE sparse_chunks ALTER COLUMN weights SET STORAGE PLAIN;
