"""The names of Quiver's tables and columns, generated from prisma/schema.prisma by `make prisma`."""

from typing import Final, final


@final
class VectorStores:
    TABLE: Final = "vector_stores"
    ID: Final = "id"
    NAME: Final = "name"
    DESCRIPTION: Final = "description"
    STATUS: Final = "status"
    USAGE_BYTES: Final = "usage_bytes"
    FILE_COUNTS: Final = "file_counts"
    METADATA: Final = "metadata"
    EXPIRES_AFTER: Final = "expires_after"
    EXPIRES_AT: Final = "expires_at"
    LAST_ACTIVE_AT: Final = "last_active_at"
    CREATED_AT: Final = "created_at"
    EMBEDDING_MODEL: Final = "embedding_model"
    EMBEDDING_DIMENSION: Final = "embedding_dimension"
    TENANT: Final = "tenant"


@final
class Embeddings:
    TABLE: Final = "embeddings"
    VECTOR_STORE_ID: Final = "vector_store_id"
    ID: Final = "id"
    CONTENT: Final = "content"
    EMBEDDING: Final = "embedding"
    METADATA: Final = "metadata"
    CREATED_AT: Final = "created_at"
    FILE_ID: Final = "file_id"
    FILENAME: Final = "filename"
    CHUNK_INDEX: Final = "chunk_index"
    SEQ: Final = "seq"


@final
class VectorStoreFiles:
    TABLE: Final = "vector_store_files"
    VECTOR_STORE_ID: Final = "vector_store_id"
    FILE_ID: Final = "file_id"
    BATCH_ID: Final = "batch_id"
    STATUS: Final = "status"
    LAST_ERROR: Final = "last_error"
    USAGE_BYTES: Final = "usage_bytes"
    ATTRIBUTES: Final = "attributes"
    CHUNKING_STRATEGY: Final = "chunking_strategy"
    CREATED_AT: Final = "created_at"
    TURN: Final = "turn"
    STARTS: Final = "starts"


@final
class DetachedFiles:
    TABLE: Final = "detached_files"
    VECTOR_STORE_ID: Final = "vector_store_id"
    FILE_ID: Final = "file_id"
    CREATED_AT: Final = "created_at"
    DETACHED_AT: Final = "detached_at"


@final
class FileBatches:
    TABLE: Final = "file_batches"
    ID: Final = "id"
    VECTOR_STORE_ID: Final = "vector_store_id"
    IS_CANCELLED: Final = "is_cancelled"
    CREATED_AT: Final = "created_at"


@final
class Files:
    TABLE: Final = "files"
    ID: Final = "id"
    FILENAME: Final = "filename"
    PURPOSE: Final = "purpose"
    BYTES: Final = "bytes"
    CREATED_AT: Final = "created_at"
    EXPIRES_AT: Final = "expires_at"
    TENANT: Final = "tenant"
    API_KEY_ID: Final = "api_key_id"


@final
class Uploads:
    TABLE: Final = "uploads"
    ID: Final = "id"
    FILENAME: Final = "filename"
    PURPOSE: Final = "purpose"
    BYTES: Final = "bytes"
    STATUS: Final = "status"
    CREATED_AT: Final = "created_at"
    EXPIRES_AT: Final = "expires_at"
    EXPIRES_AFTER_SECONDS: Final = "expires_after_seconds"
    FILE_ID: Final = "file_id"
    TENANT: Final = "tenant"
    API_KEY_ID: Final = "api_key_id"


@final
class UploadParts:
    TABLE: Final = "upload_parts"
    ID: Final = "id"
    UPLOAD_ID: Final = "upload_id"
    BYTES: Final = "bytes"
    CREATED_AT: Final = "created_at"


@final
class IdempotencyKeys:
    TABLE: Final = "idempotency_keys"
    CALLER: Final = "caller"
    KEY: Final = "key"
    CLAIM: Final = "claim"
    LEASE_EXPIRES_AT: Final = "lease_expires_at"
    CREATED_AT: Final = "created_at"
    FINGERPRINT: Final = "fingerprint"
    REQUEST_BYTES: Final = "request_bytes"
    STATUS: Final = "status"
    HEADERS: Final = "headers"
    BODY: Final = "body"


@final
class ApiKeys:
    TABLE: Final = "api_keys"
    ID: Final = "id"
    HASH: Final = "hash"
    ENDING: Final = "ending"
    NAME: Final = "name"
    ROLE: Final = "role"
    TENANT: Final = "tenant"
    VECTOR_STORE_IDS: Final = "vector_store_ids"
    REQUESTS_PER_MINUTE: Final = "requests_per_minute"
    CREATED_AT: Final = "created_at"
    EXPIRES_AT: Final = "expires_at"
    LAST_USED_AT: Final = "last_used_at"


@final
class RequestRates:
    TABLE: Final = "request_rates"
    API_KEY_ID: Final = "api_key_id"
    TOKENS: Final = "tokens"
    FILLED_AT: Final = "filled_at"
    GRANTED: Final = "granted"


