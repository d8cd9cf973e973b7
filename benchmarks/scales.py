"""The sizes of the cases: realistic ones, and tiny ones for testing."""

import dataclasses
from collections.abc import Mapping

# Lengths in WordPiece tokens, including [CLS] and [SEP], of every 16th paragraph of the SQuAD 1.1 dev set in the order
# of the file, truncated to 256: 128 of 2067. fmt: off
PARAGRAPHS = (
    159,
    99,
    145,
    138,
    161,
    169,
    256,
    164,
    64,
    68,
    93,
    39,
    37,
    67,
    101,
    84,
    102,
    192,
    114,
    89,
    216,
    150,
    193,
    250,
    192,
    68,
    85,
    190,
    94,
    79,
    63,
    145,
    164,
    110,
    169,
    115,
    140,
    139,
    256,
    135,
    133,
    127,
    133,
    110,
    172,
    120,
    100,
    256,
    163,
    256,
    104,
    256,
    256,
    112,
    101,
    192,
    114,
    163,
    89,
    143,
    159,
    169,
    251,
    184,
    171,
    117,
    217,
    256,
    126,
    164,
    203,
    256,
    113,
    200,
    102,
    250,
    175,
    139,
    108,
    164,
    105,
    175,
    139,
    185,
    195,
    131,
    256,
    172,
    133,
    171,
    115,
    179,
    186,
    156,
    185,
    175,
    130,
    168,
    146,
    129,
    121,
    115,
    164,
    132,
    145,
    145,
    204,
    124,
    201,
    210,
    147,
    117,
    142,
    146,
    177,
    204,
    152,
    213,
    188,
    256,
    243,
    139,
    129,
    256,
    129,
    216,
    136,
    113,
)
# Lengths in BPE tokens of RoBERTa of "title / text // question", the input of the generator of RAG: 40 evenly spaced
# passages of the Natural Questions dev set, truncated to 100 words as in DPR, five for each of the first eight
# questions.
CONTEXTS = (
    140,
    123,
    132,
    123,
    143,
    102,
    123,
    87,
    50,
    83,
    119,
    86,
    116,
    106,
    68,
    134,
    91,
    150,
    124,
    131,
    107,
    68,
    123,
    128,
    136,
    124,
    134,
    33,
    125,
    195,
    111,
    128,
    99,
    92,
    133,
    140,
    126,
    138,
    129,
    93,
)
# fmt: on


def _bart(width: int, layers: int, heads: int, vocabulary: int) -> dict[str, float]:
    stacks = ("encoder", "decoder")
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        **{f"{stack}_layers": layers for stack in stacks},
        **{f"{stack}_attention_heads": heads for stack in stacks},
        **{f"{stack}_ffn_dim": 4 * width for stack in stacks},
    }


def _llama(vocabulary: int, width: int, layers: int, heads: int, kv_heads: int) -> dict[str, float]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": 8 * width // 3,
        "initializer_range": 0.05,
    }


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of all cases.

    Attributes:
      model: Config of GPT-2. With the default initializer_range of 0.02, a random model only repeats the last token.
      llama: Config of Llama with as many parameters.
      encoder: Config of BERT, for DPR and RoBERTa-PreLayerNorm.
      led: Config of LED.
      documents: Lengths of two documents for LED.
      summary: Number of tokens that LED generates.
      bart: Config of BART, for RAG.
      contexts: Lengths of passages with their question, five per question.
      combined: Length to which the retriever pads them.
      answer: Number of tokens that RAG generates (the default of the reference).
      prompt, new, prefill, train: Lengths in tokens.
      depths: Numbers of layers.
      passages, masked: Batch size and length.
      paragraphs: Lengths of real texts.
      index: Number and width of vectors in an index.
      searches: Number of queries and of results per query.
      bandwidth_mib, gemm_size: Sizes for measuring the limits of the machine.
    """

    model: Mapping[str, float]
    llama: Mapping[str, float]
    encoder: Mapping[str, float]
    led: Mapping[str, float]
    documents: tuple[int, int]
    summary: int
    bart: Mapping[str, float]
    contexts: tuple[int, ...]
    combined: int
    answer: int
    prompt: int
    new: int
    prefill: int
    train: int
    depths: tuple[int, ...]
    passages: tuple[int, int]
    masked: tuple[int, int]
    paragraphs: tuple[int, ...]
    index: tuple[int, int]
    searches: tuple[int, int]
    bandwidth_mib: int
    gemm_size: int


BASE = Scale(
    model={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "initializer_range": 0.05,
    },
    llama=_llama(32000, 768, 12, 12, 4),
    encoder={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 514,
    },
    led={**_bart(768, 6, 12, 50265), "attention_window": 1024, "max_encoder_position_embeddings": 16384},
    documents=(4096, 16384),
    summary=64,
    bart=_bart(768, 6, 12, 50265),
    contexts=CONTEXTS,
    combined=300,
    answer=19,
    prompt=32,
    new=128,
    prefill=512,
    train=512,
    depths=(12, 24, 48),
    passages=(32, 256),
    masked=(8, 512),
    paragraphs=PARAGRAPHS,
    index=(500_000, 768),
    searches=(32, 100),
    bandwidth_mib=512,
    gemm_size=2048,
)
TINY = Scale(
    model={"vocab_size": 512, "n_positions": 64, "n_embd": 128, "n_layer": 2, "n_head": 2, "initializer_range": 0.15},
    llama=_llama(512, 128, 2, 4, 2),
    encoder={
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 258,
    },
    led={**_bart(64, 2, 2, 512), "attention_window": 8, "max_encoder_position_embeddings": 128},
    documents=(32, 128),
    summary=8,
    bart=_bart(64, 2, 2, 512),
    contexts=(9, 14, 7, 12, 10, 8, 13, 6, 15, 11),
    combined=16,
    answer=8,
    prompt=8,
    new=8,
    prefill=32,
    train=32,
    depths=(1, 2, 4),
    passages=(2, 16),
    masked=(2, 16),
    paragraphs=(7, 30, 12, 9, 25, 18, 40, 8),
    index=(3000, 64),
    searches=(4, 20),
    bandwidth_mib=8,
    gemm_size=128,
)
