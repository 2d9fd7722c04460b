# The types of torch and sentence-transformers name packages that are not installed.
# pyright: reportUnknownMemberType=false
"""Real models of a few kilobytes: random weights, thirteen words."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "dog", "sat", "ran", "on", "mat", "##s", "."]


def save_bert(directory: Path) -> Path:
    """Two layers, 32 dimensions, a window of 16 tokens, in sentence-transformers' format."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizer

    plain, saved = directory / "plain", directory / "tiny-bert"
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(plain)
    (plain / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(plain / "vocab.txt")).save_pretrained(plain)
    body = Transformer(str(plain), max_seq_length=16)
    SentenceTransformer(modules=[body, Pooling(32)], device="cpu").save(str(saved))
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
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save(str(saved))
    return saved


def vectors(model: Path, texts: list[str]) -> NDArray[np.float32]:
    """What sentence-transformers itself makes of the texts."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model), device="cpu").encode(texts, normalize_embeddings=True)
