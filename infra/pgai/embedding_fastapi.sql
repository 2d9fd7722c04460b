-- For installations that patched pgai for models it does not know: the configuration `custom_local`, accepted by pgai's
-- own validation. Run it again after each `pgai install`, which puts pgai's own validation back.
--
--   psql "$DATABASE_URL" -f infra/pgai/embedding_fastapi.sql
--
-- A patched worker posts {"texts": [...]} to {url}/batch_embed, which Quiver's embedder answers; a stock one does not
-- know this configuration. `quiver sync --from-pgai` takes such a vectorizer over and needs no worker of pgai's at all.

CREATE OR REPLACE FUNCTION ai.embedding_fastapi(
    model_name text,
    dimensions integer,
    fastapi_base_url text DEFAULT NULL,
    options jsonb DEFAULT NULL,
    keep_alive text DEFAULT NULL)
RETURNS jsonb LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object(
        'implementation', 'fastapi_hf_embed',
        'config_type', 'custom_local',
        'model', model_name,
        'dimensions', dimensions,
        'url', fastapi_base_url,
        'options', options,
        'keep_alive', keep_alive))
$$;

-- pgai's own validation goes on under another name, for every configuration but ours.
DO $do$
BEGIN
    IF pg_get_functiondef('ai._validate_embedding(jsonb)'::regprocedure) NOT LIKE '%custom_local%' THEN
        DROP FUNCTION IF EXISTS ai._validate_embedding_of_pgai(jsonb);
        ALTER FUNCTION ai._validate_embedding(jsonb) RENAME TO _validate_embedding_of_pgai;
    END IF;
END;
$do$;

CREATE OR REPLACE FUNCTION ai._validate_embedding(config jsonb)
RETURNS void LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF jsonb_typeof(config) <> 'object' OR config ->> 'config_type' IS DISTINCT FROM 'custom_local' THEN
        PERFORM ai._validate_embedding_of_pgai(config);
    ELSIF config ->> 'implementation' IS DISTINCT FROM 'fastapi_hf_embed' THEN
        RAISE EXCEPTION 'embedding config of type custom_local has the implementation "%", not "fastapi_hf_embed"',
            config ->> 'implementation';
    ELSIF config ->> 'model' IS NULL OR coalesce((config ->> 'dimensions')::integer, 0) < 1 THEN
        RAISE EXCEPTION 'embedding config of type custom_local needs a model and its dimensions';
    END IF;
END
$$;
