"""The length split over eight devices: the results of one device, and what the devices exchange."""

import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import flags, ids, numbers
from support.attention_cases import format_case
from support.interpreted import interpreted
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.parameters import flatten
from pallas_kernels import DenseBias, Dropout, Mask, PartitionAxes, attention

LENGTH, STRETCH = 64, 8
SPLIT = PartitionAxes(None, None, "data")
RULES = {**sharding.FSDP, "batch": None, "length": "data", "positions": "data"}


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh({"data": 8})


@dataclasses.dataclass(frozen=True)
class Case:
    """Two examples over LENGTH keys, the second with padding; globals: their positions in each. T: None is LENGTH."""

    window: tuple[int, int] | None
    globals: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    T: int | None = None
    causal: bool = False
    padding: int = 21
    key_heads: int = 2
    biased: bool = False
    packed: bool = False

    __str__ = format_case

    def build(self):
        """The arrays of a call, and its mask."""
        T = self.T or LENGTH
        q = numbers((2, T, 2, 8))
        k, v = (numbers((2, LENGTH, self.key_heads, 8), seed) for seed in (1, 2))
        valid = np.arange(LENGTH) < LENGTH - np.array([[0], [self.padding]])
        mask = Mask(causal=self.causal, window=self.window, key_valid=jnp.asarray(valid))
        if self.globals is not None:
            slots = max(map(len, self.globals))
            at = [[*each, *[LENGTH] * (slots - len(each))] for each in self.globals]
            marked = jnp.asarray(flags(LENGTH, *self.globals).astype(bool))
            mask = Mask(self.causal, self.window, mask.key_valid, marked, jnp.array(at, jnp.int32))
        if self.packed:
            segments = jnp.broadcast_to(jnp.arange(LENGTH) // 11, (2, LENGTH))
            mask = dataclasses.replace(mask, query_segments=segments[:, :T], key_segments=segments)
        bias = numbers((1, 2, T, LENGTH), 3) if self.biased else None
        return (q, k, v, bias), mask


MANY_GLOBALS = Case((STRETCH, 2), globals=(tuple(range(0, 60, 3)), (5, 50)), padding=62)
MANY_QUERIES = Case(None, T=130, padding=64, key_heads=1)
CASES = [
    MANY_GLOBALS,
    MANY_QUERIES,
    Case((STRETCH, STRETCH)),
    Case((3, 5), globals=((0, 7, 8, 30, 63), ()), key_heads=1),
    Case((7, 0), causal=True),
    Case(None, T=6, padding=60, biased=True, packed=True),
    Case((4, 6), packed=True),
]


def value_and_gradients(arrays, mask, split=None, implementation="xla"):
    def loss(q, k, v, bias):
        bias = None if bias is None else DenseBias(bias)
        out = attention(q, k, v, mask=mask, bias=bias, implementation=implementation, split=split)
        return jnp.sin(out).sum(), out

    names = tuple(i for i, x in enumerate(arrays) if x is not None)
    return jax.value_and_grad(loss, names, has_aux=True)(*arrays)


@pytest.mark.parametrize(
    ("case", "implementation"),
    [
        *((case, "xla") for case in CASES),
        *(
            pytest.param(case, name, marks=pytest.mark.slow)
            for name in ("xla_blocked", "pallas_tpu")
            for case in (MANY_GLOBALS, MANY_QUERIES)
        ),
    ],
    ids=str,
)
def test_attention_and_its_gradients_are_those_of_one_device(case, implementation, mesh):
    """Nothing but halos, global keys and sums is sent: no device gathers the keys."""
    if implementation == "pallas_tpu":  # interpreted kernels of eight devices wait for each other's threads
        mesh = sharding.make_mesh({"data": 2}, jax.devices()[:2])
    arrays, mask = case.build()
    (_, expected), gradients = jax.jit(value_and_gradients)(arrays, mask)
    run = jax.jit(value_and_gradients, static_argnums=(2, 3))
    with jax.set_mesh(mesh), interpreted() if implementation == "pallas_tpu" else contextlib.nullcontext():
        compiled = run.lower(arrays, mask, SPLIT, implementation).compile()
        (_, got), got_gradients = run(arrays, mask, SPLIT, implementation)
    for a, b in zip((expected, *gradients), (got, *got_gradients), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
    if implementation == "xla":
        sent = set(re.findall(r" (all-\w+|collective-permute|reduce-scatter)\(", compiled.as_text()))
        assert ("collective-permute" in sent) == (case.window is not None) and "all-to-all" not in sent
        assert "all-reduce" in sent or case.globals is None


def test_a_length_that_is_not_split_leaves_the_program_as_it_is():
    (q, k, v, _), mask = CASES[2].build()

    def program(split):
        return str(jax.make_jaxpr(lambda q, k, v: attention(q, k, v, mask=mask, split=split))(q, k, v))

    with jax.set_mesh(sharding.make_mesh({"data": 1}, jax.devices()[:1])):
        assert program(SPLIT) == program(PartitionAxes(None, None))


def test_each_device_drops_other_probabilities(mesh):
    """All keys have the same weight, so what is left is the share of those that are kept."""
    q = jnp.zeros((1, 512, 2, 8))
    dropout = Dropout(0.25, jax.random.key(0))
    with jax.set_mesh(mesh):
        out, cross = (
            jax.jit(lambda q, v, mask=mask: attention(q, q, v, mask=mask, dropout=dropout, split=SPLIT))(q, q + 1)
            for mask in (Mask(window=(60, 60)), Mask())
        )
    inner = np.asarray(out).reshape(8, 64, 2, 8)[1:-1, :, :, 0]
    for kept in (inner, np.asarray(cross)[..., 0]):
        assert abs(kept.mean() - 1) < 0.01 and kept.std() > 0.01
    assert not any(np.array_equal(inner[0], stretch) for stretch in inner[1:])


@pytest.mark.parametrize(
    ("length", "window", "message"),
    [
        (60, 4, r"split the length over 8 devices \(mesh axes \('data',\)\), which do not divide 60 tokens; pad to"),
        (64, 20, "each has 8 of 64 tokens; under a window it must have as many as a token sees to one side, 10"),
    ],
)
def test_a_length_that_cannot_be_split_is_one_clear_error(length, window, message, mesh):
    model, params = tiny("LEDModel", attention_window=window, max_encoder_position_embeddings=64)
    with sharding.use(mesh, RULES), pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda params, x: model.apply({"params": params}, x, method="encode"), params, ids((1, length)))


def led_inputs() -> dict:
    """Two documents of different lengths, with global tokens on several devices."""
    mask = (np.arange(LENGTH) < np.array([[LENGTH], [41]])).astype(int)
    inputs = {"input_ids": np.where(mask, ids((2, LENGTH), low=3), 1), "attention_mask": mask}
    return {**inputs, "global_attention_mask": flags(LENGTH, (0, 9, 30, 63), (5,)), "labels": ids((2, 8), 1, low=3)}


def loss(model):
    def run(params, data):
        out = model.apply({"params": params}, **data)
        return out.loss, out.logits

    return jax.value_and_grad(run, has_aux=True)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("RobertaForMaskedLM", {"max_position_embeddings": 70}),
        pytest.param("BartForConditionalGeneration", {"max_position_embeddings": 66}, marks=pytest.mark.slow),
        pytest.param(
            "LEDForConditionalGeneration",
            {"attention_window": (4, 16), "max_encoder_position_embeddings": LENGTH},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_logits_loss_and_gradients_of_a_model_are_those_of_one_device(name, config, mesh):
    model, params = tiny(name, **config)
    data = led_inputs()
    if name.startswith("LED"):
        model = model.clone(max_global_tokens=5)
    else:
        data.pop("global_attention_mask")
    if name.endswith("MaskedLM"):
        data["labels"] = data["input_ids"]
    (expected, logits), gradients = jax.jit(loss(model))(params, data)
    placed = jax.device_put(params, sharding.shardings(model, mesh, RULES))
    with sharding.use(mesh, RULES):
        (got, got_logits), got_gradients = jax.jit(loss(model))(placed, data)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(got_logits, logits, rtol=1e-5, atol=1e-5)
    for path, leaf in flatten(gradients).items():
        np.testing.assert_allclose(flatten(got_gradients)[path], leaf, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_generated_ids_are_those_of_one_device(mesh):
    """The source stays split in the cache, and one new token is on every device."""
    config = {"attention_window": 8, "max_encoder_position_embeddings": LENGTH}
    model, params = tiny("LEDForConditionalGeneration", **config)
    inputs = led_inputs()
    del inputs["labels"]
    options = {"max_new_tokens": 6, "num_beams": 2, "decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    expected = jm.generate(model, params, **inputs, **options).sequences
    placed = jax.device_put(params, sharding.shardings(model, mesh, RULES))
    with sharding.use(mesh, RULES):
        got = jm.generate(model, placed, **inputs, **options).sequences
    np.testing.assert_array_equal(got, expected)
