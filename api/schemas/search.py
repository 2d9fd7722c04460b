"""`/vector_stores/{id}/search`: the question, how its results are ranked, and the results."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import TypedDict

from api.schemas.filters import FilterInput
from api.schemas.requests import Request
from api.schemas.texts import Name, with_content, without_nul
from api.schemas.vectors import EmbeddingInput

MAX_QUERIES = 32  # of one search; each is a search of its own


class HybridSearch(Request):
    embedding_weight: float = Field(ge=0, le=1e6)
    text_weight: float = Field(ge=0, le=1e6)
    sparse_weight: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        default=None, description="Quiver's own: of the sparse vectors, 0 by default."
    )

    @model_validator(mode="after")
    def _one_weighs(self) -> "HybridSearch":
        if not self.embedding_weight + self.text_weight + (self.sparse_weight or 0):
            raise ValueError("one of embedding_weight, text_weight and sparse_weight must be more than 0")
        return self


SearchMode = Literal["vector", "keyword", "sparse", "hybrid"]
FUSING_RANKERS = ("rrf", "weighted")
RANKERS = ("none", "auto", "default-2024-11-15", *FUSING_RANKERS)


class RankingOptions(Request):
    ranker: Name | None = Field(
        default=None,
        description="`auto`, `none`, `default-2024-11-15`; `rrf` or `weighted`, which fuse the legs; or the name of "
        "a rerank model of the proxy.",
    )
    search_mode: SearchMode | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    alpha: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Weight of the vectors in `weighted`, 0.7 by default; the words have the rest."
    )
    candidates: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="How many of each leg are fused, and how many are reranked; 50 by default."
    )
    hybrid_search: HybridSearch | None = Field(
        default=None, description="Weights of the legs in `rrf` and `weighted`; asks for `search_mode` `hybrid`."
    )
    ef_search: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="Candidates that the index of a large store considers; by default 100, or twice the results.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> "RankingOptions":
        if self.alpha is not None and self.ranker != "weighted":
            raise ValueError("alpha is for the ranker 'weighted'; name it")
        if self.hybrid_search is not None and self.alpha is not None:
            raise ValueError("alpha and hybrid_search both weigh the legs; give one of them")
        if self.search_mode in ("vector", "keyword", "sparse"):
            if self.ranker in FUSING_RANKERS:
                raise ValueError(f"the ranker {self.ranker!r} fuses several legs; search_mode must be 'hybrid'")
            if self.hybrid_search is not None:
                raise ValueError("hybrid_search asks for several legs; search_mode must be 'hybrid'")
        return self


Query = Annotated[str, Field(max_length=100_000), AfterValidator(without_nul), AfterValidator(with_content)]


class SearchRequest(Request):
    query: Query | Annotated[list[Query], Field(min_length=1, max_length=MAX_QUERIES)] | None = None
    query_embedding: EmbeddingInput | None = Field(
        default=None, description="Instead of `query`, for callers who embed themselves."
    )
    filters: FilterInput | None = None
    max_num_results: Annotated[int, Field(ge=1)] | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="litellm-pgvector's name of `max_num_results`; more than 100 is 100."
    )
    return_metadata: bool | None = Field(default=None, description="litellm-pgvector's: false leaves attributes out.")

    @model_validator(mode="after")
    def _one_question(self) -> "SearchRequest":
        if (self.query is None) == (self.query_embedding is None):
            raise ValueError("exactly one of query and query_embedding is required")
        if self.limit is not None and self.max_num_results is not None:
            raise ValueError("limit is another name of max_num_results; send one of them")
        return self


class ResultContent(TypedDict):
    type: Literal["text"]
    text: str


class SearchResult(TypedDict):
    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | int | float | bool] | None
    content: list[ResultContent]


class SearchResultsPage(TypedDict):
    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[SearchResult]
    has_more: bool
    next_page: str | None
