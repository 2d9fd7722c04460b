# The types of torch and sentence-transformers name packages that are not installed.
# pyright: reportUnknownMemberType=false
"""Real models of a few kilobytes: random weights, the same in every run, and thirteen words."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "ran", "on", "mat", "##s", "."]
# Two layers, 32 dimensions.
SIZES = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@contextmanager
def seeded() -> Generator[None]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        yield


def save_plain(directory: Path, *, architecture: str, **sizes: int) -> Path:
    """A model as transformers saves it, its weights spread widely, so that different texts get different rows."""
    import transformers

    library: Any = transformers
    config = library.BertConfig(**SIZES, intermediate_size=64, initializer_range=0.3, **sizes)
    with seeded():
        model = getattr(library, architecture)(config)
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
    return directory


def save_bert(
    directory: Path, *, outliers: bool = False, include_prompt: bool = True, own_window: int | None = None
) -> Path:
    """A dense model with a window of 16 tokens. With outliers, a few great weights leave no room for the others in
    8 bits; a window of its own is one that nobody else can set.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    body = Transformer(
        str(save_plain(directory / "plain", architecture="BertModel")),
        max_seq_length=16,
        processing_kwargs={"text": {"max_length": own_window}} if own_window else None,
    )
    if outliers:
        with torch.no_grad():
            for name, weights in body.named_parameters():
                if weights.dim() == 2 and "embeddings" not in name:
                    weights[:, 0] = 300.0
    saved = directory / "tiny-bert"
    SentenceTransformer(modules=[body, Pooling(32, include_prompt=include_prompt)], device="cpu").save(str(saved))
    return saved


def save_splade(directory: Path) -> Path:
    """A sparse model: a masked-language head, and the greatest weight of each word."""
    from sentence_transformers import SparseEncoder

    plain = save_plain(directory / "plain", architecture="BertForMaskedLM", max_position_embeddings=16)
    saved = directory / "tiny-splade"
    SparseEncoder(str(plain), device="cpu").save(str(saved))
    return saved


def save_cross_encoder(directory: Path) -> Path:
    """A rerank model: one score for a pair, by a sigmoid."""
    from sentence_transformers import CrossEncoder

    plain = save_plain(
        directory / "plain", architecture="BertForSequenceClassification", max_position_embeddings=32, num_labels=1
    )
    saved = directory / "tiny-cross-encoder"
    CrossEncoder(str(plain), device="cpu").save(str(saved))
    return saved


def save_static(directory: Path) -> Path:
    """A vector of 8 dimensions for each word, no window, in sentence-transformers' format."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    saved = directory / "tiny-static"
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    with seeded():
        SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save(str(saved))
    return saved


def save_words(directory: Path) -> Path:
    """The same for whole words, which a tokenizer of sentence-transformers' own tells apart."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, WordEmbeddings
    from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

    saved = directory / "tiny-words"
    weights = np.random.default_rng(4).normal(size=(len(WORDS), 8)).astype(np.float32)
    words = WordEmbeddings(WhitespaceTokenizer(WORDS, stop_words=[]), weights)
    SentenceTransformer(modules=[words, Pooling(8)], device="cpu").save(str(saved))
    return saved


def vectors(model: Path, texts: list[str]) -> NDArray[np.float32]:
    """What sentence-transformers itself makes of the texts."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model), device="cpu").encode(texts, normalize_embeddings=True)


def sparse_vectors(model: Path, texts: list[str]) -> NDArray[np.float32]:
    """One weight for each word of the vocabulary, as sentence-transformers computes them."""
    from sentence_transformers import SparseEncoder

    return SparseEncoder(str(model), device="cpu").encode(texts).to_dense().numpy()


def scores(model: Path, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
    """What sentence-transformers scores the pairs with."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(model), device="cpu").predict(pairs)
