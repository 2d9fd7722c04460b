-- Any model of a LiteLLM proxy, or of Quiver's embedder, in pgai's vectorizers, with pgai as it is.
--
--   psql "$DATABASE_URL" -v table=docs -v column=body -v model=all-minilm-l6-v2 -v dimensions=384 \
--        -v base_url=http://127.0.0.1:4000/v1 -f infra/pgai/vectorizer.sql
--   OPENAI_API_KEY=$LITELLM_MASTER_KEY pgai vectorizer worker -d "$DATABASE_URL" --once
--
-- base_url is the proxy's (port 4000) or the embedder's (port 8001) address with /v1. pgai always sends `dimensions`:
-- the embedder takes its model's own number; the proxy passes it on for `hosted_vllm/...` models, as those of our
-- litellm_config.yaml are, and for `openai/...` ones with `allowed_openai_params: ["dimensions"]` in their entry.

SELECT ai.create_vectorizer(
    :'table'::regclass,
    name => :'table' || '_by_openai',
    loading => ai.loading_column(:'column'),
    chunking => ai.chunking_none(),
    embedding => ai.embedding_openai(:'model', :dimensions, base_url => :'base_url'),
    destination => ai.destination_table(:'table' || '_by_openai'));

-- The same through the LiteLLM library inside pgai's worker; the key is read from the variable that is named.
SELECT ai.create_vectorizer(
    :'table'::regclass,
    name => :'table' || '_by_litellm',
    loading => ai.loading_column(:'column'),
    chunking => ai.chunking_none(),
    embedding => ai.embedding_litellm(
        'openai/' || :'model', :dimensions, api_key_name => 'OPENAI_API_KEY',
        extra_options => jsonb_build_object('api_base', :'base_url')),
    destination => ai.destination_table(:'table' || '_by_litellm'));
