"""RoBERTa-PreLayerNorm's outputs against the reference: all seven classes, all arguments of the call."""

import warnings

import jax
import numpy as np
import pytest
from support.arrays import EVERYTHING, close, ids, numbers
from support.reference import actual_output, agree, compare, pair, reference_output
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.layers.cache import Cache

NAME = "RobertaPreLayerNorm"
HEADS = ("ForMaskedLM", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
KINDS = ("absolute", "relative_key", "relative_key_query")
# The pad id is 1.
PADDED = np.array([[5, 6, 7, 8, 1, 1], [9, 10, 11, 12, 13, 14]])
MASK = (PADDED != 1).astype(int)
CACHE = Cache.zeros(2, 8, layers=1, heads=1, head_dim=1, dtype="float32")


def tokens(shape, seed=0):
    return ids(shape, seed, low=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pair(f"{NAME}Model", tmp_path_factory.mktemp("base"), num_hidden_layers=3)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossed")
    return pair(f"{NAME}ForCausalLM", folder, is_decoder=True, add_cross_attention=True)


@pytest.mark.parity("R1")
def test_base_model_gives_every_output(base):
    agree(base, input_ids=tokens((2, 7)), **EVERYTHING)


@pytest.mark.filterwarnings("ignore:without is_decoder")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parity("R1")
def test_each_head_gives_every_logit_state_and_attention(head, tmp_path):
    both = pair(NAME + head, tmp_path, num_labels=2 if head == "ForQuestionAnswering" else 3)
    agree(both, input_ids=tokens((2, 7)), **EVERYTHING)


@pytest.mark.parity("R1")
def test_base_model_without_a_pooler(base):
    model, params = jm.load(base.folder, add_pooling_layer=False, cls=f"{NAME}Model")
    out = model.apply({"params": params}, tokens((2, 5)))
    assert "pooler" not in params and list(out.keys()) == ["last_hidden_state"]


@pytest.mark.parametrize("mask", [None, MASK], ids=["implied", "mask"])
@pytest.mark.parity("R2")
def test_positions_are_counted_over_ids_that_are_not_padding(base, mask):
    for rows in (PADDED, PADDED[:, ::-1].copy(), np.array([[5, 1, 6, 1, 7, 8]])):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            agree(base, input_ids=rows, **({} if mask is None else {"attention_mask": (rows != 1).astype(int)}))


@pytest.mark.parity("R2")
def test_the_mask_does_not_move_positions(base):
    agree(
        base, input_ids=tokens((2, 6)), attention_mask=np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1]]), **EVERYTHING
    )


@pytest.mark.parity("R2")
def test_embeddings_have_consecutive_positions(base):
    agree(base, inputs_embeds=numbers((2, 6, 32)), attention_mask=MASK, **EVERYTHING)


@pytest.mark.parity("R2")
def test_position_ids_are_taken_as_given(base):
    agree(
        base, input_ids=tokens((2, 6)), position_ids=np.array([[3, 1, 4, 1, 5, 9], [2, 25, 0, 8, 8, 8]]), **EVERYTHING
    )


def test_token_types(base):
    agree(base, input_ids=tokens((2, 6)), token_type_ids=np.array([[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 2]]))


@pytest.mark.parity("R3")
def test_each_part_of_a_layer_reads_what_its_norm_gives(base):
    """Where the norms of the layers give one value for all tokens, a layer adds the same to each of them."""

    def alike(path, leaf):
        names = [key.key for key in path]
        return leaf * 0 if names[-2:] in (["attention_norm", "scale"], ["feed_forward_norm", "scale"]) else leaf

    params = jax.tree_util.tree_map_with_path(alike, base.params)
    states = base.model.apply({"params": params}, tokens((2, 6)), output_hidden_states=True).hidden_states
    added = np.diff(states, axis=0)
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1], added.shape), atol=1e-5)
    assert np.abs(added).max() > 0.1 and np.ptp(states, axis=2).max() > 0.1


