"""Conversion of T5 from ONNX graphs in float32 and int8."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from onnx import TensorProto, helper, numpy_helper, save_model
from safetensors.numpy import load_file

import jaxmodels as jm
from experiments.rag import models, onnx_t5
from experiments.retrieval import biencoder

SCOPES = {"encoder": "enc", "decoder": "m.decoder"}  # as in the graphs that were seen


@pytest.fixture(scope="module")
def tensors(tmp_path_factory) -> dict[str, np.ndarray]:
    """Random weights of a FLAN-T5 under the names of the Hub; all sizes are different."""
    facts = jm.T5Config(
        d_model=12,
        d_kv=4,
        d_ff=20,
        num_heads=2,
        num_layers=2,
        num_decoder_layers=3,
        vocab_size=40,
        relative_attention_num_buckets=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    model = jm.T5ForConditionalGeneration(facts)
    folder = tmp_path_factory.mktemp("t5")
    jm.save(folder, model, jm.init(model, jax.random.key(0)))
    return load_file(folder / "model.safetensors")


def graph(part: str, tensors: dict[str, np.ndarray], *, quantised: bool, path: Path) -> None:
    """Write one graph as exported by torch and quantised by ONNX Runtime, with matrix products only."""
    initializers, nodes = [], []

    def put(name: str, array: np.ndarray, kind: type) -> str:
        if not quantised or array.ndim < 2:
            initializers.append(numpy_helper.from_array(array, name))
            return name
        info = np.iinfo(kind)
        scale = np.float32(np.ptp(array) / (info.max - info.min))
        zero = np.rint(info.min - array.min() / scale).clip(info.min, info.max).astype(kind)
        ints = np.rint(array / scale + zero).clip(info.min, info.max).astype(kind)
        for end, value in (("_quantized", ints), ("_scale", scale), ("_zero_point", zero)):
            initializers.append(numpy_helper.from_array(np.asarray(value), name + end))
        return f"{name}_quantized"

    for name, array in tensors.items():
        if name.startswith(f"{part}."):
            scoped = name.replace(part, SCOPES[part], 1)
        elif name == "shared.weight":
            scoped = {"encoder": "enc.embed_tokens.weight", "decoder": "m.shared.weight"}[part]
        elif name == "lm_head.weight" and part == "decoder":
            scoped = "m.lm_head.weight"
        else:
            continue
        if array.ndim < 2 or "embed" in scoped or "shared" in scoped or "bias" in scoped:
            put(scoped, array, np.uint8)
            continue
        place = "/" + re.sub(r"\.(?!\d)", "/", scoped.removesuffix(".weight"))
        kernel = put(f"onnx::MatMul_{len(nodes)}", np.ascontiguousarray(array.T), np.int8)
        kind, end = ("MatMulInteger", "_quant") if quantised else ("MatMul", "")
        nodes.append(helper.make_node(kind, ["x", kernel], [f"y{len(nodes)}"], name=f"{place}/MatMul{end}"))
    # A product of two activations has no weight.
    nodes.append(helper.make_node("MatMul", ["x", "y0"], ["z"], name="/block.0/layer.0/SelfAttention/MatMul"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "z")]
    save_model(helper.make_model(helper.make_graph(nodes, part, values[:1], values[1:], initializers)), path)


def write(folder: Path, tensors, quantised: bool, tokenizer: Path) -> Path:
    folder.mkdir()
    for part in SCOPES:
        graph(part, tensors, quantised=quantised, path=folder / f"{part}.onnx")
    shutil.copy(tokenizer, folder / "tokenizer.json")
    return folder


@pytest.fixture
def tokenizer(data_dir) -> Path:
    return data_dir / "tokenizers/t5/tokenizer.json"


@pytest.mark.parametrize("quantised", [False, True])
def test_converted_weights_match_the_checkpoint(quantised, tensors, tokenizer, tmp_path):
    source = write(tmp_path / "graphs", tensors, quantised, tokenizer)
    onnx_t5.rewrite(source, tmp_path / "model")
    found = load_file(tmp_path / "model/model.safetensors")
    assert set(found) == set(tensors)
    for name, array in tensors.items():
        step = np.ptp(array) / 255 if quantised and array.ndim > 1 else 0.0
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1.01 * step, err_msg=name)
    model, params = jm.load(tmp_path / "model")  # complains of every weight that is missing or too many
    facts = {"d_kv": 4, "d_ff": 20, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 3, "vocab_size": 40}
    assert {name: getattr(model.config, name) for name in facts} == facts
    assert isinstance(jm.load_tokenizer(tmp_path / "model"), jm.T5Tokenizer)
    out = model.apply({"params": params}, np.array([[3, 1]]), decoder_input_ids=np.array([[0]]))
    assert np.isfinite(out.logits).all()


def test_other_graphs_are_rejected_without_output(tensors, tokenizer, tmp_path):
    source = write(tmp_path / "graphs", tensors, False, tokenizer)
    (source / "tokenizer.json").rename(tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match=r"graphs has no tokenizer\.json"):
        onnx_t5.rewrite(source, tmp_path / "model")
    (tmp_path / "kept").rename(source / "tokenizer.json")
    plain = {name.replace("wi_0", "wi"): array for name, array in tensors.items() if "wi_1" not in name}
    graph("encoder", plain, quantised=False, path=source / "encoder.onnx")
    with pytest.raises(ValueError, match=r"T5 1\.1 or FLAN-T5; there is no encoder\.block\.0\.layer\.1.*wi_0"):
        onnx_t5.rewrite(source, tmp_path / "model")
    graph(
        "encoder",
        {**tensors, "shared.weight": tensors["shared.weight"] + 1},
        quantised=False,
        path=source / "encoder.onnx",
    )
    with pytest.raises(ValueError, match=r"different weights shared\.weight"):
        onnx_t5.rewrite(source, tmp_path / "model")
    graph(
        "encoder",
        {"encoder.pooler.weight": np.ones(2, np.float32), **tensors},
        quantised=False,
        path=source / "encoder.onnx",
    )
    with pytest.raises(ValueError, match=r"a weight 'enc\.pooler\.weight', which T5 does not have"):
        onnx_t5.rewrite(source, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graphs"]


def test_package_is_converted_once(tensors, tokenizer, tmp_path, monkeypatch):
    source = write(tmp_path / "graphs", tensors, True, tokenizer)

    class File:
        def __init__(self, path):
            self.path, self.name = path, path.name

        def locate(self):
            return self.path

    monkeypatch.setattr(biencoder.metadata, "files", lambda name: [File(path) for path in source.iterdir()])
    config = FrozenConfigDict({"generator": {"start": "package:some-t5", "model": {}}})
    changed = models.unpack_generator(config, tmp_path)
    assert changed.generator.start == str(tmp_path / "generator_start")
    when = (tmp_path / "generator_start/model.safetensors").stat().st_mtime_ns
    assert models.unpack_generator(config, tmp_path) == changed
    assert (tmp_path / "generator_start/model.safetensors").stat().st_mtime_ns == when
    plain = FrozenConfigDict({"generator": {"start": "google/flan-t5-small", "model": {}}})
    assert models.unpack_generator(plain, tmp_path) == plain
