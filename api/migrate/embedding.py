"""New vectors for texts that come without, or with those of another model."""

import numpy as np

from api.embeddings import Embeddings
from api.errors import EmbeddingUnavailable, InvalidRequest
from api.migrate.checks import Checked
from api.migrate.records import Record, Reject
from api.migrate.target import StoreFacts
from api.vectors import Vectors


class Embedder:
    """Embeds the texts of batches with the model of a store."""

    def __init__(self, embeddings: Embeddings, store: StoreFacts) -> None:
        self._embeddings = embeddings
        self._model = store.model or embeddings.default_model
        self._dimension = store.dimension

    async def embed(self, checked: Checked) -> Checked:
        """The same records with vectors; a text that the model refuses is rejected, and the others go on.

        Raises:
            EmbeddingUnavailable: the service is away, or has not such vectors.
            EmbeddingTimeout: it took too long.
        """
        try:
            records, parts, rejects = await self._embed(checked.records)
        except EmbeddingUnavailable as error:
            raise EmbeddingUnavailable(
                f"{error.message} EMBEDDING__BASE_URL and EMBEDDING__API_KEY say where it is; "
                "start the same command again to go on."
            ) from error
        if not parts:
            return Checked([], None, [*checked.rejects, *rejects])
        return Checked(records, np.concatenate(parts), [*checked.rejects, *rejects])

    async def _embed(self, records: list[Record]) -> tuple[list[Record], list[Vectors], list[Reject]]:
        texts = [str(record.content) for record in records]
        try:
            vectors = await self._embeddings.embed(texts, model=self._model, dimension=self._dimension)
        except InvalidRequest as error:
            if error.code == "model_not_found":
                raise
            if len(records) == 1:
                return [], [], [Reject(records[0], f"the embedding model refuses the text: {error.message}")]
            middle = len(records) // 2
            first, second = await self._embed(records[:middle]), await self._embed(records[middle:])
            return first[0] + second[0], first[1] + second[1], first[2] + second[2]
        return records, [vectors], []
