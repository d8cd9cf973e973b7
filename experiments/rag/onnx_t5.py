"""A T5 that is published as ONNX graphs only, rewritten as a folder that `jm.load` takes.

The graphs are encoder.onnx and decoder.onnx, a model's halves as torch exports them, quantised by ONNX Runtime or not.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.files import write_json
from jaxmodels.tensor_files.safetensors_file import write_tensors

PARTS = ("encoder", "decoder")
QUANTIZED = "_quantized"
WEIGHT = re.compile(rf"\.weight({QUANTIZED})?$")
PRODUCT = re.compile(r"/MatMul(_quant)?$")
LAYERED = re.compile(r"(?:^|\.)((?:block\.\d+|final_layer_norm)\..*)$")
TABLES = {"shared.weight": "shared.weight", "embed_tokens.weight": "shared.weight", "lm_head.weight": "lm_head.weight"}


def rewrite(source: Path, target: Path) -> None:
    """Writes the folder `target`, whole or not at all, from one of encoder.onnx, decoder.onnx and tokenizer.json.

    Raises:
      FileNotFoundError: a file is missing.
      ModuleNotFoundError: the package onnx is not installed.
      ValueError: the graphs are not those of a T5 1.1 or FLAN-T5.
    """
    for name in (*(f"{part}.onnx" for part in PARTS), "tokenizer.json"):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source} has no {name}")
    arrays = checkpoint(source)
    config = facts(arrays)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        write_json(made / "config.json", config)
        write_tensors(made / "model.safetensors", arrays)
        shutil.copy(source / "tokenizer.json", made)
        made.rename(target)


def checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """The weights of both graphs in float32, by the names of a T5 on the Hub.

    Raises:
      ValueError: a weight that no T5 has, or two tables of words that differ.
    """
    found: dict[str, np.ndarray] = {}
    for part in PARTS:
        for name, array in weights(folder / f"{part}.onnx").items():
            place = _place(part, name)
            if place is None:
                raise ValueError(f"{folder}/{part}.onnx has a weight {name!r}, which is none of a T5")
            if place in found and not np.array_equal(found[place], array):
                raise ValueError(f"{folder}: encoder and decoder have different weights {place}")
            found[place] = array
    return found


def weights(file: Path) -> dict[str, np.ndarray]:
    """The weights of one graph in float32, by the names that the exported modules had.

    A weight W in int8 stands there as W_quantized with W_scale and W_zero_point. The kernel of a product has lost its
    name, and lies as [in, out]; the product's own name says whose it is.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{file} is read by the package onnx, which is not here: pip install onnx") from None
    graph = onnx.load(file).graph
    raw = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}

    def real(name: str) -> np.ndarray:
        array, bare = raw[name].astype(np.float32), name.removesuffix(QUANTIZED)
        return array if bare == name else (array - np.float32(raw[f"{bare}_zero_point"])) * raw[f"{bare}_scale"]

    found = {name.removesuffix(QUANTIZED): real(name) for name in raw if WEIGHT.search(name)}
    for node in graph.node:
        if PRODUCT.search(node.name) and node.input[1] in raw:
            name = PRODUCT.sub("", node.name).lstrip("/").replace("/", ".")
            found[f"{name}.weight"] = np.ascontiguousarray(real(node.input[1]).T)
    return found


def facts(arrays: Mapping[str, np.ndarray]) -> dict:
    """config.json of a T5 1.1 or FLAN-T5 with these weights; their shapes say all in which its sizes differ.

    Raises:
      ValueError: the weights are those of a first T5, whose activation and scale are others, or are not of a T5.
    """
    first = "encoder.block.0.layer"
    needed = (
        "shared.weight",
        "lm_head.weight",
        f"{first}.0.SelfAttention.q.weight",
        f"{first}.0.SelfAttention.relative_attention_bias.weight",
        f"{first}.1.DenseReluDense.wi_0.weight",
    )
    if missing := [name for name in needed if name not in arrays]:
        raise ValueError(f"expected the weights of a T5 1.1 or FLAN-T5; there is no {', no '.join(missing)}")
    words, _, query, bias, wide = (arrays[name].shape for name in needed)
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": words[0],
        "d_model": words[1],
        "d_kv": query[0] // bias[1],
        "d_ff": wide[0],
        "num_heads": bias[1],
        "num_layers": _layers(arrays, "encoder"),
        "num_decoder_layers": _layers(arrays, "decoder"),
        "relative_attention_num_buckets": bias[0],
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }


def _place(part: str, name: str) -> str | None:
    if layered := LAYERED.search(name):
        return f"{part}.{layered[1]}"
    return next((place for end, place in TABLES.items() if name.endswith(end)), None)


def _layers(arrays: Mapping[str, np.ndarray], part: str) -> int:
    return 1 + max(int(name.split(".")[2]) for name in arrays if name.startswith(f"{part}.block."))