@final
class KeywordStores:
    TABLE: Final = "keyword_stores"
    VECTOR_STORE_ID: Final = "vector_store_id"
    LANGUAGE: Final = "language"
    NEXT_NUMBER: Final = "next_number"
    NEXT_SEGMENT: Final = "next_segment"
    ADOPTED_ID: Final = "adopted_id"
    IS_ADOPTED: Final = "is_adopted"
    INDEXED_SEQ: Final = "indexed_seq"
    SETTLING_SEQ: Final = "settling_seq"
    SETTLING_AFTER: Final = "settling_after"


@final
class KeywordChunks:
    TABLE: Final = "keyword_chunks"
    VECTOR_STORE_ID: Final = "vector_store_id"
    NUMBER: Final = "number"
    CHUNK_ID: Final = "chunk_id"
    SEQ: Final = "seq"
    LENGTH: Final = "length"


@final
class KeywordSegments:
    TABLE: Final = "keyword_segments"
    VECTOR_STORE_ID: Final = "vector_store_id"
    SEGMENT: Final = "segment"
    FIRST_NUMBER: Final = "first_number"
    LAST_NUMBER: Final = "last_number"
    CHUNK_COUNT: Final = "chunk_count"
    WORD_COUNT: Final = "word_count"
    DELETED_COUNT: Final = "deleted_count"


@final
class KeywordPostings:
    TABLE: Final = "keyword_postings"
    VECTOR_STORE_ID: Final = "vector_store_id"
    TERM: Final = "term"
    SEGMENT: Final = "segment"
    CHUNK_COUNT: Final = "chunk_count"
    NUMBERS: Final = "numbers"
    FREQUENCIES: Final = "frequencies"
    LENGTHS: Final = "lengths"


@final
class SparseStores:
    TABLE: Final = "sparse_stores"
    VECTOR_STORE_ID: Final = "vector_store_id"
    MODEL: Final = "model"
    ADOPTED_ID: Final = "adopted_id"
    IS_ADOPTED: Final = "is_adopted"
    INDEXED_SEQ: Final = "indexed_seq"
    SETTLING_SEQ: Final = "settling_seq"
    SETTLING_AFTER: Final = "settling_after"
    CHUNK_COUNT: Final = "chunk_count"


@final
class SparseChunks:
    TABLE: Final = "sparse_chunks"
    VECTOR_STORE_ID: Final = "vector_store_id"
    CHUNK_ID: Final = "chunk_id"
    SEQ: Final = "seq"
    WEIGHTS: Final = "weights"


@final
class TableSyncs:
    TABLE: Final = "table_syncs"
    ID: Final = "id"
    VECTOR_STORE_ID: Final = "vector_store_id"
    TABLE_SCHEMA: Final = "table_schema"
    TABLE_NAME: Final = "table_name"
    KEY_COLUMNS: Final = "key_columns"
    KEY_TYPES: Final = "key_types"
    TEMPLATE: Final = "template"
    ATTRIBUTE_COLUMNS: Final = "attribute_columns"
    CHUNKING_STRATEGY: Final = "chunking_strategy"
    CREATED_AT: Final = "created_at"
    SCAN: Final = "scan"
    SCAN_AFTER: Final = "scan_after"
    ERROR: Final = "error"
    RETRY_AT: Final = "retry_at"


@final
class TableSyncChanges:
    TABLE: Final = "table_sync_changes"
    TABLE_SYNC_ID: Final = "table_sync_id"
    SEQ: Final = "seq"
    KEY: Final = "key"


@final
class TableSyncRows:
    TABLE: Final = "table_sync_rows"
    TABLE_SYNC_ID: Final = "table_sync_id"
    KEY: Final = "key"
    VERSION: Final = "version"
    IS_SCANNED: Final = "is_scanned"
    ATTEMPTS: Final = "attempts"
    ERROR: Final = "error"
    RETRY_AT: Final = "retry_at"
    CLAIM: Final = "claim"
    CLAIMED_UNTIL: Final = "claimed_until"


@final
class VectorIndexes:
    TABLE: Final = "vector_indexes"
    VECTOR_STORE_ID: Final = "vector_store_id"
    ID: Final = "id"
    AFTER_SEQ: Final = "after_seq"
    UNTIL_SEQ: Final = "until_seq"
    DIMENSION: Final = "dimension"
    CHUNK_COUNT: Final = "chunk_count"
    LIVING_COUNT: Final = "living_count"
    IS_READY: Final = "is_ready"
    ATTEMPTS: Final = "attempts"
    TRIED_AT: Final = "tried_at"
    ERROR: Final = "error"
    CREATED_AT: Final = "created_at"


@final
class MigrationCheckpoints:
    TABLE: Final = "migration_checkpoints"
    ID: Final = "id"
    VECTOR_STORE_ID: Final = "vector_store_id"
    SOURCE: Final = "source"
    POSITION: Final = "position"
    ROWS_WRITTEN: Final = "rows_written"
    ROWS_SKIPPED: Final = "rows_skipped"
    ROWS_REJECTED: Final = "rows_rejected"
    REJECTS_BYTES: Final = "rejects_bytes"
    CREATED_AT: Final = "created_at"
    UPDATED_AT: Final = "updated_at"
    FINISHED_AT: Final = "finished_at"
