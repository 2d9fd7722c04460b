"""The bundled embedder: OpenAI's `/v1/embeddings` on a sentence-transformers model, in its own process."""
