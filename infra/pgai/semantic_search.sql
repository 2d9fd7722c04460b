-- Search a store by a text, from SQL: quiver_semantic_search_text embeds it by ai.fastapi_hf_embed first.
-- Needs fastapi_hf_embed.sql, pgvector and Quiver's tables.
--
--   psql "$DATABASE_URL" -v embed_url=http://embedder:8001/embed -f infra/pgai/semantic_search.sql
--   SELECT score, file_id, content FROM quiver_semantic_search_text('vs_123', 'How do I get my money back?');
--
-- The store must have been filled with the model that answers at embed_url. The address is kept in the function, so that
-- those who may call it cannot choose another; they search with its owner's rights, and nobody else may call it.

SELECT format($format$
    CREATE OR REPLACE FUNCTION quiver_semantic_search_text(
        vector_store_id text, query text, max_results integer DEFAULT 10, filter jsonb DEFAULT '{}')
    RETURNS TABLE (id text, file_id text, filename text, score double precision, attributes jsonb, content text)
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = %1$I, %2$I, pg_temp
    AS $body$
        SELECT * FROM quiver_semantic_search($1, ai.fastapi_hf_embed(%3$L, $2), $3, $4)
    $body$
$format$, current_schema(), nspname, :'embed_url')
FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'vector' \gexec

REVOKE ALL ON FUNCTION quiver_semantic_search_text(text, text, integer, jsonb) FROM PUBLIC;