@pytest.mark.parity("R4")
def test_last_hidden_states_are_before_the_final_norm(base):
    out = actual_output(base, input_ids=tokens((2, 6)), output_hidden_states=True)
    compare(out, reference_output(base, input_ids=tokens((2, 6)), output_hidden_states=True))
    normed = base.model.bind({"params": base.params}).norm(out.hidden_states[-1])
    np.testing.assert_allclose(normed, out.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert np.abs(out.hidden_states[-1] - out.last_hidden_state).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parity("R5")
def test_every_kind_of_position_gives_the_reference_s_outputs(kind, tmp_path):
    both = pair(f"{NAME}Model", tmp_path, position_embedding_type=kind)
    agree(both, input_ids=PADDED, attention_mask=MASK, **EVERYTHING)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parity("R6")
def test_decoder_is_causal_like_the_reference(kind, tmp_path):
    both = pair(f"{NAME}Model", tmp_path, is_decoder=True, position_embedding_type=kind)
    agree(both, input_ids=PADDED, attention_mask=MASK, **EVERYTHING)


@pytest.mark.parity("C12")
def test_three_dimensional_masks_replace_the_causal_rule(tmp_path):
    both = pair(f"{NAME}Model", tmp_path, is_decoder=True)
    mask = np.random.default_rng(3).integers(0, 2, (2, 6, 6))
    mask[0, 2] = 0
    agree(both, input_ids=tokens((2, 6)), attention_mask=mask, **EVERYTHING)


@pytest.mark.parametrize("shape", [(4,), (3, 4)], ids=["heads", "layers-heads"])
@pytest.mark.parity("C6")
def test_a_head_mask_gives_the_reference_s_outputs(base, shape):
    mask = np.random.default_rng(2).choice([0.0, 1.0, 0.5], shape).astype(np.float32)
    agree(base, input_ids=tokens((2, 6)), head_mask=mask, **EVERYTHING)


@pytest.mark.parametrize("mask", [None, (2, 4), (2, 5, 4)], ids=str)
@pytest.mark.parity("R6")
def test_cross_attention_gives_the_reference_s_outputs(crossed, mask):
    inputs = {"input_ids": tokens((2, 5)), "encoder_hidden_states": numbers((2, 4, 32))}
    if mask:
        inputs["encoder_attention_mask"] = np.random.default_rng(4).integers(0, 2, mask)
        inputs["encoder_attention_mask"][..., 1] = 1
    agree(crossed, **inputs, **EVERYTHING)


@pytest.mark.parity("R6")
def test_one_head_mask_serves_self_and_cross_attention(crossed):
    mask = np.array([[1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 1.0]], np.float32)
    agree(crossed, input_ids=tokens((2, 5)), encoder_hidden_states=numbers((2, 4, 32)), head_mask=mask, **EVERYTHING)


@pytest.mark.parity("R6")
def test_cross_attention_has_no_distances(tmp_path):
    both = pair(
        f"{NAME}ForCausalLM",
        tmp_path,
        is_decoder=True,
        add_cross_attention=True,
        position_embedding_type="relative_key",
    )
    layers = both.params["roberta_prelayernorm"]["encoder"]["layers"]
    assert "relative" in layers["attention"] and "relative" not in layers["cross_attention"]
    agree(both, input_ids=tokens((2, 5)), encoder_hidden_states=numbers((2, 4, 32)), **EVERYTHING)


@pytest.mark.parity("R6")
def test_without_encoder_states_the_cross_attention_is_skipped(crossed):
    agree(crossed, input_ids=tokens((2, 5)), output_hidden_states=True)


@pytest.mark.parity("R8")
def test_untied_language_head(tmp_path):
    both = pair(f"{NAME}ForMaskedLM", tmp_path, tie_word_embeddings=False)
    assert both.params["lm_head"]["decoder"]["kernel"].shape == (32, 67)
    agree(both, input_ids=tokens((2, 5)))


@pytest.mark.parametrize("given", ["ids", "embeddings"])
@pytest.mark.parity("R10")
def test_multiple_choice_flattens_every_argument(given, tmp_path):
    both = pair(f"{NAME}ForMultipleChoice", tmp_path)
    choices = np.stack([PADDED, tokens((2, 6), 1), tokens((2, 6), 2)], axis=1)
    inputs = {"input_ids": choices} if given == "ids" else {"inputs_embeds": numbers((2, 3, 6, 32))}
    inputs |= {"attention_mask": (choices != 1).astype(int), "token_type_ids": choices % 3}
    agree(both, **inputs, **EVERYTHING)
    agree(both, **inputs, position_ids=np.arange(36).reshape(2, 3, 6) % 26)


@pytest.mark.parity("C3")
def test_tuple_form_and_switches_from_the_config(tmp_path):
    both = pair(f"{NAME}Model", tmp_path, output_hidden_states=True, output_attentions=True, return_dict=False)
    got, expected = actual_output(both, input_ids=tokens((2, 5))), reference_output(both, input_ids=tokens((2, 5)))
    assert isinstance(got, tuple) and len(got) == len(expected) == 4
    close(got[0], expected[0])
    close(got[1], expected[1])
    for mine, reference in zip([*got[2], *got[3]], [*expected[2], *expected[3]], strict=True):
        close(mine, reference)


@pytest.mark.parity("C4", "C5")
def test_another_activation_and_chunks_give_the_reference_s_outputs(tmp_path):
    both = pair(f"{NAME}Model", tmp_path, hidden_act="gelu_new", chunk_size_feed_forward=2)
    agree(both, input_ids=tokens((2, 6)), **EVERYTHING)


@pytest.mark.parity("C13")
def test_padding_without_a_mask_is_warned_of(base):
    with pytest.warns(UserWarning, match="pad id 1, but there is no attention_mask"):
        base.model.apply({"params": base.params}, PADDED)


@pytest.mark.parity("R7")
def test_causal_head_without_is_decoder_warns(tmp_path):
    model, params = tiny(f"{NAME}ForCausalLM")
    with pytest.warns(UserWarning, match="without is_decoder=True"):
        model.apply({"params": params}, tokens((1, 3)))
    with pytest.raises(ValueError, match="load it with is_decoder=True"):
        model.init_cache(1, 4)
    model, params = tiny(f"{NAME}ForMaskedLM", is_decoder=True)
    with pytest.warns(UserWarning, match="attends both ways"):
        model.apply({"params": params}, tokens((1, 3)))


@pytest.mark.parametrize(
    ("head", "inputs", "error", "message"),
    [
        ("Model", {"input_ids": tokens((1, 25))}, ValueError, "25 tokens are more than the 24 positions of this model"),
        ("Model", {"token_type_ids": np.full((2, 4), 3)}, ValueError, r"the token type table has 3 entries"),
        ("Model", {"position_ids": np.full((2, 4), 26)}, ValueError, "the position table has 26 entries"),
        ("Model", {"head_mask": np.ones((3, 4))}, ValueError, "head_mask has shape"),
        ("Model", {"encoder_hidden_states": numbers((2, 3, 32))}, ValueError, "add_cross_attention=True"),
        ("Model", {"input_ids": tokens((2, 3, 4))}, ValueError, r"input_ids has shape \[B,T\], got \(2, 3, 4\)"),
        ("ForMaskedLM", {"labels": tokens((2, 3))}, ValueError, "labels has shape"),
        ("ForMaskedLM", {"labels": tokens((2, 4)) + 66}, ValueError, "labels are 0 to 66, or -100"),
        ("ForMaskedLM", {"cache": CACHE}, ValueError, "takes no cache"),
        ("ForSequenceClassification", {"labels": np.array([0, 2])}, ValueError, "labels are 0 to 1"),
        ("ForSequenceClassification", {"labels": np.array([0])}, ValueError, "label"),
        ("ForTokenClassification", {"labels": np.full((2, 4), 2)}, ValueError, "labels are 0 to 1"),
        (
            "ForQuestionAnswering",
            {"start_positions": np.array([1]), "end_positions": np.array([1])},
            ValueError,
            "label",
        ),
        ("ForMultipleChoice", {}, ValueError, r"input_ids has shape \(2, 4\), expected \[B,choices,T\]"),
        (
            "ForMultipleChoice",
            {"input_ids": tokens((2, 2, 4)), "labels": np.array([0, 2])},
            ValueError,
            "labels are 0 to 1",
        ),
    ],
)
def test_bad_call_says_what_came_and_what_was_expected(head, inputs, error, message):
    model, params = tiny(NAME + head)
    with pytest.raises(error, match=message):
        model.apply({"params": params}, **{"input_ids": tokens((2, 4)), **inputs})


def test_traced_rows_that_are_too_long_are_refused_by_their_length(base):
    apply = jax.jit(lambda rows, **more: base.model.apply({"params": base.params}, rows, **more).last_hidden_state)
    with pytest.raises(ValueError, match="25 tokens are more than the 24 positions of this model"):
        apply(tokens((1, 25)))
    padded = np.pad(tokens((1, 24)), ((0, 0), (0, 3)), constant_values=1)
    positions = np.where(padded != 1, np.arange(27) + 2, 1)
    wide = apply(padded, attention_mask=(padded != 1), position_ids=positions)
    np.testing.assert_allclose(wide[:, :24], apply(padded[:, :24]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pad_token_id": None}, "pad_token_id must be set"),
        ({"max_position_embeddings": 2}, "must be less than max_position_embeddings=2"),
        ({"add_cross_attention": True}, "add_cross_attention=True needs is_decoder=True"),
        ({"classifier_dropout": 1.5}, "classifier_dropout must be a rate"),
        ({"pruned_heads": {0: [12]}}, "pruned_heads names layer 0"),
    ],
)
def test_bad_config_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        jm.RobertaPreLayerNormConfig(**values)


@pytest.mark.parity("R1")
def test_question_answering_needs_two_labels():
    with pytest.raises(ValueError, match="2 labels, start and end; num_labels=3"):
        tiny(f"{NAME}ForQuestionAnswering", num_labels=3)


@pytest.mark.parity("C6")
def test_pruning_leaves_the_cross_attention_whole():
    model, params = tiny(f"{NAME}Model", is_decoder=True, add_cross_attention=True, pruned_heads={0: [1]})
    states = numbers((2, 3, 32))
    out = model.apply({"params": params}, tokens((2, 4)), encoder_hidden_states=states, output_attentions=True)
    assert out.attentions[0].shape[1] == out.attentions[1].shape[1] - 1
    np.testing.assert_allclose(out.cross_attentions.sum(axis=-1), np.ones((2, 2, 4, 4)), rtol=1e-5)
