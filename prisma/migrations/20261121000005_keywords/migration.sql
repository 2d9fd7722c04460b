-- The keyword index: an inverted index of each store's words, kept beside the table of chunks and filled behind the
-- writes, which are six times slower with a tsvector and its GIN index in their way.

CREATE TABLE keyword_stores (
    vector_store_id text    NOT NULL,
    language        text    NOT NULL,           -- name of a text search configuration
    next_number     integer NOT NULL DEFAULT 0, -- of the next chunk, and of the next segment
    next_segment    integer NOT NULL DEFAULT 0,
    adopted_id      text,                       -- chunks without a `seq` are indexed in the order of their ids, up to this
    is_adopted      boolean NOT NULL DEFAULT false, -- and this says that there are no more
    indexed_seq     bigint  NOT NULL DEFAULT 0, -- every chunk up to here is in the index
    -- A chunk may be committed after one with a higher `seq`. Up to `settling_seq` all are, once the transactions that
    -- were writing to the table of chunks have ended.
    settling_seq    bigint,
    settling_after  text[],                     -- virtual transactions, as pg_locks names them
    -- Serves the worker and the search, which come with a store.
    CONSTRAINT keyword_stores_pkey PRIMARY KEY (vector_store_id)
);

-- Which chunk a number in the postings means. A chunk that was deleted, or deleted and put in anew under its id (then
-- it has another `seq`), is found by no search; the sweep takes its row away.
CREATE TABLE keyword_chunks (
    vector_store_id text    NOT NULL,
    number          integer NOT NULL,
    chunk_id        text    NOT NULL,
    seq             bigint,
    length          integer NOT NULL, -- in words
    -- Serves the search, which comes with numbers, and the merge of a segment, which is a range of them.
    CONSTRAINT keyword_chunks_pkey PRIMARY KEY (vector_store_id, number)
);

-- A batch of chunks that were indexed together, or a merge of such.
CREATE TABLE keyword_segments (
    vector_store_id text    NOT NULL,
    segment         integer NOT NULL,
    first_number    integer NOT NULL,
    last_number     integer NOT NULL,
    chunk_count     integer NOT NULL,
    word_count      bigint  NOT NULL,
    deleted_count   integer NOT NULL DEFAULT 0, -- of chunk_count, as of the last sweep
    -- Serves the search, which adds the counts up.
    CONSTRAINT keyword_segments_pkey PRIMARY KEY (vector_store_id, segment)
);

-- Where a word is: three arrays side by side, 8 bytes a chunk.
CREATE TABLE keyword_postings (
    vector_store_id text       NOT NULL,
    term            text       NOT NULL,
    segment         integer    NOT NULL,
    chunk_count     integer    NOT NULL, -- length of the arrays, which are not read for it
    numbers         integer[]  NOT NULL,
    frequencies     smallint[] NOT NULL, -- of the word in the chunk
    lengths         smallint[] NOT NULL, -- of the chunk; longer than 32,767 words is that
    -- Serves the search, which looks terms up in all segments.
    CONSTRAINT keyword_postings_pkey PRIMARY KEY (vector_store_id, term, segment)
);

-- Serves the merge, which reads whole segments.
CREATE INDEX keyword_postings_vector_store_id_segment_idx ON keyword_postings (vector_store_id, segment);

DO $$
BEGIN
    IF (SELECT count(*) = 2
          FROM pg_attribute
         WHERE attrelid = to_regclass(quote_ident(current_schema()) || '.embeddings')
           AND attname IN ('vector_store_id', 'seq'))
    THEN
        -- Serves the indexing of what is new in a store: WHERE seq > the last one ORDER BY seq.
        CREATE INDEX IF NOT EXISTS embeddings_vector_store_id_seq_idx ON embeddings (vector_store_id, seq);
    END IF;
END;
$$;
