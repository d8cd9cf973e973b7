"""Estimates compiled for TPU slices; requires libtpu but no TPU."""

import importlib.util
from functools import cache

import jax
import jax.numpy as jnp
import optax
import pytest
from support.tiny import sizes

import jaxmodels as jm
from jaxmodels import estimate

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)
SLICE = {"topology": "v5e:2x4", "axes": {"data": 4, "model": 2}}
FOUR = {"topology": "v5e:2x2", "axes": {"data": 2, "model": 2}, "rules": jm.sharding.FSDP_TP}
ONE = {"topology": "v5e:1x1", "axes": {"data": 1}, "rules": jm.sharding.DP}
# One class of each family and each form of input; compiling all classes takes ten minutes.
FORMS = [
    "GPT2DoubleHeadsModel",
    "DPRReader",
    "RobertaPreLayerNormForMultipleChoice",
    "BartModel",
    "T5Model",
    "LEDModel",
]


def gpt2(layers: int = 2, **options) -> jm.GPT2LMHeadModel:
    config = jm.GPT2Config(
        vocab_size=512, n_positions=256, n_embd=256, n_layer=layers, n_head=4, eos_token_id=1, pad_token_id=0
    )
    return jm.GPT2LMHeadModel(config, **{"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, **options})


def estimate_step(rules=jm.sharding.DP, layers: int = 4, batch: int = 8, where=SLICE, **options) -> estimate.Estimate:
    model = gpt2(layers, param_dtype=jnp.float32, **options)
    return estimate.train_step(
        model, optax.adamw(1e-4), **{**where, "rules": rules}, batch=batch, length=128, prng="rbg"
    )


def estimate_generate(batch: int = 4, new_tokens: int = 32, length: int = 32, **options) -> estimate.Generation:
    return estimate.generate(gpt2(), **FOUR, batch=batch, length=length, new_tokens=new_tokens, **options)


cached_estimate = cache(estimate_generate)


@pytest.fixture(scope="module")
def steps():
    return {name: estimate_step(getattr(jm.sharding, name)) for name in ("DP", "FSDP", "FSDP_TP")}


@pytest.mark.slow
def test_sharded_parameters_take_less_memory_per_device(steps):
    whole, split, both = (steps[name].arguments for name in ("DP", "FSDP", "FSDP_TP"))
    assert split < 0.35 * whole, "four devices along `data` share the state"
    assert both < 0.75 * split, "two along `model` also share heads and feed-forward"


@pytest.mark.slow
def test_collectives_follow_the_rules(steps):
    assert set(steps["DP"].collectives) == {"all-reduce"}
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(jm.parameters.abstract(gpt2(4))))
    reduced = steps["DP"].collectives["all-reduce"]
    assert reduced.count >= 4 and 0.5 * parameters < reduced.bytes < parameters, "every gradient, layers in bfloat16"
    gathered = steps["FSDP"].collectives["all-gather"]
    assert gathered.count >= 4 and gathered.bytes > 0.4 * parameters, "every layer's weights, in bfloat16 or float32"
    assert all(e.devices == 8 and e.flops > 0 and e.memory > e.arguments - e.reused for e in steps.values())
    assert "v5e:2x4: 8 devices" in str(steps["DP"])


@pytest.mark.slow
def test_remat_takes_less_temporary_memory():
    stored = estimate_step(layers=16, batch=64)
    assert estimate_step(layers=16, batch=64, remat=True).temporaries < 0.1 * stored.temporaries


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["xla", "auto"])
def test_scanned_layers_have_the_flops_of_unrolled_ones(attention):
    """The compiler counts one iteration of a scan; adding the others gives its count of the unrolled program."""
    scanned, unrolled = (
        estimate_step(jm.sharding.FSDP_TP, layers=6, where=FOUR, unroll=unroll, attention=attention)
        for unroll in (False, True)
    )
    assert scanned.flops == pytest.approx(unrolled.flops, rel=0.05)


@pytest.mark.slow
def test_flops_match_the_formula():
    """On one device: 6 FLOPs per matrix weight and token, plus those of attention."""
    found = estimate_step(layers=2, where=ONE)
    matrices, tokens = 2 * 12 * 256**2 + 512 * 256, 8 * 128
    assert found.flops == pytest.approx(6 * matrices * tokens + 2 * 3 * 2 * 2 * 128 * tokens * 256, rel=0.1)


def test_a_mesh_of_another_size_than_the_slice_raises():
    with pytest.raises(ValueError, match="a mesh .*6.* does not fit 8 devices"):
        estimate.topology_mesh("v5e:2x4", {"data": 6})


