-- Embeddings from SQL: ai.fastapi_hf_embed posts a text to Quiver's embedder (or any server with its /embed) and returns
-- the vector. It needs plpython3u, which only a superuser may install, and neither pgai nor pgvector: where pgvector is
-- not to be had it returns float8[].
--
--   psql "$DATABASE_URL" -f infra/pgai/fastapi_hf_embed.sql
--   SELECT ai.fastapi_hf_embed('http://embedder:8001/embed', 'How do I get my money back?');
--
-- Whoever may call it makes the database server send requests: it is granted to nobody.

CREATE EXTENSION IF NOT EXISTS plpython3u;
CREATE SCHEMA IF NOT EXISTS ai;

DO $do$
DECLARE
    vector_schema name := (SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
                            WHERE extname = 'vector');
BEGIN
    EXECUTE format($format$
        CREATE OR REPLACE FUNCTION ai.fastapi_hf_embed(
            url text,
            input_text text,
            api_key text DEFAULT NULL,
            input_type text DEFAULT NULL,
            verbose boolean DEFAULT false)
        RETURNS %1$s LANGUAGE plpython3u VOLATILE
        AS $body$
import json
import time
import urllib.error
import urllib.request

if input_text is None:
    return None
if not url.startswith(("http://", "https://")):
    plpy.error(f"{url!r} does not begin with http:// or https://")
sent = {"text": input_text, **({"input_type": input_type} if input_type else {})}
headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
started = time.monotonic()
try:
    request = urllib.request.Request(url, json.dumps(sent).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        vector = json.load(response)["embedding"]
except urllib.error.HTTPError as error:
    plpy.error(f"{url} answered with HTTP {error.code}: {error.read(500).decode(errors='replace')}")
except OSError as error:
    plpy.error(f"{url} cannot be reached: {error}")
except (KeyError, TypeError, ValueError):
    plpy.error(f"{url} answered with something else than an embedding")
if verbose:
    plpy.notice(f"{len(vector)} dimensions from {url} in {time.monotonic() - started:.3f} seconds")
return vector
        $body$
    $format$, coalesce(quote_ident(vector_schema) || '.vector', 'float8[]'));
END;
$do$;

REVOKE ALL ON FUNCTION ai.fastapi_hf_embed(text, text, text, text, boolean) FROM PUBLIC;
