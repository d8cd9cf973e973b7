"""Values captured inside the layers against those that hooks see in the reference's modules."""

import jax
import numpy as np
import pytest
import torch
from support.arrays import close, ids
from support.reference import pair

# The stack of layers and modules in a layer, in the reference and here.
MODULES = {
    "GPT2Model": (
        ("h", "h"),
        {"attn.c_attn": "attention/qkv", "attn": "attention", "ln_2": "feed_forward_norm", "mlp": "feed_forward"},
    ),
    "RobertaPreLayerNormModel": (
        ("encoder.layer", "encoder"),
        {"attention.LayerNorm": "attention_norm", "attention.output.dense": "attention/out"},
    ),
    "T5Model": (
        ("encoder.block", "encoder/block"),
        {"layer.0.SelfAttention": "attention", "layer.1.DenseReluDense.wi": "feed_forward/up"},
    ),
}


def node(tree, path: str):
    for name in path.split("/"):
        tree = tree[name]
    return tree


def first(value):
    return value[0] if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", MODULES)
def test_captured_values_are_those_of_the_reference(name, tmp_path):
    both, ((theirs, ours), modules) = pair(name, tmp_path), MODULES[name]
    seen: dict[str, list[np.ndarray]] = {path: [] for path in modules}
    for layer in both.reference.get_submodule(theirs):
        for path, outputs in seen.items():
            layer.get_submodule(path).register_forward_hook(
                lambda _, __, output, outputs=outputs: outputs.append(first(output).detach().numpy())
            )
    names = ["input_ids", "decoder_input_ids"] if both.model.config.is_encoder_decoder else ["input_ids"]
    tokens = ids((2, 7), low=2)
    both.reference(**{name: torch.from_numpy(tokens) for name in names})

    @jax.jit
    def captured(params):
        inputs = {name: tokens for name in names}
        return both.model.apply({"params": params}, **inputs, capture_intermediates=True, mutable=["intermediates"])[1]

    state = captured(both.params)["intermediates"]
    for path, module in modules.items():
        (output,) = node(state, f"{ours}/layers/{module}/__call__")
        got = first(output)
        close(got.reshape(*got.shape[:3], -1), np.stack(seen[path]), path)
