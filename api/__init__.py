"""OpenAI's vector store API on PostgreSQL with pgvector."""
