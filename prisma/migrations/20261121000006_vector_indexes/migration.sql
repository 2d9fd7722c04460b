-- What the worker knows of the HNSW indexes that it makes for large stores. Each index is a partial one, on a range of
-- one store's chunks, called quiver_hnsw_<id>. PostgreSQL's catalogue says whether it is there and valid; a row that is
-- wrong makes searches slower, never wrong.

CREATE TABLE vector_indexes (
    vector_store_id text        NOT NULL,
    id              bigserial   NOT NULL,
    after_seq       bigint,               -- chunks with a `seq` above this, NULL: from the first on,
    until_seq       bigint,               -- up to this; NULL: the chunks without a `seq`
    dimension       integer     NOT NULL,
    chunk_count     bigint      NOT NULL, -- when it was planned
    living_count    bigint      NOT NULL, -- of these, as of the last count
    is_ready        boolean     NOT NULL DEFAULT false, -- built, and used by searches
    attempts        integer     NOT NULL DEFAULT 0,
    tried_at        timestamptz,
    error           text,                 -- of the last attempt
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- Serves the search, which comes with a store.
    CONSTRAINT vector_indexes_pkey PRIMARY KEY (vector_store_id, id)
);
