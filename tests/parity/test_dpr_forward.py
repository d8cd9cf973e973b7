"""DPR's encoders and reader against the reference (docs/parity.md, D1 to D6)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.arrays import EVERYTHING, close, ids, numbers, trees_agree
from support.reference import actual_output, agree, compare, pair, reference_gradients, reference_output
from support.tiny import tiny

import jaxmodels as jm

ENCODERS = ("DPRContextEncoder", "DPRQuestionEncoder")
CLASSES = (*ENCODERS, "DPRReader")
KINDS = ("absolute", "relative_key", "relative_key_query")
PADDED = np.array([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]])
MASK = (PADDED != 0).astype(int)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return pair("DPRQuestionEncoder", tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return pair("DPRReader", tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("D1")
def test_each_class_gives_every_output_of_its_kind(name, tmp_path):
    both = pair(name, tmp_path, num_hidden_layers=3)
    got = actual_output(both, input_ids=ids((2, 7)), **EVERYTHING)
    compare(got, reference_output(both, input_ids=ids((2, 7)), **EVERYTHING))
    assert type(got).__name__ == f"{name}Output" and len(got.hidden_states) == 4


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("width", [0, 12])
@pytest.mark.parity("D2")
def test_pooler_output_is_the_raw_or_the_projected_first_state(name, width, tmp_path):
    both = pair(name, tmp_path, projection_dim=width)
    agree(both, input_ids=ids((2, 6)), **EVERYTHING)
    out = actual_output(both, input_ids=ids((2, 6)), output_hidden_states=True)
    assert out.pooler_output.shape == (2, width or 32)
    if not width:
        np.testing.assert_array_equal(out.pooler_output, out.hidden_states[-1][:, 0])


@pytest.mark.parity("D3")
def test_encoders_take_the_pad_id_for_padding_and_the_reader_does_not(encoder, reader):
    for both in (encoder, reader):
        agree(both, input_ids=PADDED, **EVERYTHING)
    for both, hides in ((encoder, True), (reader, False)):
        implied = actual_output(both, input_ids=PADDED).to_tuple()[-1]
        masked = actual_output(both, input_ids=PADDED, attention_mask=MASK).to_tuple()[-1]
        assert np.allclose(implied, masked, atol=1e-6) == hides


@pytest.mark.parity("D3")
def test_a_given_mask_is_taken_whatever_the_ids(encoder):
    mask = np.array([[1, 1, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    agree(encoder, input_ids=PADDED, attention_mask=mask, **EVERYTHING)


@pytest.mark.parity("C12")
def test_three_dimensional_mask_with_a_row_that_sees_nothing(encoder):
    mask = np.random.default_rng(3).integers(0, 2, (2, 6, 6))
    mask[0, 2] = 0
    agree(encoder, input_ids=ids((2, 6)), attention_mask=mask, **EVERYTHING)


@pytest.mark.parity("C13")
def test_embeddings_instead_of_ids_have_no_padding(encoder, reader):
    for both in (encoder, reader):
        agree(both, inputs_embeds=numbers((2, 6, 32)), **EVERYTHING)


@pytest.mark.parity("D2")
def test_token_types_give_the_reference_s_outputs(encoder):
    agree(encoder, input_ids=ids((2, 6)), token_type_ids=np.array([[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 2]]))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("D4")
def test_tuple_form_has_no_last_hidden_state(name, tmp_path):
    both = pair(name, tmp_path)
    got = actual_output(both, input_ids=ids((2, 5)), return_dict=False, **EVERYTHING)
    expected = reference_output(both, input_ids=ids((2, 5)), return_dict=False, **EVERYTHING)
    assert isinstance(got, tuple) and len(got) == len(expected)
    for i, (mine, reference) in enumerate(zip(got, expected, strict=True)):
        layers = [(mine, reference)] if torch.is_tensor(reference) else zip(mine, reference, strict=True)
        for j, (a, b) in enumerate(layers):
            close(a, b, f"{i}.{j}")


@pytest.mark.parity("D5")
def test_reader_scores_every_token_and_every_passage(reader):
    out = actual_output(reader, input_ids=ids((3, 6)), attention_mask=np.ones((3, 6), int))
    assert (out.start_logits.shape, out.end_logits.shape, out.relevance_logits.shape) == ((3, 6), (3, 6), (3,))
    agree(reader, input_ids=PADDED, attention_mask=MASK)


@pytest.mark.parity("D5")
def test_reader_knows_no_token_types(reader):
    with pytest.raises(TypeError, match="token_type_ids"):
        actual_output(reader, input_ids=PADDED, token_type_ids=MASK)


@pytest.mark.parity("D5")
def test_reader_keeps_a_projection_it_does_not_use_and_refuses_one_of_another_width(tmp_path):
    both = pair("DPRReader", tmp_path, projection_dim=32)
    agree(both, input_ids=ids((2, 5)))
    assert both.params["span_predictor"]["encoder"]["encode_proj"]["kernel"].shape == (32, 32)
    with pytest.raises(ValueError, match="projection_dim is 0 or hidden_size=32"):
        tiny("DPRReader", projection_dim=12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["DPRContextEncoder", "DPRReader"])
@pytest.mark.parity("D6")
def test_every_kind_of_position_gives_the_reference_s_outputs(name, kind, tmp_path):
    both = pair(name, tmp_path, position_embedding_type=kind)
    agree(both, input_ids=PADDED, attention_mask=MASK, **EVERYTHING)
    mask = np.tril(np.ones((2, 6, 6), int))
    agree(both, input_ids=PADDED, attention_mask=mask, **EVERYTHING)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parity("D6")
def test_blocked_attention_gives_the_same_distances(kind):
    model, params = tiny("DPRContextEncoder", position_embedding_type=kind)

    def pooled(name):
        chosen = model.clone(attention=name)
        return jax.jit(lambda: chosen.apply({"params": params}, ids((2, 24))).pooler_output)()

    dense, blocked = pooled("xla"), pooled("xla_blocked")
    np.testing.assert_allclose(dense, blocked, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["DPRQuestionEncoder", "DPRReader"])
@pytest.mark.parity("D1")
def test_gradients_of_every_parameter(name, kind, tmp_path):
    """Padding included: looking the pad id up trains neither its row here nor in torch."""
    both = pair(name, tmp_path, position_embedding_type=kind, projection_dim=32)
    inputs = {"input_ids": PADDED, "attention_mask": MASK}

    def total(params):
        out = both.model.apply({"params": params}, **inputs)
        return sum(jnp.sum(jnp.sin(value)) for value in out.to_tuple())

    gradients = jax.jit(jax.grad(total))(both.params)
    both.reference.zero_grad()
    sum(value.sin().sum() for value in reference_output(both, **inputs).to_tuple()).backward()
    trees_agree(gradients, reference_gradients(both))


@pytest.mark.parametrize("act", ["relu", "silu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "mish"])
@pytest.mark.parity("C4")
def test_every_activation_gives_the_reference_s_outputs(act, tmp_path):
    agree(pair("DPRContextEncoder", tmp_path, hidden_act=act), input_ids=ids((2, 5)))


@pytest.mark.parity("C5")
def test_feed_forward_in_chunks_gives_the_same_numbers(tmp_path):
    both = pair("DPRContextEncoder", tmp_path, chunk_size_feed_forward=3)
    agree(both, input_ids=ids((2, 6)), **EVERYTHING)
    with pytest.raises(ValueError, match="chunk_size_feed_forward=3 does not divide the 7 tokens"):
        actual_output(both, input_ids=ids((2, 7)))


@pytest.mark.parametrize("rates", [{"hidden_dropout_prob": 0.5}, {"attention_probs_dropout_prob": 0.5}], ids=str)
def test_dropout_needs_a_key_and_a_rate(rates):
    model, params = tiny(
        "DPRQuestionEncoder", **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **rates}
    )

    @jax.jit
    def pooled(key=None):
        rngs = None if key is None else {"dropout": key}
        return model.apply({"params": params}, ids((2, 6)), rngs=rngs).pooler_output

    keys = (None, jax.random.key(0), jax.random.key(0), jax.random.key(1))
    still, first, again, other = (np.asarray(pooled(key)) for key in keys)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - still).max() > 0.05 and np.abs(first - other).max() > 0.05


@pytest.mark.parity("C10")
def test_remat_gives_the_same_gradients():
    model, params = tiny("DPRContextEncoder")
    loss = lambda m: jax.jit(jax.grad(lambda p: m.apply({"params": p}, ids((2, 6))).pooler_output.sum()))  # noqa: E731
    trees_agree(loss(model.clone(remat=True))(params), loss(model)(params))


@pytest.mark.parity("C11")
def test_initialisation_leaves_the_padding_row_at_zero():
    model, _ = tiny("DPRContextEncoder", pad_token_id=3, initializer_range=0.3)
    params = jm.init(model, jax.random.key(0))["ctx_encoder"]["bert_model"]
    table = np.asarray(params["embeddings"]["word_embeddings"]["embedding"])
    assert not table[3].any() and 0.25 < table[np.arange(67) != 3].std() < 0.35
    kernel = np.asarray(params["encoder"]["layers"]["feed_forward"]["up"]["kernel"])
    assert 0.25 < kernel.std() < 0.35 and not np.asarray(params["encoder"]["layers"]["attention"]["qkv"]["bias"]).any()


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"input_ids": ids((1, 25))}, ValueError, "25 tokens are more than the 24 positions of this model"),
        ({"input_ids": ids((4,))}, ValueError, r"got \(4,\); a single sequence is \[1,T\]"),
        ({"input_ids": ids((2, 4)) + 66}, ValueError, "the vocabulary has 67 entries"),
        ({"token_type_ids": np.full((2, 4), 3)}, ValueError, r"the token type table has 3 entries \(0 to 2\)"),
        (
            {"token_type_ids": np.zeros((2, 5), int)},
            ValueError,
            r"token_type_ids has shape \(2, 5\), expected \(2, 4\)",
        ),
        ({"attention_mask": np.ones((2, 5), int)}, ValueError, r"attention_mask has shape \(2, 5\), expected \(2, 4\)"),
        (
            {"attention_mask": np.ones((2, 4, 5), int)},
            ValueError,
            r"shape \(2, 4, 5\), expected \(2, 4\) or \(2, 4, 4\)",
        ),
        ({"inputs_embeds": numbers((2, 4, 32))}, ValueError, "input_ids or inputs_embeds, one of the two"),
        ({"input_ids": np.zeros((0, 4), int)}, ValueError, "input_ids is empty"),
        ({"head_mask": np.ones(4)}, TypeError, "head_mask"),
    ],
)
def test_bad_call_says_what_came_and_what_was_expected(encoder, inputs, error, message):
    with pytest.raises(error, match=message):
        encoder.model.apply({"params": encoder.params}, **{"input_ids": ids((2, 4)), **inputs})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"position_embedding_type": "rotary"}, "'relative_key', 'relative_key_query', got 'rotary'"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=768"),
        ({"hidden_act": "gelo"}, "no activation 'gelo'"),
        ({"projection_dim": -1}, "projection_dim must be 0"),
        ({"is_decoder": True}, "is_decoder=True, but DPR's models are encoders"),
        ({"hidden_size": 0}, "hidden_size must be a positive int .*, got 0"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be a rate"),
        ({"chunk_size_feed_forward": -1}, "chunk_size_feed_forward must be 0 or a positive int"),
        ({"pad_token_id": 30522}, "outside the vocabulary"),
        ({"hiden_size": 7}, "did you mean 'hidden_size'"),
    ],
)
def test_bad_config_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        jm.DPRConfig(**values)
