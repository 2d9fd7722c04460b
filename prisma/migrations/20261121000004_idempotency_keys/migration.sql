-- Requests that came with an Idempotency-Key: first the claim of the one that is carried out, then its answer.

CREATE TABLE idempotency_keys (
    caller           bytea       NOT NULL, -- SHA-256 of the caller's own key
    key              text        NOT NULL,
    claim            text        NOT NULL, -- of the request that is carried out
    lease_expires_at timestamptz NOT NULL, -- renewed while it is; then the claim is anybody's
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- NULL until there is an answer to keep.
    fingerprint      bytea,   -- digest of what was asked
    request_bytes    bigint,  -- how much of that there was
    status           integer,
    headers          jsonb,
    body             bytea,   -- stays NULL if it is too large
    -- Serves the claim, which inserts, and everything after it.
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (caller, key)
);

-- An answer of 10 MB is written in 100 ms instead of 730; it is gone in a day, so the space matters less. Prisma cannot
-- express a column's storage and leaves it out of its comparisons.
ALTER TABLE idempotency_keys ALTER COLUMN body SET STORAGE EXTERNAL;

-- Serves the purge: WHERE created_at <= now() - the lifetime of a key.
CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);
