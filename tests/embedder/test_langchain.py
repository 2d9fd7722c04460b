"""LangChain's client of OpenAI's embeddings, which sends token ids of OpenAI's own tokenizer instead of texts."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from openai import OpenAI

from tests import packages

# Itself, and what it imports beyond our own packages.
PACKAGES = """
    langchain-openai==1.7.4 langchain-core==1.8.2 langchain-protocol==0.0.20 langsmith==0.15.0
    jsonpatch==1.47 jsonpointer==3.12 requests-toolbelt==1.0.0 uuid-utils==0.19.0 xxhash==4.1.0 zstandard==0.25.0
"""

PROGRAM = """
import json, os, sys

litellm, address, *texts = sys.argv[1:]
os.environ["TIKTOKEN_CACHE_DIR"] = litellm + "/litellm_core_utils/tokenizers"  # so that nothing is fetched
from langchain_openai import OpenAIEmbeddings

sent = []
class Embeddings(OpenAIEmbeddings):
    def _tokenize(self, texts, chunk_size):
        tokenized = super()._tokenize(texts, chunk_size)
        sent.extend(tokenized[1])
        return tokenized

embeddings = Embeddings(model="all-minilm-l6-v2", base_url=f"{address}/v1", api_key="any")
documents, query = embeddings.embed_documents(texts), embeddings.embed_query(texts[0])
print(json.dumps({"sent": sent, "documents": documents, "query": query}))
"""
TEXTS = ["How do I get my money back?", "Ünïcödé, 中文 and a snowman: ☃", "def f(x):\n    return x  # two spaces"]


def test_langchains_token_ids_are_embedded_as_their_texts(address: str, client: OpenAI, tmp_path: Path) -> None:
    libraries = packages.installed("langchain-openai", PACKAGES)
    litellm = find_spec("litellm")
    assert litellm is not None
    assert litellm.origin is not None

    out = packages.run(libraries, PROGRAM, Path(litellm.origin).parent, address, *TEXTS, home=tmp_path)

    answered = json.loads(out)
    by_text = client.embeddings.create(model="all-minilm-l6-v2", input=TEXTS)
    assert answered["sent"]
    assert all(isinstance(id, int) for ids in answered["sent"] for id in ids)
    np.testing.assert_allclose(answered["documents"], [one.embedding for one in by_text.data], atol=1e-5)
    np.testing.assert_allclose(answered["query"], by_text.data[0].embedding, atol=1e-5)
