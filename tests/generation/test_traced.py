"""`generate` inside the caller's program gives what it gives outside: under jit, vmap, scan, shard_map and grad."""

import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.tiny import random_params, sizes, tiny

import jaxmodels as jm

NEW, PAD = 8, 0
IDS = np.random.default_rng(0).integers(6, 66, (4, 6))
LEFT = np.arange(6) >= np.array([0, 3, 1, 5])[:, None]
SAMPLED = {"do_sample": True, "top_k": 20, "temperature": 1.5}
PENALTIES = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 2, "forced_eos_token_id": 7}
PENALTIES |= {"sequence_bias": {(9,): 1.0}, "encoder_no_repeat_ngram_size": 2, "suppress_tokens": [11]}
GROUPS = {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "num_return_sequences": 2}
KINDS = {
    "greedy": ("GPT2LMHeadModel", {}),
    "sampling": ("GPT2LMHeadModel", {**SAMPLED, "num_return_sequences": 2}),
    "beams": ("GPT2LMHeadModel", {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}),
    "beam sampling": ("GPT2LMHeadModel", {**SAMPLED, "num_beams": 3}),
    "beam groups": ("GPT2LMHeadModel", GROUPS),
    "guidance": ("GPT2LMHeadModel", {"guidance_scale": 1.5, "cache_dtype": "int8"}),
    "processors": ("GPT2LMHeadModel", PENALTIES),
    "a window": ("GPTNeoForCausalLM", {}),
    "grouped queries": ("LlamaForCausalLM", {}),
    "T5": ("T5ForConditionalGeneration", {}),
    "BART": ("BartForConditionalGeneration", {**SAMPLED, "num_return_sequences": 2}),
    "LED": ("LEDForConditionalGeneration", {**SAMPLED, "num_beams": 2, "max_global_tokens": 2}),
}


@pytest.fixture(scope="module")
def gpt2():
    return tiny("GPT2LMHeadModel", eos_token_id=5)


