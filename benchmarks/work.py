"""Minimum cost of calls, derived from the shapes of the models.

D width, L layers, V vocabulary, T tokens in a sequence.
"""

from collections.abc import Mapping


def decode_gigabytes(model: Mapping[str, float], new: int) -> float:
    """Return the GB read: every float32 weight except the position table once per new token, without the KV cache."""
    return new * 4 * (_layer_weights(model) + model["vocab_size"] * model["n_embd"]) / 1e9


def file_gigabytes(model: Mapping[str, float]) -> float:
    """Return the GB of all parameters in float32."""
    return 4 * (_layer_weights(model) + sum(embedding_sizes(model))) / 1e9


def prefill_gigaflops(model: Mapping[str, float], batch: int, length: int) -> float:
    """Return the GFLOP of the matrix products: full (not causal) attention, and the head at the last position only."""
    return batch * (_body_flops(model, length) + _head_flops(model)) / 1e9


def train_gigaflops(model: Mapping[str, float], batch: int, length: int) -> float:
    """Return the GFLOP of forward and backward pass (twice the forward), with the head at every position."""
    return 3 * batch * (_body_flops(model, length) + length * _head_flops(model)) / 1e9


def llama_decode_gigabytes(llama: Mapping[str, float], new: int) -> float:
    """Return the GB read: every float32 weight except the token embeddings once per new token, without the KV cache."""
    head = llama["vocab_size"] * llama["hidden_size"]
    return new * 4 * (llama["num_hidden_layers"] * _llama_kernels(llama) + head) / 1e9


def llama_prefill_gigaflops(llama: Mapping[str, float], batch: int, length: int) -> float:
    """Return the GFLOP of the matrix products, with the head at the last position only."""
    return batch * (_llama_flops(llama, length) + 2 * llama["vocab_size"] * llama["hidden_size"]) / 1e9


def llama_train_gigaflops(llama: Mapping[str, float], batch: int, length: int) -> float:
    """Return the GFLOP of forward and backward pass (twice the forward), with the head at every position."""
    head = 2 * llama["vocab_size"] * llama["hidden_size"]
    return 3 * batch * (_llama_flops(llama, length) + length * head) / 1e9


def encoder_gigaflops(encoder: Mapping[str, float], length: int) -> float:
    """Return the GFLOP of the layers of BERT for a sequence of this length; padding is not counted."""
    d, f = encoder["hidden_size"], encoder["intermediate_size"]
    return encoder["num_hidden_layers"] * (length * (8 * d * d + 4 * d * f) + 4 * length * length * d) / 1e9


def masked_gigaflops(encoder: Mapping[str, float], length: int) -> float:
    """Return the GFLOP of the layers and of the language model head at every position, for a sequence."""
    d = encoder["hidden_size"]
    return encoder_gigaflops(encoder, length) + length * (2 * d * d + 2 * d * encoder["vocab_size"]) / 1e9


def longformer_gigaflops(led: Mapping[str, float], length: int) -> float:
    """Return the GFLOP of the encoder layers of LED for a sequence: every token attends to its window and itself.

    The global projections of keys and values are not counted: with few global tokens they are not needed.
    """
    d, f, seen = led["d_model"], led["encoder_ffn_dim"], led["attention_window"] + 1
    return led["encoder_layers"] * length * (8 * d * d + 4 * d * f + 4 * seen * d) / 1e9


def search_gigaflops(rows: int, width: int, queries: int) -> float:
    """Return the GFLOP of the inner products of an exact search."""
    return 2 * rows * width * queries / 1e9


def embedding_sizes(model: Mapping[str, float]) -> tuple[float, float]:
    """Return the number of elements of the token embedding (the largest tensor) and of the position embedding."""
    return model["vocab_size"] * model["n_embd"], model["n_positions"] * model["n_embd"]


def _layer_weights(model: Mapping[str, float]) -> float:
    """All layers and the final norm; each layer has kernels of 12 D^2, biases of 9 D and two norms of 2 D each."""
    d = model["n_embd"]
    return model["n_layer"] * (12 * d * d + 13 * d) + 2 * d


def _llama_kernels(llama: Mapping[str, float]) -> float:
    """Elements of the kernels of a layer: queries and output, keys and values, three of the feed-forward layer."""
    d, groups = llama["hidden_size"], llama["num_key_value_heads"] / llama["num_attention_heads"]
    return 2 * d * d * (1 + groups) + 3 * d * llama["intermediate_size"]


def _llama_flops(llama: Mapping[str, float], length: int) -> float:
    """One sequence: 2 per weight and token for kernels, 2 T^2 D each for attention scores and weighted values."""
    attention = 4 * length * length * llama["hidden_size"]
    return llama["num_hidden_layers"] * (2 * _llama_kernels(llama) * length + attention)


def _body_flops(model: Mapping[str, float], length: int) -> float:
    """One sequence: 2 per weight and token for kernels, 2 T^2 D each for attention scores and weighted values."""
    d = model["n_embd"]
    return model["n_layer"] * (24 * d * d * length + 4 * length * length * d)


def _head_flops(model: Mapping[str, float]) -> float:
    return 2 * model["vocab_size"] * model["n_embd"]
