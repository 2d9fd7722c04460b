"""A stand-in for the embedding service: OpenAI's embeddings API over real HTTP, and ways to make it misbehave.

It answers the embedder's `/v1/sparse_embeddings`, too.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.servers import Server

DIMENSION = 384
MODEL = "all-minilm-l6-v2"
SPARSE_MODEL = "tiny-splade"


def embed(text: str, dimension: int = DIMENSION) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Words hashed into a vector: texts that share words are near each other."""
    vector = np.full(dimension, 1e-3)
    for word in re.findall(r"\w+", text.lower()):
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        vector += np.random.default_rng(seed).normal(size=dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def weigh(text: str) -> dict[int, float]:
    """Words by their first four letters, so that "boating" is found by "boats", each by how often it occurs."""
    weights: dict[int, float] = {}
    for word in re.findall(r"\w+", text.lower()):
        entry = int.from_bytes(hashlib.sha256(word[:4].encode()).digest()[:8], "big") % 30_522
        weights[entry] = weights.get(entry, 0.0) + 1.0
    return weights


class FakeEmbedder:
    """Answers like OpenAI's API; `failures` are answered first, one a call, and every call's body is kept."""

    def __init__(self) -> None:
        self.reset()
        self._server = Server(
            Starlette(
                routes=[
                    Route("/v1/embeddings", self._embeddings, methods=["POST"]),
                    Route("/v1/sparse_embeddings", self._sparse_embeddings, methods=["POST"]),
                    Route("/v1/models", self._models),
                ]
            )
        )

    def reset(self) -> None:
        self.dimension = DIMENSION
        self.calls: list[dict[str, Any]] = []
        self.headers: list[Headers] = []  # of the calls
        self.sparse_calls: list[dict[str, Any]] = []
        self.failures: list[Response] = []
        self.sparse_failures: list[Response] = []
        self.refuses_base64 = False
        self.refused: str | None = None  # calls with this in a text are answered with the status `refusal`
        self.refusal = 400
        self.delay_seconds = 0.0
        self.drip_seconds = 0.0  # an answer that comes a byte at a time, over this long

    @property
    def base_url(self) -> str:
        return self._server.base_url

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    @property
    def texts(self) -> list[str]:
        return [text for call in self.calls for text in call["input"]]

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _drip(self) -> AsyncIterator[bytes]:
        for _ in range(20):
            await asyncio.sleep(self.drip_seconds / 20)
            yield b" "

    async def _embeddings(self, request: Request) -> Response:
        body = await request.json()
        self.calls.append(body)
        self.headers.append(request.headers)
        await asyncio.sleep(self.delay_seconds)
        if self.failures:
            return self.failures.pop(0)
        if self.refused is not None and any(self.refused in text for text in body["input"]):
            return JSONResponse({"error": {"message": "text refused"}}, self.refusal)
        if body["model"] == "no-such-model":
            message = f"/embeddings: Invalid model name passed in model={body['model']}"
            return JSONResponse({"error": {"message": message, "type": None, "param": None, "code": "400"}}, 400)
        if self.drip_seconds:
            return StreamingResponse(self._drip(), media_type="application/json")
        is_base64 = body.get("encoding_format") == "base64"
        if is_base64 and self.refuses_base64:
            return JSONResponse({"error": {"message": "unsupported encoding_format"}}, 400)
        vectors = [embed(text, body.get("dimensions") or self.dimension) for text in body["input"]]
        data = [
            {"object": "embedding", "index": i, "embedding": _encode(vector) if is_base64 else vector.tolist()}
            for i, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
        return JSONResponse({"object": "list", "data": data, "model": body["model"], "usage": usage})

    async def _sparse_embeddings(self, request: Request) -> Response:
        body = await request.json()
        self.sparse_calls.append(body)
        if self.sparse_failures:
            return self.sparse_failures.pop(0)
        if self.refused is not None and any(self.refused in text for text in body["input"]):
            return JSONResponse({"error": {"message": "text refused"}}, self.refusal)
        if body["model"] != SPARSE_MODEL:
            return JSONResponse({"error": {"message": "The model does not exist", "code": "model_not_found"}}, 404)
        rows = [weigh(text) for text in body["input"]]
        data = [
            {"object": "sparse_embedding", "index": index, "indices": list(row), "values": list(row.values())}
            for index, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
        return JSONResponse({"object": "list", "data": data, "model": body["model"], "usage": usage})


def _encode(vector: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
