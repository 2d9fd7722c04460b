-- What each key may still send, for all processes together: a bucket that holds a minute's requests and fills steadily.

-- Unlogged: after a crash the buckets are full again, and no standby has them. Prisma leaves that out of its comparisons.
CREATE UNLOGGED TABLE request_rates (
    api_key_id text             NOT NULL, -- '' is the server's own
    tokens     double precision NOT NULL, -- requests that were left
    filled_at  timestamptz      NOT NULL, -- at this moment
    granted    integer          NOT NULL, -- to the process that asked last
    -- Serves the lease, which inserts, and everything after it.
    CONSTRAINT request_rates_pkey PRIMARY KEY (api_key_id)
);
