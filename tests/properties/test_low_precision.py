"""Half precision: stored and computed as asked, near float32, finite under full masks (docs/parity.md, C12, G5)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.arrays import ids
from support.reference import pair
from support.tiny import tiny


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parity("C12")
def test_a_full_mask_stays_finite(dtype):
    model, params = tiny("GPT2Model", choices={"dtype": dtype})
    mask = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    out = jax.jit(lambda: model.apply({"params": params}, ids((2, 4)), attention_mask=mask, output_attentions=True))()
    assert out.last_hidden_state.dtype == dtype and np.isfinite(out.last_hidden_state.astype("float32")).all()
    assert np.isfinite(out.attentions.astype("float32")).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_logits_are_close_to_those_in_float32_and_loss_is_float32(dtype, tolerance):
    model, params = tiny()
    apply = lambda m: jax.jit(lambda: m.apply({"params": params}, ids((2, 6)), labels=ids((2, 6))))()  # noqa: E731
    exact, half = apply(model), apply(model.clone(dtype=dtype))
    assert half.logits.dtype == half.loss.dtype == jnp.float32
    assert 0 < np.abs(exact.logits - half.logits).max() < tolerance * np.abs(exact.logits).max()
    assert abs(exact.loss - half.loss) < tolerance


@pytest.mark.parity("G5")
def test_scores_that_overflow_float16_are_kept_in_float32(tmp_path):
    """Large queries and keys: products beyond 65504. The reference needs reorder_and_upcast_attn for it."""
    both = pair("GPT2LMHeadModel", tmp_path, n_layer=1, reorder_and_upcast_attn=True, load={"torch_dtype": "float16"})
    params = both.params
    attention = params["transformer"]["h"]["layers"]["attention"]
    attention["qkv"] = jax.tree.map(lambda leaf: leaf * 150, attention["qkv"])
    attention["out"] = jax.tree.map(lambda leaf: leaf / 150, attention["out"])
    with torch.no_grad():
        reference = both.reference.transformer.h[0].attn
        for name, factor in (("c_attn", 150), ("c_proj", 1 / 150)):
            for parameter in getattr(reference, name).parameters():
                parameter *= factor
        expected = both.reference(torch.tensor(ids((2, 6)))).logits.numpy()
    got = jax.jit(lambda p: both.model.apply({"params": p}, ids((2, 6))).logits)(params)
    assert np.isfinite(got).all()
    assert np.abs(got - expected).max() < 0.02 * np.abs(expected).max()