def ending(call, prompt: int) -> int:
    """An id that ends some of the sequences of a call, as an eos id, before the others."""
    ids = np.asarray(call(eos_token_id=[]).sequences)[:, prompt:]
    return int(ids[0, NEW // 2])


def assert_same(inside: jm.GenerateOutput, outside: jm.GenerateOutput) -> None:
    """Compares an output of static shapes with one that is cut to the longest sequence."""
    ids, expected = np.asarray(inside.sequences), np.asarray(outside.sequences)
    np.testing.assert_array_equal(ids[:, : expected.shape[1]], expected)
    assert (ids[:, expected.shape[1] :] == PAD).all()
    np.testing.assert_array_equal(inside.lengths, outside.lengths)
    assert inside.keys() == outside.keys()
    for name in ("sequences_scores", "beam_indices"):
        if name in outside:
            values = np.asarray(inside[name])[..., : np.shape(outside[name])[-1]]
            np.testing.assert_allclose(values, outside[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parity("N16")
def test_ids_are_those_of_a_call_outside(kind):
    name, options = KINDS[kind]
    model, params = tiny(name)
    key = jax.random.key(3) if "do_sample" in options else None
    arrays = {"input_ids": np.where(LEFT, IDS, PAD), "attention_mask": LEFT, "key": key}
    if name.startswith("LED"):
        arrays["global_attention_mask"] = LEFT & (np.arange(6) > 3)

    def call(params=params, arrays=arrays, **more):
        return jm.generate(model, params, max_new_tokens=NEW, pad_token_id=PAD, **arrays, **options, **more)

    eos = ending(call, 1 if model.config.is_encoder_decoder else 6)
    outside = call(eos_token_id=eos)
    inside = jax.jit(lambda params, arrays: call(params, arrays, eos_token_id=eos))(params, arrays)
    assert inside.sequences.shape[1] == outside.sequences.shape[1] - max(outside.lengths) + NEW
    assert len(set(outside.lengths.tolist())) > 1, "no sequence ends early"
    assert_same(inside, outside)


@pytest.mark.filterwarnings("ignore:prompts are padded on the right")
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_traced_mask_marks_padding_on_either_side(gpt2, side):
    mask = LEFT if side == "left" else LEFT[:, ::-1]
    ids = np.where(mask, IDS, PAD)
    options = {"max_new_tokens": NEW, "pad_token_id": PAD}
    outside = jm.generate(*gpt2, ids, attention_mask=mask, **options)
    model, params = gpt2
    program = jax.jit(lambda ids, mask: jm.generate(model, params, ids, attention_mask=mask, **options))
    assert_same(program(ids, mask), outside)
    unmasked = jm.generate(*gpt2, ids, attention_mask=np.ones_like(mask), **options)
    assert (np.asarray(unmasked.sequences) != np.asarray(outside.sequences)).any(), "the mask has no effect"
    inferred = jax.jit(lambda ids: jm.generate(model, params, ids, **options))(ids)
    assert_same(inferred, outside)


@pytest.mark.parity("N16")
def test_vmap_over_keys_equals_calls_with_each_key(gpt2):
    model, params = gpt2

    def sample(key):
        return jm.generate(model, params, IDS, key=key, max_new_tokens=NEW, eos_token_id=9, pad_token_id=PAD, **SAMPLED)

    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(sample)(keys)
    for index, key in enumerate(keys):
        assert_same(jax.tree.map(lambda array, i=index: array[i], together), sample(key))
    assert (together.sequences[0] != together.sequences[1]).any()


@pytest.mark.parity("N16")
def test_vmap_over_parameters_equals_calls_with_each_tree(gpt2):
    model, _ = gpt2
    trees = [random_params(model, seed) for seed in (1, 2)]
    options = {"max_new_tokens": NEW, "num_beams": 2, "pad_token_id": PAD}
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    together = jax.jit(jax.vmap(lambda params: jm.generate(model, params, IDS, **options)))(stacked)
    for index, params in enumerate(trees):
        assert_same(jax.tree.map(lambda array, i=index: array[i], together), jm.generate(model, params, IDS, **options))


@pytest.mark.parity("N16")
def test_a_scan_continues_its_own_output_with_keys_made_inside(gpt2):
    model, params = gpt2
    options = {**SAMPLED, "max_new_tokens": 3, "eos_token_id": [], "attention_mask": np.ones_like(IDS)}

    def step(ids, index):
        key = jax.random.fold_in(jax.random.key(0), index)
        ids = jm.generate(model, params, ids, key=key, **options).sequences[:, -6:]
        return ids, ids

    _, found = jax.lax.scan(step, jnp.asarray(IDS), jnp.arange(3))
    ids = IDS
    for index, expected in enumerate(found):
        key = jax.random.fold_in(jax.random.key(0), index)
        ids = jm.generate(model, params, ids, key=key, **options).sequences[:, -6:]
        np.testing.assert_array_equal(expected, ids)


@pytest.mark.parametrize(
    "name, options",
    [
        ("GPT2LMHeadModel", {}),
        ("GPT2LMHeadModel", {**SAMPLED, "num_beams": 2}),
        ("BartForConditionalGeneration", {"encoder_no_repeat_ngram_size": 2}),
    ],
    ids=["greedy", "beam sampling", "BART"],
)
@pytest.mark.parity("N16")
def test_shard_map_over_the_batch_equals_one_device(name, options):
    model, params = tiny(name)
    keys = jax.random.split(jax.random.key(0), len(IDS)) if options.get("do_sample") else None

    def call(params, ids, mask, keys):
        options_of_call = {"max_new_tokens": NEW, "eos_token_id": 9, "pad_token_id": PAD, **options}
        return jm.generate(model, params, ids, attention_mask=mask, key=keys, **options_of_call)

    mesh = jm.sharding.make_mesh({"data": 4}, jax.devices()[:4])
    specs = (P(), P("data"), P("data"), P("data"))
    sharded = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=P("data")))
    actual = sharded(params, IDS, LEFT, keys)
    assert len(actual.sequences.sharding.device_set) == 4
    expected = call(params, IDS, LEFT, keys)
    ids = np.asarray(actual.sequences)[:, : expected.sequences.shape[1]]
    np.testing.assert_array_equal(ids, expected.sequences)


def test_outputs_of_steps_have_static_shapes(gpt2):
    model, params = gpt2
    names = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
    options = {"max_new_tokens": NEW, "pad_token_id": PAD, **dict.fromkeys(names, True)}
    eos = ending(lambda **more: jm.generate(model, params, IDS[:1], **options, **more), 6)
    outside = jm.generate(model, params, IDS[:1], eos_token_id=eos, **options)
    inside = jax.jit(lambda ids: jm.generate(model, params, ids, eos_token_id=eos, **options))(IDS[:1])
    steps = len(outside.scores)
    assert steps < NEW == len(inside.scores) == len(inside.attentions) == len(inside.hidden_states)
    for name in ("scores", "logits"):
        finite = np.isfinite(outside[name])
        np.testing.assert_allclose(
            np.asarray(inside[name])[:steps][finite], outside[name][finite], rtol=1e-4, atol=1e-4
        )
        assert not np.asarray(inside[name])[steps:].any()
    for name in ("attentions", "hidden_states"):
        for mine, other in zip(inside[name], outside[name], strict=False):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)
        assert not np.asarray(inside[name][-1]).any()


def test_outputs_of_the_encoder_are_those_of_the_model(gpt2):
    model, params = tiny("LEDForConditionalGeneration")
    names = {"output_attentions": True, "output_hidden_states": True}
    inside = jax.jit(lambda params: jm.generate(model, params, IDS, max_new_tokens=2, pad_token_id=PAD, **names))(
        params
    )
    encoded = model.apply({"params": params}, IDS, method="encode", **names)
    np.testing.assert_allclose(inside.encoder_hidden_states, encoded.hidden_states, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inside.encoder_attentions, encoded.attentions, rtol=1e-4, atol=1e-5)


@pytest.mark.parity("N16")
def test_gradients_pass_over_the_ids_and_are_refused_for_scores(gpt2):
    model, params = gpt2
    options = {"max_new_tokens": 3, "pad_token_id": PAD}

    def loss(params):
        ids = jm.generate(model, params, IDS, **options).sequences
        return model.apply({"params": params}, ids, labels=ids).loss

    ids = jm.generate(model, params, IDS, **options).sequences
    expected = jax.grad(lambda params: model.apply({"params": params}, ids, labels=ids).loss)(params)
    for actual in (jax.grad(loss)(params), jax.jit(jax.grad(loss))(params)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), actual, expected)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(lambda params: jm.generate(model, params, IDS, output_scores=True, **options).scores.sum())(params)


