"""Convert a T5 that is only available as ONNX graphs to a folder for `jm.load`.

The graphs are encoder.onnx and decoder.onnx, as exported by torch, optionally quantised by ONNX Runtime.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmodels.tensor_files.safetensors_file import write_tensors

from ..files import write_json

PARTS = ("encoder", "decoder")
QUANTIZED = "_quantized"
WEIGHT = re.compile(rf"\.weight({QUANTIZED})?$")
PRODUCT = re.compile(r"/MatMul(_quant)?$")
LAYERED = re.compile(r"(?:^|\.)((?:block\.\d+|final_layer_norm)\..*)$")
TABLES = {"shared.weight": "shared.weight", "embed_tokens.weight": "shared.weight", "lm_head.weight": "lm_head.weight"}


def rewrite(source: Path, target: Path) -> None:
    """Convert a folder with encoder.onnx, decoder.onnx and tokenizer.json; `target` is written atomically.

    Raises:
      FileNotFoundError: A file is missing.
      ModuleNotFoundError: The package onnx is not installed.
      ValueError: The graphs are not those of a T5 1.1 or FLAN-T5.
    """
    for name in (*(f"{part}.onnx" for part in PARTS), "tokenizer.json"):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source} has no {name}")
    arrays = checkpoint(source)
    config = config_of_weights(arrays)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        draft = Path(scratch) / "model"
        draft.mkdir()
        write_json(draft / "config.json", config)
        write_tensors(draft / "model.safetensors", arrays)
        shutil.copy(source / "tokenizer.json", draft)
        draft.rename(target)


def checkpoint(folder: Path) -> dict[str, np.ndarray]:
    """Read the weights of both graphs in float32, under the names of a T5 checkpoint on the Hub.

    Raises:
      ValueError: A weight that T5 does not have, or different embeddings in encoder and decoder.
    """
    found: dict[str, np.ndarray] = {}
    for part in PARTS:
        for name, array in weights(folder / f"{part}.onnx").items():
            target = _target_name(part, name)
            if target is None:
                raise ValueError(f"{folder}/{part}.onnx has a weight {name!r}, which T5 does not have")
            if target in found and not np.array_equal(found[target], array):
                raise ValueError(f"{folder}: encoder and decoder have different weights {target}")
            found[target] = array
    return found


def weights(file: Path) -> dict[str, np.ndarray]:
    """Read the weights of a graph in float32, under the names of the exported modules.

    An int8 weight W is stored as W_quantized with W_scale and W_zero_point. The weight of a matrix product is stored
    without its name, as [in, out]; its name is derived from the name of the product.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"reading {file} requires the package onnx: pip install onnx") from None
    graph = onnx.load(file).graph
    raw = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def dequantized(name: str) -> np.ndarray:
        array, bare = raw[name].astype(np.float32), name.removesuffix(QUANTIZED)
        return array if bare == name else (array - np.float32(raw[f"{bare}_zero_point"])) * raw[f"{bare}_scale"]

    found = {name.removesuffix(QUANTIZED): dequantized(name) for name in raw if WEIGHT.search(name)}
    for node in graph.node:
        if PRODUCT.search(node.name) and node.input[1] in raw:
            name = PRODUCT.sub("", node.name).lstrip("/").replace("/", ".")
            found[f"{name}.weight"] = np.ascontiguousarray(dequantized(node.input[1]).T)
    return found


def config_of_weights(arrays: Mapping[str, np.ndarray]) -> dict:
    """Derive config.json of a T5 1.1 or FLAN-T5 from the shapes of its weights.

    Raises:
      ValueError: The weights are those of an original T5 (with another activation and scale), or not of a T5.
    """
    first = "encoder.block.0.layer"
    required = (
        "shared.weight",
        "lm_head.weight",
        f"{first}.0.SelfAttention.q.weight",
        f"{first}.0.SelfAttention.relative_attention_bias.weight",
        f"{first}.1.DenseReluDense.wi_0.weight",
    )
    if missing := [name for name in required if name not in arrays]:
        raise ValueError(f"expected the weights of a T5 1.1 or FLAN-T5; there is no {', no '.join(missing)}")
    embedding, _, query, bias, up = (arrays[name].shape for name in required)
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": embedding[0],
        "d_model": embedding[1],
        "d_kv": query[0] // bias[1],
        "d_ff": up[0],
        "num_heads": bias[1],
        "num_layers": _layers(arrays, "encoder"),
        "num_decoder_layers": _layers(arrays, "decoder"),
        "relative_attention_num_buckets": bias[0],
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }


def _target_name(part: str, name: str) -> str | None:
    if layered := LAYERED.search(name):
        return f"{part}.{layered[1]}"
    return next((target for suffix, target in TABLES.items() if name.endswith(suffix)), None)


def _layers(arrays: Mapping[str, np.ndarray], part: str) -> int:
    return 1 + max(int(name.split(".")[2]) for name in arrays if name.startswith(f"{part}.block."))
