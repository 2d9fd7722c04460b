-- Which files are in which vector stores, how far they are, and the batches that put them there.

CREATE TABLE vector_store_files (
    vector_store_id   text        NOT NULL,
    file_id           text        NOT NULL,
    batch_id          text,                               -- of the batch that named it last
    status            text        NOT NULL DEFAULT 'in_progress',
    last_error        jsonb,
    usage_bytes       bigint      NOT NULL DEFAULT 0,
    attributes        jsonb,
    chunking_strategy jsonb       NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT now(), -- when it was put in; a new value is a new start
    turn              integer     NOT NULL,               -- its place among the waiting files, see tables/queue.py
    starts            integer     NOT NULL DEFAULT 0,     -- of a worker that never came to an end with it
    -- Serves every retrieve, update and delete, and the worker.
    CONSTRAINT vector_store_files_pkey PRIMARY KEY (vector_store_id, file_id)
);

-- Serves the list of a store's files: keyset pages ordered by (created_at, file_id), either way.
CREATE INDEX vector_store_files_vector_store_id_created_at_file_id_idx
    ON vector_store_files (vector_store_id, created_at, file_id);

-- Serves the same list with a `filter`: files of one status.
CREATE INDEX vector_store_files_status_idx
    ON vector_store_files (vector_store_id, status, created_at, file_id);

-- Serves the deletion of a file, which takes it out of every store.
CREATE INDEX vector_store_files_file_id_idx ON vector_store_files (file_id);

-- Serves a batch: its counts, its list and its cancellation.
CREATE INDEX vector_store_files_batch_id_idx ON vector_store_files (batch_id);

-- Serves the choice of a turn for a store's next file. Prisma cannot express a partial index and leaves it out of
-- its comparisons.
CREATE INDEX vector_store_files_waiting_idx ON vector_store_files (vector_store_id, turn) WHERE status = 'in_progress';

CREATE TABLE file_batches (
    id              text        NOT NULL,
    vector_store_id text        NOT NULL,
    is_cancelled    boolean     NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT file_batches_pkey PRIMARY KEY (id)
);

-- Serves the deletion of a store.
CREATE INDEX file_batches_vector_store_id_idx ON file_batches (vector_store_id);

-- Where a file that was taken out stood in its store's list, so that a page can go on behind it; kept for a day.
CREATE TABLE detached_files (
    vector_store_id text        NOT NULL,
    file_id         text        NOT NULL,
    created_at      timestamptz NOT NULL, -- when it was put in
    detached_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT detached_files_pkey PRIMARY KEY (vector_store_id, file_id)
);

-- Serves the sweep of those older than a day.
CREATE INDEX detached_files_detached_at_idx ON detached_files (detached_at);
