"""Scanned, unrolled, rematerialised: the same numbers, and no program grows with depth (docs/parity.md, C10)."""

import jax
import numpy as np
import pytest
from support.arrays import ids
from support.tiny import tiny

from jaxmodels.layers.remat import NAMES
from jaxmodels.parameters import abstract, flatten

CHOICES = [
    *({"remat": remat} for remat in (True, "dots", "dots_and_attention", "offload", ("qkv", "attention"))),
    *({"unroll": True, "remat": remat} for remat in (False, True, "dots")),
]


def loss(model, **options):
    return lambda params: model.apply({"params": params}, ids((2, 6)), labels=ids((2, 6)), **options).loss


def gradients(model, params):
    return jax.jit(jax.value_and_grad(loss(model)))(params)


@pytest.fixture(scope="module")
def plain():
    model, params = tiny(scale_attn_by_inverse_layer_idx=True)
    return model, params, gradients(model, params)


@pytest.mark.parametrize("choices", CHOICES, ids=str)
@pytest.mark.parity("C10")
def test_loss_and_gradients_are_the_same(choices, plain):
    model, params, expected = plain
    got = gradients(model.clone(**choices), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_unrolled_captures_are_the_same(plain):
    model, params, _ = plain
    options = {"output_hidden_states": True, "output_attentions": True}
    scanned, looped = (
        jax.jit(lambda m=m: m.apply({"params": params}, ids((2, 6)), **options))()
        for m in (model, model.clone(unroll=True))
    )
    assert scanned.keys() == looped.keys()
    for name, value in scanned.items():
        np.testing.assert_allclose(value, looped[name], rtol=1e-5, atol=1e-5, err_msg=name)


def lowered(n_layer, **choices) -> str:
    model, params = tiny(n_layer=n_layer, choices=choices)
    return jax.jit(jax.grad(loss(model))).lower(params).as_text()


@pytest.mark.parametrize("remat", [False, True], ids=["kept", "remat"])
def test_scanned_program_does_not_grow_with_the_layers(remat):
    few, many = (len(lowered(n, remat=remat)) for n in (2, 16))
    assert many < 1.02 * few  # "16x" is a character longer than "2x"
    assert len(lowered(16, unroll=True)) > 1.5 * len(lowered(2, unroll=True))


@pytest.mark.parity("C10")
def test_rematerialised_program_computes_the_forward_pass_twice():
    """The activation of the feed-forward is recomputed: its tanh stands in the backward pass too."""
    kept, remat = (lowered(2, remat=choice).count("stablehlo.tanh") for choice in (False, True))
    assert remat > kept


def test_policies_compute_again_what_they_do_not_keep():
    """Products in the program of loss and gradient, one layer of a scan: 6 forward, of which 4 have weights."""

    def products(remat):
        return lowered(2, remat=remat).count("stablehlo.dot_general")

    kept = products(False)
    assert products("dots_and_attention") == kept + 1, "the scores; what comes of them is kept"
    assert products("dots") == kept + 2, "both products of attention"
    assert products(("qkv", "attention", "out")) == kept + 2, "the scores, and up; nothing needs down"
    assert products(("up",)) == kept + 4
    assert products("nothing") == products(True) == kept + 5
    model, params = tiny(n_layer=2, choices={"remat": "offload"})
    assert "<host>" in str(jax.make_jaxpr(jax.grad(loss(model)))(params))


@pytest.mark.parametrize("family", ["GPT2Model", "GPTNeoModel", "LlamaModel", "BertModel", "LEDModel", "T5Model"])
def test_every_linear_module_of_a_layer_has_a_name(family):
    paths = flatten(abstract(tiny(family)[0]))
    linear = {path.split("/")[-2] for path in paths if "/layers/" in path and path.endswith("/kernel")}
    assert linear and linear <= set(NAMES), "add it to jaxmodels.layers.remat.NAMES"


@pytest.mark.parametrize("remat", ["all", ("qkv", "keys"), (), 1, None])
def test_unknown_policies_are_refused(remat):
    with pytest.raises((TypeError, ValueError), match="of nothing, dots, .* of attention, qkv, .*; got"):
        tiny(choices={"remat": remat})


@pytest.mark.parity("C10")
def test_rematerialising_does_not_disturb_decoding(plain):
    model, params, _ = plain

    def step(chosen):
        return jax.jit(lambda: chosen.apply({"params": params}, ids((2, 3)), cache=chosen.init_cache(2, 4)))()

    expected, got = step(model), step(model.clone(remat=True))
    np.testing.assert_allclose(got.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert int(got.cache.length) == 3
