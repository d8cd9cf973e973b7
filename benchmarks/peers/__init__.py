"""The participants: one file per library, one function per kind of job, all with the same arguments.

A function sets up (loads, converts) and returns a `Job`; what it does is not timed. The kinds of job:

decode(folder, ids, new, beams=1): greedy continuation of every row of `ids` by `new` tokens, or the best of a beam
    search; values: the sequences [B,T+new].
decode_mixed(folder, texts, new): the same for `texts` (ids) of different lengths; values: the new tokens [B,new].
prefill(folder, ids): logits of the last position; values [B,V].
train(folder, ids): one step of next-token loss and AdamW(1e-4, weight_decay=0.01); value: the loss before the update.
compile_step(folder, config, ids): that step for a model of `config`, traced, lowered and compiled without parameters;
    `folder` is not read; no values.
encode(folder, texts, rows): a vector for every text of `texts` (ids), `rows` at a time; values: the vectors in order.
long_encode(folder, ids): LED's encoder, the first token global; values: some of its states.
long_decode(folder, ids, new): what that was is decoded by `new` tokens; values: the sequences [B,1+new].
long_answer(folder, ids, new, beams): both, with a beam search; values: the same.
documents_answer(folder, cls, ids, doc_scores, new, beams): RAG's answers by that class to questions whose documents
    are found already, five for each: `ids` [B*5,S] padded with 1, `doc_scores` [B,5]; values: the answers [B,1+new].
masked_lm(folder, ids): logits of every position; values: some of them.
search(folder, rows, width, queries, k): the k largest inner products of random queries with random rows, and which
    rows they are; `folder` is not read; values: the inner products [queries,k].
load(folder): parameters from the file, and the sum over all of them, so that pages that were only mapped are read too;
    with memory that the machine has (`memory.provide`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

MODULES = {
    "ours": "benchmarks.peers.ours",
    "hf-torch-sdpa": "benchmarks.peers.hf_torch",
    "hf-flax": "benchmarks.peers.hf_flax",
    "ctranslate2-f32": "benchmarks.peers.ctranslate2_f32",
    "onnxruntime": "benchmarks.peers.onnx_runtime",
    "torch": "benchmarks.peers.torch_plain",
    "numpy": "benchmarks.peers.numpy_plain",
    "faiss-flat": "benchmarks.peers.faiss_flat",
}


def as_values(result: Any) -> list[float]:
    """Return the numbers of an array-like as a flat list."""
    return np.asarray(result).ravel().tolist()


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that is set up.

    Attributes:
      run: the timed call; it returns when its result is there, not when it is under way.
      values: the numbers of that result, for the comparison between peers; not timed.
      facts: other figures of that result, which become columns of the table; not timed.
    """

    run: Callable[[], Any]
    values: Callable[[Any], list[float]] = as_values
    facts: Callable[[Any], dict[str, float]] = lambda result: {}


def total(arrays: Iterable[np.ndarray]) -> float:
    """Sum every tensor with NumPy, on views of the parameters, without copies or compilation."""
    return float(sum(array.sum(dtype=np.float32) for array in arrays))


def random_rows(rows: int, width: int, batch: int = 8192) -> Iterator[np.ndarray]:
    """Generate the same random vectors, float32 [rows,width], in blocks."""
    numbers = np.random.default_rng(0)
    for start in range(0, rows, batch):
        yield numbers.standard_normal((min(batch, rows - start), width), dtype=np.float32)


def random_queries(count: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, width), dtype=np.float32)


# A batch of texts: their indices, and ids and mask [B,T].
TextBatch = tuple[np.ndarray, np.ndarray, np.ndarray]


def as_they_come(texts: list[list[int]], rows: int) -> list[TextBatch]:
    """Split texts into batches in order, each padded to its longest text: the naive way."""
    indices = np.arange(len(texts))
    return [padded(texts, part) for part in np.split(indices, range(rows, len(texts), rows))]


def padded(texts: list[list[int]], indices: np.ndarray, width: int = 0) -> TextBatch:
    """Create a batch of some texts, padded with 0 to the longest or to `width`."""
    width = max(width, *(len(texts[index]) for index in indices))
    ids = np.zeros((len(indices), width), np.int64)
    for row, index in enumerate(indices):
        ids[row, : len(texts[index])] = texts[index]
    return indices, ids, (ids != 0).astype(np.int64)


def padded_left(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Create a batch of prompts, padded with 0 on the left: ids and mask [B,T]."""
    ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
    for row, text in enumerate(texts):
        ids[row, ids.shape[1] - len(text) :] = text
    return ids, (ids != 0).astype(np.int64)


def in_order(results: Iterable[tuple[np.ndarray, Any]]) -> list[float]:
    """Return the vectors of all batches in the order of the texts."""
    indices, vectors = zip(*results, strict=True)
    return as_values(np.concatenate([np.asarray(part) for part in vectors])[np.argsort(np.concatenate(indices))])


def some_states(states: Any) -> list[float]:
    """Return states [B,T,D] at every 16th position and every 13th feature."""
    return as_values(np.asarray(states)[:, ::16, ::13])


def some_logits(logits: Any) -> list[float]:
    """Return logits [B,T,V] at every 64th position and every 97th token: all of them would be gigabytes of text."""
    return as_values(np.asarray(logits)[:, ::64, ::97])
