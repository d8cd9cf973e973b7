"""What a call costs at least, from the shapes of the models: the numerators of the shares.

D width, L layers, V vocabulary, T tokens in a row.
"""

from collections.abc import Mapping


def decode_gigabytes(model: Mapping[str, float], new: int) -> float:
    """GB read: every float32 weight but the position table, once for every new token. The cache is left out."""
    return new * 4 * (_layer_weights(model) + model["vocab_size"] * model["n_embd"]) / 1e9


def file_gigabytes(model: Mapping[str, float]) -> float:
    """GB of all parameters in float32."""
    return 4 * (_layer_weights(model) + sum(embedding_sizes(model))) / 1e9


def prefill_gigaflops(model: Mapping[str, float], batch: int, length: int) -> float:
    """GFLOP of the matrix products, attention in full (not its causal half), the head at the last position only."""
    return batch * (_body_flops(model, length) + _head_flops(model)) / 1e9


def train_gigaflops(model: Mapping[str, float], batch: int, length: int) -> float:
    """GFLOP of forward and backward (twice the forward), the head at every position."""
    return 3 * batch * (_body_flops(model, length) + length * _head_flops(model)) / 1e9


def encoder_gigaflops(encoder: Mapping[str, float], length: int) -> float:
    """GFLOP of one text of that length through BERT's layers; padding is not counted."""
    d, f = encoder["hidden_size"], encoder["intermediate_size"]
    return encoder["num_hidden_layers"] * (length * (8 * d * d + 4 * d * f) + 4 * length * length * d) / 1e9


def masked_gigaflops(encoder: Mapping[str, float], length: int) -> float:
    """GFLOP of one text through the layers and the language head at every position."""
    d = encoder["hidden_size"]
    return encoder_gigaflops(encoder, length) + length * (2 * d * d + 2 * d * encoder["vocab_size"]) / 1e9


def longformer_gigaflops(led: Mapping[str, float], length: int) -> float:
    """GFLOP of one text through LED's encoder layers: every token meets its window and itself. The global projections
    of the keys and values are left out: with few global tokens nobody needs them."""
    d, f, seen = led["d_model"], led["encoder_ffn_dim"], led["attention_window"] + 1
    return led["encoder_layers"] * length * (8 * d * d + 4 * d * f + 4 * seen * d) / 1e9


def search_gigaflops(rows: int, width: int, queries: int) -> float:
    """GFLOP of every inner product of an exact search."""
    return 2 * rows * width * queries / 1e9


def embedding_sizes(model: Mapping[str, float]) -> tuple[float, float]:
    """Numbers of elements of the word table (the largest tensor) and the position table."""
    return model["vocab_size"] * model["n_embd"], model["n_positions"] * model["n_embd"]


def _layer_weights(model) -> float:
    """All layers and the final norm: kernels of 12 D^2, their biases of 9 D and two norms of 2 D each a layer."""
    d = model["n_embd"]
    return model["n_layer"] * (12 * d * d + 13 * d) + 2 * d


def _body_flops(model, length: int) -> float:
    """One row: kernels at 2 a weight and token, and scores and values of the attention at 2 T^2 D each."""
    d = model["n_embd"]
    return model["n_layer"] * (24 * d * d * length + 4 * length * length * d)


def _head_flops(model) -> float:
    return 2 * model["vocab_size"] * model["n_embd"]
