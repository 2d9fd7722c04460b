-- Requests that came with an Idempotency-Key: first the claim of the one that is carried out, then its answer.

CREATE TABLE idempotency_keys (
    caller           bytea       NOT NULL, -- SHA-256 of the caller's own key
    key              text        NOT NULL,
    claim            text        NOT NULL, -- of the request that is carried out
    lease_expires_at timestamptz NOT NULL, -- renewed while it is; then the claim is anybody's
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- NULL until there is an answer to keep.
    fingerprint      bytea,   -- SHA-256 of what was asked
    request_bytes    bigint,  -- how much of that there was
    status           integer,
    headers          jsonb,
    body             bytea,   -- stays NULL if it is too large
    -- Serves the claim, which inserts, and everything after it.
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (caller, key)
);

-- Serves the purge: WHERE created_at <= now() - the lifetime of a key.
CREATE INDEX idempotency_keys_created_at_idx ON idempotency_keys (created_at);