def test_both_phases_are_named_in_the_program(gpt2):
    model, params = gpt2
    program = jax.jit(lambda params, ids: jm.generate(model, params, ids, max_new_tokens=2).sequences)
    names = re.findall(r'op_name="([^"]*)"', program.lower(params, IDS).compile().as_text())
    products = [name for name in names if "dot_general" in name]
    assert any("/prefill/" in name for name in products)
    assert any("/decode/while/body/" in name for name in products)
    assert all("/prefill/" in name or "/decode/" in name for name in products)


def test_nothing_is_padded_to_a_bucket(gpt2):
    model, params = gpt2
    jaxpr = jax.make_jaxpr(lambda params, ids: jm.generate(model, params, ids, max_new_tokens=5).sequences)(params, IDS)
    shapes = {var.aval.shape for eqn in jax.tree_util.tree_leaves(_equations(jaxpr.jaxpr)) for var in eqn.outvars}
    cached = {shape for shape in shapes if len(shape) == 4 and shape[:3] == (4, 4, 8)}  # keys [B,H,K,S]
    assert (4, 4, 8, 6 + 5) in cached and all(shape[3] in (6, 1, 11) for shape in cached)


def _equations(jaxpr):
    """All equations of a program."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        found += [_equations(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params)]
    return found


HOST = {
    "streamer": lambda tokens: None,
    "prefix_allowed_tokens_fn": lambda example, ids: [5],
    "max_time": 1.0,
    "stop_strings": ["a"],
}


class _Tokenizer:
    def decode(self, ids, /, *, skip_special_tokens=False):
        return ""


@pytest.mark.parametrize("name", HOST)
@pytest.mark.parity("N16")
def test_what_needs_the_host_is_refused_by_name(gpt2, name):
    def call(ids):
        return jm.generate(*gpt2, ids, max_new_tokens=2, tokenizer=_Tokenizer(), **{name: HOST[name]}).sequences

    with pytest.raises(ValueError, match=rf"inside a traced function.*nothing can run on the host; leave out {name},"):
        jax.jit(call)(IDS)


def test_everything_that_needs_the_host_is_named_at_once(gpt2):
    with pytest.raises(ValueError, match="leave out streamer, prefix_allowed_tokens_fn, max_time, stop_strings, or"):
        jax.jit(lambda ids: jm.generate(*gpt2, ids, tokenizer=_Tokenizer(), **HOST).sequences)(IDS)


STATIC = {"temperature": 0.5, "max_new_tokens": 3, "num_beams": 2, "eos_token_id": 3, "do_sample": True}


@pytest.mark.parametrize("name", STATIC)
def test_a_traced_option_is_refused_by_name(gpt2, name):
    with pytest.raises(TypeError, match=f"{name} determines which program is compiled.*pass a Python value"):
        jax.jit(lambda value: jm.generate(*gpt2, IDS, **{name: value}).sequences)(STATIC[name])


def test_invalid_values_that_can_be_read_are_rejected_inside_too(gpt2):
    def call(ids, **options):
        return jm.generate(*gpt2, ids, pad_token_id=PAD, **options).sequences

    for error, ids, options in (
        ("the vocabulary has 67", IDS + 60, {}),
        ("contains only padding", IDS, {"attention_mask": np.zeros_like(IDS)}),
        ("more than the 24 positions", jnp.asarray(IDS), {"max_new_tokens": 19}),
    ):
        with pytest.raises(ValueError, match=error):
            jax.jit(lambda x, ids=ids, options=options: x + call(ids, **options))(1)
    with pytest.raises(ValueError, match="more than the 24 positions"):
        jax.jit(lambda ids: call(ids, max_new_tokens=19))(IDS)


def test_warmup_is_refused_inside(gpt2):
    with pytest.raises(TypeError, match="call it outside"):
        jax.jit(lambda x: x + jm.warmup(*gpt2, prompt_lengths=[4], max_new_tokens=2))(1)


def rag(name: str, generator: str = "Bart") -> tuple:
    """A tiny RAG model with random parameters, and documents of two questions."""
    part = jm.BartConfig if generator == "Bart" else jm.T5Config
    ids = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = jm.RagConfig.from_question_encoder_generator_configs(
        jm.DPRConfig(**sizes("DPR")), part(**sizes(generator), **ids), n_docs=3, **ids
    )
    model = getattr(jm, name)(config)
    mask = np.arange(9) < np.array([9, 7, 8, 5, 9, 6])[:, None]
    rng = np.random.default_rng(2)
    contexts = {"context_input_ids": np.where(mask, rng.integers(4, 67, mask.shape), 1)}
    return model, random_params(model), {
        **contexts, "context_attention_mask": mask, "doc_scores": rng.normal(size=(2, 3)).astype(np.float32)
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"num_beams": 2}, marks=pytest.mark.slow), SAMPLED],
    ids=["greedy", "beams", "sampling"],
)
@pytest.mark.parity("N16")
def test_rag_token_with_traced_documents(options):
    model, params, contexts = rag("RagTokenForGeneration")

    def call(params, contexts, key):
        return jm.generate(model, params, key=key, max_new_tokens=NEW, **contexts, **options)

    key = jax.random.key(0) if options is SAMPLED else None
    inside, outside = jax.jit(call)(params, contexts, key), call(params, contexts, key)
    np.testing.assert_array_equal(inside.sequences[:, : outside.sequences.shape[1]], outside.sequences)
    np.testing.assert_array_equal(inside.lengths, outside.lengths)


@pytest.mark.parametrize(
    "documents, deduplicate",
    [
        ("all", True),
        ("another mask", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("all", False), ("an empty one", True))),
    ],
)
@pytest.mark.parity("N16")
def test_rag_sequence_with_traced_documents(documents, deduplicate):
    """The generator infers its own mask from the padding; with another mask the documents are encoded twice."""
    model, params, contexts = rag("RagSequenceForGeneration")
    if documents == "another mask":
        contexts["context_attention_mask"] = contexts["context_attention_mask"] & (np.arange(9) < 6)
    elif documents == "an empty one":
        contexts["context_input_ids"][1] = 1
        contexts["context_attention_mask"][1] = 0
        contexts["context_attention_mask"][1, 0] = 1
    options = {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": NEW, "do_deduplication": deduplicate}

    def call(params, contexts):
        return jm.generate(model, params, **contexts, **options)

    inside, outside = jax.jit(call)(params, contexts), call(params, contexts)
    np.testing.assert_array_equal(inside.sequences[:, : outside.sequences.shape[1]], outside.sequences)
    np.testing.assert_array_equal(inside.lengths, outside.lengths)
    np.testing.assert_allclose(inside.sequences_scores, outside.sequences_scores, rtol=1e-4)


def test_candidates_that_deduplication_leaves_out_score_minus_infinity():
    """The documents of a question are equal, so they have the same candidates. Outside, asking for more is an error."""
    model, params, contexts = rag("RagSequenceForGeneration")
    contexts = {name: np.asarray(array).copy() for name, array in contexts.items()}
    for name in ("context_input_ids", "context_attention_mask"):
        contexts[name][:] = contexts[name][0]
    options = {"num_beams": 2, "num_return_sequences": 4, "max_new_tokens": NEW, "do_deduplication": True}
    with pytest.raises(ValueError, match="only 2 different candidates"):
        jm.generate(model, params, **contexts, **options)
    inside = jax.jit(lambda contexts: jm.generate(model, params, **contexts, **options))(contexts)
    finite = np.isfinite(inside.sequences_scores).reshape(2, 4)
    assert finite.tolist() == [[True, True, False, False]] * 2
