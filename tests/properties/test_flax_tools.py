"""Flax's own tools see and change what is inside the layers: captures, other collections, tables, interceptors, NNX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.linen import summary
from flax.nnx import bridge
from support.arrays import ids, trees_agree
from support.documents import python_of
from support.tiny import random_params, tiny

import jaxmodels as jm
from jaxmodels.architectures.gpt2 import GPT2Model
from jaxmodels.layers.stack import unstack_layers
from jaxmodels.parameters import abstract

NAMES = ("GPT2LMHeadModel", "GPTNeoForCausalLM", "T5ForConditionalGeneration", "LEDForConditionalGeneration")
TOKENS = ids((2, 8))


def inputs_of(model) -> dict:
    return {"input_ids": TOKENS} | ({"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {})


def node(tree: dict, path: str):
    for name in path.split("/"):
        tree = tree[name]
    return tree


def captured(model, params, capture=True, **options):
    def call(params):
        return model.apply(
            {"params": params}, **inputs_of(model), **options, mutable=["intermediates"], capture_intermediates=capture
        )

    out, state = jax.jit(call)(params)
    return out, state["intermediates"]


DECODERS = {"GPT2LMHeadModel": "transformer/h", "GPTNeoForCausalLM": "transformer/h"}
DECODERS |= {"T5ForConditionalGeneration": "decoder/block", "LEDForConditionalGeneration": "led/decoder/stack"}


@pytest.mark.parametrize("name", NAMES)
def test_intermediates_of_the_layers_are_stacked_and_those_that_the_outputs_have(name):
    model, params = tiny(name)
    out, state = captured(model, params, output_hidden_states=True, output_attentions=True)
    layers = node(state, DECODERS[name])["layers"]
    ((states, inner),) = layers["__call__"]
    prefix = "decoder_" if model.config.is_encoder_decoder else ""
    hidden, attentions = (out[prefix + field] for field in ("hidden_states", "attentions"))
    np.testing.assert_array_equal(states[:-1], hidden[1:-1])  # the last one comes after the norm of the model
    np.testing.assert_array_equal(inner.attentions, attentions)
    ((_, weights, _),) = layers["attention"]["__call__"]
    np.testing.assert_array_equal(weights, attentions)
    (up,) = layers["feed_forward"]["up"]["__call__"]
    assert up.shape[:3] == (2, 2, 8)


@pytest.mark.parametrize("name", NAMES)
def test_unrolled_layers_have_the_same_intermediates(name):
    model, params = tiny(name)
    _, expected = captured(model, params)
    _, unrolled = captured(model.clone(unroll=True), params)
    _, unstacked = captured(model, unstack_layers(params))
    for got in (unrolled, unstacked):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_intermediates_with_a_cache_and_of_some_modules():
    model, params = tiny("GPT2LMHeadModel")
    _, expected = captured(model, params)
    norms = lambda module, method: method == "__call__" and module.name == "feed_forward_norm"  # noqa: E731
    _, got = captured(model, params, norms, cache=model.init_cache(2, 8))
    assert got.keys() == {"transformer"} and got["transformer"]["h"]["layers"].keys() == {"feed_forward_norm"}
    (norm,), (wanted,) = (s["transformer"]["h"]["layers"]["feed_forward_norm"]["__call__"] for s in (got, expected))
    np.testing.assert_allclose(norm, wanted, rtol=1e-5, atol=1e-5)


def test_an_unchanged_collection_does_not_change_the_program():
    model, params = tiny("GPT2LMHeadModel")

    def plain(params):
        return model.apply({"params": params}, TOKENS).logits

    def mutable(params):
        return model.apply({"params": params}, TOKENS, mutable=["statistics"])[0].logits

    plain, mutable = (jax.jit(function).lower(params).as_text().split("\n", 1)[1] for function in (plain, mutable))
    assert plain == mutable


class Counting(nn.Module):
    """A feed-forward layer with statistics of its own, and a value that it sows."""

    @nn.compact
    def __call__(self, x):
        calls = self.variable("statistics", "calls", lambda: jnp.zeros((), jnp.int32))
        mean = self.variable("statistics", "mean", lambda: jnp.zeros(x.shape[-1]))
        y = x - mean.value
        if not self.is_initializing() and self.is_mutable_collection("statistics"):
            calls.value, mean.value = calls.value + 1, x.mean(axis=(0, 1))
        self.sow("intermediates", "largest", jnp.abs(x).max())
        return y


class CountingModel(GPT2Model):
    def layer(self):
        return super().layer().copy(feed_forward=Counting, parent=None)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_a_layer_reads_and_updates_its_slice_of_any_collection(unroll, jit):
    model = CountingModel(tiny("GPT2Model", n_layer=3)[0].config, unroll=unroll)
    variables = nn.unbox(model.init(jax.random.key(0), **model.dummy_inputs()))
    statistics = {"calls": (3,), "mean": (3, 32)}
    assert jax.tree.map(jnp.shape, variables["statistics"]["h"]["layers"]["feed_forward"]) == statistics

    def call(variables, mutable):
        return model.apply(variables, TOKENS, mutable=mutable)

    call = jax.jit(call, static_argnums=1) if jit else call
    first, changed = call(variables, ("statistics", "intermediates"))
    counted = changed["statistics"]["h"]["layers"]["feed_forward"]
    np.testing.assert_array_equal(counted["calls"], [1, 1, 1])
    assert len({float(row[0]) for row in counted["mean"]}) == 3
    (largest,) = changed["intermediates"]["h"]["layers"]["feed_forward"]["largest"]
    assert largest.shape == (3,)
    later, again = call({"params": variables["params"], "statistics": changed["statistics"]}, ("statistics",))
    np.testing.assert_array_equal(again["statistics"]["h"]["layers"]["feed_forward"]["calls"], [2, 2, 2])
    assert np.abs(later.last_hidden_state - first.last_hidden_state).max() > 1e-3


@pytest.mark.parametrize("name", (*NAMES, "RobertaPreLayerNormForMaskedLM", "BartModel"))
def test_a_table_lists_the_modules_of_a_layer_once_and_counts_all_parameters(name):
    model, _ = tiny(name)
    table = summary._get_module_table(model, None, False, False, False)(jax.random.key(0), **model.dummy_inputs())
    assert {row.method for row in table} <= {"__call__", "rows"}, "the second reads a table of positions"
    counted = [sum(leaf.size for leaf in jax.tree.leaves(row.counted_variables.get("params", {}))) for row in table]
    assert sum(counted) == sum(leaf.size for leaf in jax.tree.leaves(abstract(model)))
    paths = ["/".join(row.path) for row in table]
    assert len(paths) == len(set(paths)) and sum(path.endswith("layers/attention/out") for path in paths) >= 1


def test_a_table_is_printed_with_the_shapes_of_the_stack():
    model, _ = tiny("GPT2LMHeadModel")
    text = model.tabulate(jax.random.key(0), TOKENS, console_kwargs={"width": 240, "force_terminal": False})
    assert "transformer/h/layers/attention/qkv" in text and "float32[2,32,3,4,8] P(layers" in text
    assert f"Total Parameters: {sum(leaf.size for leaf in jax.tree.leaves(abstract(model))):,}" in text


def test_interceptors_run_once_for_a_kind_of_layer_and_change_values():
    model, params = tiny("GPT2LMHeadModel", n_layer=3)
    seen = []

    def without_attention(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.module.name != "attention" or context.method_name != "__call__":
            return out
        seen.append("/".join(context.module.path))
        return jnp.zeros_like(out[0]), *out[1:]

    def run(model, params, **options):
        with nn.intercept_methods(without_attention):
            return jax.jit(lambda p: model.apply({"params": p}, TOKENS, **options).logits)(params)

    scanned = run(model, params)
    assert seen == ["transformer/h/layers/attention"]
    zeroed = jax.tree.map(lambda a: a, params)
    out = zeroed["transformer"]["h"]["layers"]["attention"]["out"]
    out |= jax.tree.map(jnp.zeros_like, out)
    expected = model.apply({"params": zeroed}, TOKENS).logits
    for got in (
        scanned,
        run(model.clone(unroll=True), params),
        run(model, params, cache=model.init_cache(2, 8)),
        run(model, unstack_layers(params)),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def patch(call, args, kwargs, context):
    """Put states in the place of a layer's own where the collection "patch" of that layer says so."""
    out, module = call(*args, **kwargs), context.module
    if context.method_name != "__call__" or not module.has_variable("patch", "states"):
        return out
    where, states = module.get_variable("patch", "where"), module.get_variable("patch", "states")
    return jnp.where(where, states, out[0]), out[1]