def test_a_forward_pass_shards_parameters_and_batch():
    """Four devices instead of one: a quarter of the sharded bytes and of the FLOPs."""
    one = estimate.forward(gpt2(), **ONE, batch=8, length=128)
    four = estimate.forward(gpt2(), **FOUR, batch=8, length=128)
    assert four.arguments < 0.4 * one.arguments and four.results < 0.6 * one.results
    assert 0.2 * one.flops < four.flops < 0.4 * one.flops
    tokens = 8 * 128
    assert one.results >= 4 * tokens * 512, "logits in float32"
    assert one.reused == 0 and one.floor.seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_every_family_has_an_estimate(name):
    cls, shape = getattr(jm, name), {}
    config = cls.config_class(**sizes(name)).replace(pad_token_id=0)
    if config.is_encoder_decoder:
        shape["decoder_input_ids"] = (4, 8)
    if name in ("GPT2DoubleHeadsModel", "RobertaPreLayerNormForMultipleChoice"):
        shape["input_ids"] = (4, 3, 8)
    found = estimate.forward(cls(config), **ONE, batch=4, length=8, further=shape)
    assert found.arguments > 0 and found.results > 0 and found.flops > 0


def test_the_cache_has_the_expected_size():
    """GPT-2's keys and values in bfloat16: 2 layers, 4 sequences, 4 heads of 64; sharded over data and model."""

    def keys_and_values(slots: int) -> int:
        return 2 * 2 * 2 * 4 * slots * 256 // 4

    few, many = cached_estimate(), cached_estimate(new_tokens=128)
    for found, slots in ((few, 64), (many, 160)):
        assert keys_and_values(slots) <= found.cache <= keys_and_values(slots) + 4 * slots + 1024
        assert found.cache <= found.results
    grown = many.results - few.results
    assert grown >= keys_and_values(160) - keys_and_values(64)
    assert many.arguments == few.arguments and many.weights == few.weights


def test_an_int8_cache_is_smaller():
    assert cached_estimate(cache_dtype="int8").cache < 0.6 * cached_estimate().cache


def test_beams_share_the_prompt():
    """Four beams: the keys and values of the prompt once, and a slot for each token of each beam."""
    single, beams = cached_estimate(), cached_estimate(num_beams=4)
    slots = (32 + 4 * 32) / (32 + 32)
    assert beams.cache == pytest.approx(slots * single.cache, rel=0.05)
    assert beams.rows == single.rows and beams.weights == single.weights
    assert beams.token_flops > 3.5 * single.token_flops


def test_every_token_reads_the_weights_once():
    found = cached_estimate()
    config = gpt2().config
    positions = config.n_positions * config.n_embd
    weights = sum(leaf.size for leaf in jax.tree.leaves(jm.parameters.abstract(gpt2()))) - positions
    assert 2 * weights / 4 <= found.weights < 2 * weights / 2, "heads and feed-forward by four, the vocabulary by two"
    assert found.token.limit == "memory bandwidth" and found.token.seconds > 0
    assert found.seconds > found.floor.seconds, "the weights are read at every token, not once"
    assert found.flops > 31 * found.token_flops


def test_every_layer_communicates_for_every_token():
    """The output products of attention and feed-forward are sharded, and their partial sums are reduced."""
    where = {"topology": "v5e:2x2", "axes": {"data": 1, "model": 4}, "rules": jm.sharding.FSDP_TP}

    def sums(layers: int) -> int:
        found = estimate.generate(gpt2(layers), **where, batch=4, length=32, new_tokens=16)
        return found.collectives["all-reduce"].count

    assert sums(3) - sums(2) == 2 * 16


def test_more_tokens_take_more_flops():
    few, many = cached_estimate(), cached_estimate(new_tokens=128)
    assert many.flops - few.flops == pytest.approx(127 * many.token_flops - 31 * few.token_flops, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["BartForConditionalGeneration", "LEDForConditionalGeneration", "T5ForConditionalGeneration"]
)
def test_the_encoder_is_not_read_by_every_token(name):
    cls = getattr(jm, name)
    model = cls(cls.config_class(**{**sizes(name), "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}))
    found = estimate.generate(model, **ONE, batch=2, length=8, new_tokens=4)
    assert 0 < found.weights < 0.75 * found.arguments and found.cache > 0


@pytest.mark.slow
def test_estimate_accepts_the_options_of_generate():
    """Sampling, processors and all: the same options, the same checks."""
    found = estimate_generate(do_sample=True, key=jax.random.key(0), top_k=5, no_repeat_ngram_size=2)
    assert found.memory >= cached_estimate().memory
    with pytest.raises(ValueError, match="do_sample=True needs key"):
        estimate_generate(do_sample=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beam": 4}, "num_beam"),
        ({"new_tokens": 300}, "more than the 256 positions"),
        ({"batch": 3}, "a batch of 3 examples does not divide"),
        ({"cache_dtype": "int32"}, "the dtype of a cache is floating or int8"),
    ],
)
def test_estimate_rejects_what_generate_rejects(options, message):
    with pytest.raises(ValueError, match=message):
        estimate.generate(gpt2(), **FOUR, **{"batch": 4, "length": 32, "new_tokens": 8, **options})
