"""qwix's LoRA and quantisation: its adapters and scales have the axis of the stack, and generation uses them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.arrays import close, ids
from support.documents import python_of
from support.tiny import random_params, tiny

import jaxmodels as jm
from jaxmodels.parameters import abstract, flatten, unflatten

qwix = pytest.importorskip("qwix")

LED = pytest.param("LEDForConditionalGeneration", marks=pytest.mark.slow)
GENERATIVE = ("GPT2LMHeadModel", "T5ForConditionalGeneration", LED)
NAMES = (*GENERATIVE, "BertForMaskedLM")
METHODS = ("__call__", "encode", "decode")
RANK, ALPHA = 2, 6.0
TOKENS = ids((2, 8))
KINDS = {"weights": {"weight_qtype": jnp.int8}, "both": {"weight_qtype": jnp.int8, "act_qtype": jnp.int8}}


def methods(model) -> tuple[str, ...]:
    return METHODS if model.config.is_encoder_decoder else METHODS[:1]


def inputs_of(model) -> dict:
    given = {"input_ids": TOKENS} | ({"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {})
    led = type(model).__name__.startswith("LED")
    mask = np.zeros_like(TOKENS)
    mask[:, :2] = 1
    return given | ({"global_attention_mask": mask, "max_global_tokens": 2} if led else {})


@functools.cache
def adapted(name: str):
    """The base model, its parameters, and the model with LoRA."""
    model, params = tiny(name)
    provider = qwix.LoraProvider(
        module_path=".*/layers/(attention|cross_attention|feed_forward)/.*", rank=RANK, alpha=ALPHA
    )
    return model, params, qwix.apply_lora_to_model(model, provider, methods=methods(model))


def with_adapters(params, lora) -> dict:
    return unflatten(flatten(jm.init(lora, jax.random.key(0))) | flatten(params))


@functools.cache
def documented() -> dict:
    """The functions of docs/flax_tools.md."""
    names = {"jm": jm, "jax": jax, "jnp": jnp, "qwix": qwix}
    for code in python_of("flax_tools.md", "Quantisation"):
        if code.startswith("def "):
            exec(code.split("\n\n")[0], names)
    return names


@functools.cache
def logits(model):
    return jax.jit(lambda params: model.apply({"params": params}, **inputs_of(model)).logits)


@pytest.mark.parametrize("name", ["LEDForConditionalGeneration" if name is LED else name for name in NAMES])
def test_adapters_have_the_axis_of_the_stack_and_change_nothing_at_first(name):
    model, params, lora = adapted(name)
    started = with_adapters(params, lora)
    added = {path: leaf.shape for path, leaf in flatten(started).items() if path not in flatten(params)}
    kernels = [path for path in flatten(params) if "/layers/" in path and path.endswith("/kernel")]
    assert added.keys() == {path + end for path in kernels for end in ("_lora_a", "_lora_b")}
    for path in kernels:
        shape = flatten(params)[path].shape
        (layers, inputs, rank), (also, again, outputs) = added[path + "_lora_a"], added[path + "_lora_b"]
        assert layers == also == shape[0] and rank == again == RANK and inputs * outputs == np.prod(shape[1:])
    close(logits(lora)(started), logits(model)(params), tolerance=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_merged_adapters_give_the_same_logits(name):
    model, params, lora = adapted(name)
    drawn = random_params(lora, 1)
    merged = jm.merge_adapter(drawn, ALPHA)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    expected = logits(lora)(drawn)
    close(logits(model)(merged), expected, tolerance=1e-5)
    assert np.abs(logits(model)(unflatten({p: flatten(drawn)[p] for p in flatten(params)})) - expected).max() > 1e-2


def test_training_changes_adapters_only_and_learns():
    model, params, lora = adapted("GPT2LMHeadModel")
    started = with_adapters(params, lora)
    kinds = unflatten({path: "train" if "_lora_" in path else "freeze" for path in flatten(started)})
    optimizer = optax.multi_transform({"train": optax.adam(1e-2), "freeze": optax.set_to_zero()}, kinds)

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(lambda p: lora.apply({"params": p}, TOKENS, labels=TOKENS).loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    trained, state, losses = started, optimizer.init(started), []
    for _ in range(20):
        trained, state, loss = step(trained, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.1
    for path, leaf in flatten(trained).items():
        changed = not np.array_equal(leaf, flatten(started)[path])
        assert changed == ("_lora_" in path), path


def generated(model, params, **options):
    return jm.generate(model, params, TOKENS, output_logits=True, eos_token_id=None, **options)


@pytest.mark.parametrize("name", GENERATIVE)
def test_generation_uses_the_adapters(name):
    model, _, lora = adapted(name)
    drawn = random_params(lora, 1)
    got = generated(lora, drawn, max_new_tokens=5)
    expected = generated(model, jm.merge_adapter(drawn, ALPHA), max_new_tokens=5)
    close(got.logits, expected.logits, tolerance=1e-5)
    plain = generated(model, unflatten({p: flatten(drawn)[p] for p in flatten(abstract(model))}), max_new_tokens=5)
    assert np.abs(np.asarray(plain.logits) - np.asarray(got.logits)).max() > 1e-2


@pytest.mark.parametrize("rows", [1, 3])
def test_products_for_few_tokens_and_long_loops_use_the_adapters(rows):
    """On a CPU these have other forms: parts of a kernel, and transposed kernels."""
    model, _ = tiny("GPT2LMHeadModel", n_positions=64)
    provider = qwix.LoraProvider(module_path=".*/layers/.*", rank=RANK, alpha=ALPHA)
    lora = qwix.apply_lora_to_model(model, provider)
    drawn = random_params(lora, 1)
    got, expected = (
        jm.generate(m, p, TOKENS[:1].repeat(rows, 0), max_new_tokens=40, output_logits=True, eos_token_id=None)
        for m, p in ((lora, drawn), (model, jm.merge_adapter(drawn, ALPHA)))
    )
    close(got.logits, expected.logits, tolerance=1e-5)


def quantised(model, provider, kind: str):
    rule = qwix.QuantizationRule(module_path=".*/layers/.*", **KINDS[kind])
    return qwix.quantize_model(model, provider([rule]), methods=methods(model))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("GPT2LMHeadModel", "weights"), ("GPT2LMHeadModel", "both"), ("T5ForConditionalGeneration", "both")]
    + [pytest.param("LEDForConditionalGeneration", kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_int8_weights_give_nearly_the_same_logits(name, kind):
    model, params = tiny(name)
    ptq, qat = quantised(model, qwix.PtqProvider, kind), quantised(model, qwix.QtProvider, kind)
    few = documented()["quantized"](params, abstract(ptq))
    kernels = [path for path in flatten(params) if "/layers/" in path and path.endswith("/kernel")]
    for path in kernels:
        array = flatten(few)[path].array
        assert array.qvalue.dtype == jnp.int8 and array.qvalue.shape == flatten(params)[path].shape
    expected, got, trained = logits(model)(params), logits(ptq)(few), logits(qat)(params)
    scale = np.abs(expected).max()
    assert 0 < np.abs(got - expected).max() < 0.05 * scale and np.abs(trained - got).max() < 0.05 * scale


@pytest.mark.parametrize("provider", [qwix.PtqProvider, qwix.QtProvider])
@pytest.mark.parametrize("name", GENERATIVE[:2])
def test_quantised_models_generate_what_they_score(name, provider):
    long = name == "GPT2LMHeadModel"  # so that its kernels are transposed for the loop, on a CPU
    model, params = tiny(name, **({"n_positions": 64} if long else {}))
    few = quantised(model, provider, "weights")
    if provider is qwix.PtqProvider:
        params = documented()["quantized"](params, abstract(few))
    out = generated(few, params, max_new_tokens=40 if long else 5)
    if model.config.is_encoder_decoder:
        scores = few.apply({"params": params}, TOKENS, decoder_input_ids=out.sequences[:, :-1]).logits
    else:
        scores = few.apply({"params": params}, out.sequences[:, :-1]).logits[:, TOKENS.shape[1] - 1 :]
    close(np.asarray(out.logits).swapaxes(0, 1), scores, tolerance=1e-5)


def test_training_with_quantised_products_has_gradients_of_all_kernels():
    model, params = tiny("GPT2LMHeadModel")
    qat = quantised(model, qwix.QtProvider, "both")
    gradients = jax.jit(jax.grad(lambda p: qat.apply({"params": p}, TOKENS, labels=TOKENS).loss))(params)
    for path, leaf in flatten(gradients).items():
        assert np.isfinite(leaf).all() and ("/layers/" not in path or np.abs(leaf).max() > 0), path


def test_documented_lines_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, params = tiny("GPT2LMHeadModel")
    names = {"jm": jm, "jax": jax, "jnp": jnp, "optax": optax, "model": model, "params": params, "ids": TOKENS}
    names["folder"] = tmp_path
    for heading in ("LoRA", "Quantisation"):
        for code in python_of("flax_tools.md", heading):
            exec(code, names)
    assert (
        names["int8_params"]["transformer"]["h"]["layers"]["attention"]["qkv"]["kernel"].array.qvalue.dtype == jnp.int8
    )
    assert set(jax.tree.leaves(names["labels"])) == {"train", "freeze"}
    jm.load(tmp_path)