@pytest.mark.parametrize("options", [{}, {"unroll": True}], ids=str)
def test_a_collection_says_what_an_interceptor_does_in_which_layer(options):
    """Activation patching: the states after layer 1 come from another text, and so all that follows."""
    model, params = tiny("GPT2LMHeadModel", n_layer=3, choices=options)
    clean, corrupted = ids((2, 8), 1), ids((2, 8), 2)
    states = model.apply({"params": params}, clean, output_hidden_states=True).hidden_states
    layers = {"where": jnp.arange(3) == 1, "states": jnp.zeros((3, *states.shape[1:])).at[1].set(states[2])}
    collection = {"transformer": {"h": {"layers": layers}}}
    with nn.intercept_methods(patch):
        out = jax.jit(lambda p: model.apply(p, corrupted, output_hidden_states=True))(
            {"params": params, "patch": collection}
        )
    np.testing.assert_allclose(out.hidden_states[2], states[2], rtol=1e-5, atol=1e-5)
    assert np.abs(out.hidden_states[1] - states[1]).max() > 0.1
    np.testing.assert_allclose(out.logits, model.apply({"params": params}, clean).logits, rtol=1e-4, atol=1e-4)


def test_outside_jit_unrolled_layers_are_intercepted_one_by_one():
    model, params = tiny("GPT2LMHeadModel", n_layer=3, choices={"unroll": True})
    norms = []

    def interceptor(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.module.name == "attention" and context.method_name == "__call__":
            norms.append(float(jnp.linalg.norm(out[0])))
        return out

    with nn.intercept_methods(interceptor):
        model.apply({"params": params}, TOKENS)
    assert len(set(norms)) == 3


def test_a_logit_lens_from_captured_states():
    """The head over the states of every layer: over the last ones it gives the logits of the model."""
    model, params = tiny("GPT2LMHeadModel")
    states = model.apply({"params": params}, TOKENS, output_hidden_states=True)

    def lens(model, x):
        return model.lm_head(model.transformer.ln_f(x), model.transformer.wte)

    _, state = captured(model, params)
    ((layers, _),) = state["transformer"]["h"]["layers"]["__call__"]
    logits = model.apply({"params": params}, layers, method=lens)
    assert logits.shape == (2, 2, 8, 67)
    np.testing.assert_allclose(logits[-1], states.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*rngs has 'params' only")
@pytest.mark.parametrize("name", [*NAMES[:3], pytest.param("LEDForConditionalGeneration", marks=pytest.mark.slow)])
def test_a_model_as_an_nnx_module(name):
    model, _ = tiny(name)
    params = random_params(model)
    with nnx.use_eager_sharding(False):  # the axes of the parameters are logical, and there is no mesh
        wrapped = bridge.lazy_init(bridge.ToNNX(model, rngs=nnx.Rngs(0)), **inputs_of(model))
    state = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, params)
    nnx.update(wrapped, nnx.State(jax.tree.map(nnx.Param, params)))

    @nnx.jit
    def gradients(wrapped):
        return nnx.value_and_grad(lambda wrapped: wrapped(**inputs_of(model), labels=TOKENS).loss)(wrapped)

    def loss(params):
        return model.apply({"params": params}, **inputs_of(model), labels=TOKENS).loss

    value, got = gradients(wrapped)
    expected_value, expected = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    trees_agree(nnx.to_pure_dict(got), expected)


@pytest.mark.parametrize("heading", ["Intermediate values", "Values that differ from layer to layer", "NNX"])
def test_documented_lines_run(heading):
    model, params = tiny("GPT2LMHeadModel", n_layer=8)
    names = {"jm": jm, "jax": jax, "jnp": jnp, "nn": nn, "model": model, "params": params}
    names |= {"ids": TOKENS, "other_ids": ids((2, 8), 1)}
    for code in python_of("flax_tools.md", heading):
        exec(code, names)
