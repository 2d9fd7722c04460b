-- Keys of callers, and the tenants whose they are. What was there before belongs to the tenant `default`.

CREATE TABLE api_keys (
    id                  text        NOT NULL,
    hash                bytea       NOT NULL, -- SHA-256 of the key, which is kept nowhere
    ending              text        NOT NULL, -- its last characters, to tell it by
    name                text        NOT NULL,
    role                text        NOT NULL, -- admin, write or read
    tenant              text,                 -- NULL is all of them: an admin's
    vector_store_ids    text[],               -- NULL is all of the tenant's
    requests_per_minute integer,
    created_at          timestamptz NOT NULL DEFAULT now(),
    expires_at          timestamptz,
    last_used_at        timestamptz,          -- within a minute
    -- Serves the revocation.
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_role_check CHECK (role IN ('admin', 'write', 'read')),
    CONSTRAINT api_keys_tenant_check CHECK (tenant IS NOT NULL OR role = 'admin')
);

-- Serves the look-up of a request's key.
CREATE UNIQUE INDEX api_keys_hash_key ON api_keys (hash);

-- Serves the list of keys: keyset pages ordered by (created_at, id), either way.
CREATE INDEX api_keys_created_at_id_idx ON api_keys (created_at, id);

-- A default that is a constant does not rewrite a table.
ALTER TABLE vector_stores ADD COLUMN tenant text NOT NULL DEFAULT 'default';
ALTER TABLE files         ADD COLUMN tenant text NOT NULL DEFAULT 'default',
                          ADD COLUMN api_key_id text; -- whose key uploaded it; NULL is the server's own
ALTER TABLE uploads       ADD COLUMN tenant text NOT NULL DEFAULT 'default',
                          ADD COLUMN api_key_id text;

-- Serve a tenant's lists, and the count of its stores.
CREATE INDEX vector_stores_tenant_created_at_id_idx ON vector_stores (tenant, created_at, id);
CREATE INDEX files_tenant_created_at_id_idx ON files (tenant, created_at, id);

-- A second lock on what the conditions of the statements close already. The API says whose request a statement is for
-- by setting quiver.tenant for its transaction, if its role is one that policies bind: neither the owner of the tables
-- nor one with BYPASSRLS. Who says nothing sees everything, as the worker must.
ALTER TABLE vector_stores ENABLE ROW LEVEL SECURITY;
ALTER TABLE files         ENABLE ROW LEVEL SECURITY;
ALTER TABLE uploads       ENABLE ROW LEVEL SECURITY;

CREATE POLICY of_tenant ON vector_stores
    USING (coalesce(current_setting('quiver.tenant', true), '') IN ('', tenant));
CREATE POLICY of_tenant ON files
    USING (coalesce(current_setting('quiver.tenant', true), '') IN ('', tenant));
CREATE POLICY of_tenant ON uploads
    USING (coalesce(current_setting('quiver.tenant', true), '') IN ('', tenant));
