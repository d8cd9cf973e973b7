"""Whole models with kernels, run as plain JAX on a CPU: values and gradients match those with XLA."""

import jax
import numpy as np
import pytest
from support.arrays import ids
from support.interpreted import evaluated
from support.other_platform import on
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten

B, T = 2, 12


def batch(name: str) -> dict:
    """Two sequences, the second of them padded."""
    mask = (np.arange(T) < np.array([[T], [T - 4]])).astype(int)
    inputs = {"input_ids": np.where(mask, ids((B, T), low=3), 1), "attention_mask": mask}
    if name.startswith("LED"):
        inputs["global_attention_mask"] = (np.arange(T) < np.array([[1], [2]])).astype(int)
    if name == "DPRReader":
        return inputs
    if name.startswith(("T5", "Bart", "LED")):
        return {**inputs, "labels": ids((B, 7), seed=1, low=3)}
    return {**inputs, "labels": inputs["input_ids"]}


def loss_and_logits(out, mask):
    """A loss and its logits; for DPR's reader, which has no loss, the sum of their squares."""
    if hasattr(out, "loss"):
        return out.loss, out.logits
    # The outputs of padding queries are unspecified.
    logits = (out.start_logits[mask > 0], out.end_logits[mask > 0], out.relevance_logits)
    return sum((x**2).sum() for x in logits), logits


def run(name: str, implementation: str, **config):
    model, params = tiny(name, choices={"attention": implementation}, **config)
    inputs = batch(name)

    @jax.jit
    def value(params):
        def loss(params):
            out = model.apply({"params": params}, **inputs, rngs={"dropout": jax.random.key(3)})
            return loss_and_logits(out, inputs["attention_mask"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    with evaluated():
        return value(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True, "attn_pdrop": 0.1}),
        ("LlamaForCausalLM", {"attention_dropout": 0.1}),
        ("DPRReader", {}),
        ("RobertaPreLayerNormForMaskedLM", {}),
        ("RobertaPreLayerNormForMaskedLM", {"position_embedding_type": "relative_key_query"}),
        ("BertForMaskedLM", {}),
        ("RobertaForMaskedLM", {"position_embedding_type": "relative_key"}),
        ("T5ForConditionalGeneration", {"dropout_rate": 0.1}),
        ("BartForConditionalGeneration", {"attention_dropout": 0.1}),
        ("LEDForConditionalGeneration", {"attention_dropout": 0.1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_loss_logits_and_gradients_match_those_with_xla(name, config):
    expected, actual = (run(name, implementation, **config) for implementation in ("xla", "pallas_tpu"))
    for a, b in zip(jax.tree.leaves(expected[0]), jax.tree.leaves(actual[0]), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-5)
    for (path, a), b in zip(flatten(expected[1]).items(), flatten(actual[1]).values(), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5 * max(1.0, float(np.abs(a).max())), err_msg=path)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_prefill_and_decode_with_a_cache(name):
    """A padded prompt and then one more token, with a cache that has unused slots."""
    prompt, mask = ids((B, T), low=3), (np.arange(T) >= np.array([[0], [3]])).astype(int)

    def logits(implementation):
        model, params = tiny(name, choices={"attention": implementation})

        @jax.jit
        def run(params):
            variables, cache = {"params": params}, model.init_cache(B, 20)
            first = model.apply(variables, prompt[:, :-1], attention_mask=mask[:, :-1], cache=cache)
            return first.logits, model.apply(variables, prompt[:, -1:], cache=first.cache).logits

        with evaluated():
            return np.concatenate(run(params), axis=1)

    np.testing.assert_allclose(logits("pallas_tpu")[mask > 0], logits("xla")[mask > 0], atol=1e-5)


def test_attention_weights_with_a_kernel_raise_an_error():
    model, params = tiny(choices={"attention": "pallas_tpu"})
    with pytest.raises(ValueError, match="return_weights requires all weights"):
        model.apply({"params": params}, ids((B, T), low=3), output_attentions=True)
    assert isinstance(model, jm.GPT2LMHeadModel)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BartForConditionalGeneration"])
def test_separate_projections_of_queries_keys_and_values_equal_the_fused_one(name):
    """Accelerators project them separately."""
    model, params = tiny(name, choices={"attention": "xla"})

    def logits(params):
        return model.apply({"params": params}, **batch(name)).logits

    fused = logits(params)
    with on("tpu"):
        separate = jax.make_jaxpr(logits)(params)
    assert str(separate).count("dot_general") > str(jax.make_jaxpr(logits)(params)).count("dot_general")
    (actual,) = jax.core.eval_jaxpr(separate.jaxpr, separate.consts, *jax.tree.leaves(params))
    np.testing.assert_allclose(actual, fused, atol=1e-5)


DECODERS = {
    "GPT2LMHeadModel": {},
    "LlamaForCausalLM": {},
    "T5ForConditionalGeneration": {},
    "RobertaPreLayerNormForCausalLM": {"is_decoder": True, "position_embedding_type": "relative_key_query"},
    "RobertaForCausalLM": {"is_decoder": True},
    "LEDForConditionalGeneration": {},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kernel", "num_beams", "cache_dtype"),
    [
        *((name, "pallas_tpu", beams, dtype) for name in DECODERS for beams, dtype in ((1, "int8"), (3, None))),
        ("GPT2LMHeadModel", "pallas_gpu", 1, None),
        ("LlamaForCausalLM", "pallas_gpu", 3, None),
        ("T5ForConditionalGeneration", "pallas_gpu", 3, "int8"),
    ],
)
def test_generation_with_a_kernel_equals_that_with_xla(name, kernel, num_beams, cache_dtype):
    """A padded prompt, then tokens one by one, beams with a common prompt, and cross attention."""
    mask = np.arange(T) >= np.array([[0], [4]])
    inputs = {"input_ids": ids((B, T), low=3), "attention_mask": mask.astype(int)}

    def generate(attention):
        model, params = tiny(name, choices={"attention": attention}, **DECODERS[name])
        with evaluated():
            return jm.generate(
                model,
                params,
                **inputs,
                max_new_tokens=8,
                num_beams=num_beams,
                eos_token_id=None,
                cache_dtype=cache_dtype,
                output_scores=True,
            )

    expected, actual = generate("xla"), generate(kernel)
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    for a, b in zip(expected.scores, actual.scores, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5)
