"""Pruned heads (docs/parity.md, C7) and other vocabulary sizes (docs/parity.md, C8), against the reference."""

import jax
import numpy as np
import pytest
import torch
import transformers
from support.arrays import EVERYTHING, close, ids, numbers
from support.reference import Pair, actual_output, agree, agree_in_training, compare, pair, reference_output
from support.tiny import TINY, tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten

PRUNED = {0: [1, 3], 2: [0]}


def pruned_pair(folder, name="GPT2LMHeadModel", **config) -> Pair:
    """Both sides pruned in memory, after loading the same whole model."""
    both = pair(name, folder, n_layer=3, **config)
    both.reference.prune_heads(PRUNED)
    return Pair(both.reference, *jm.prune_heads(both.model, both.params, PRUNED), folder)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    return pruned_pair(tmp_path_factory.mktemp("pruned"))


@pytest.mark.parity("C7")
def test_pruned_model_gives_the_numbers_and_the_remaining_attentions(pruned):
    got = actual_output(pruned, input_ids=ids((2, 6)), **EVERYTHING)
    compare(got, reference_output(pruned, input_ids=ids((2, 6)), **EVERYTHING))
    assert [layer.shape[1] for layer in got.attentions] == [2, 4, 3]
    assert pruned.model.config.pruned_heads == {0: (1, 3), 2: (0,)}


@pytest.mark.parity("C7")
def test_cross_attention_keeps_all_its_heads(tmp_path):
    both = pruned_pair(tmp_path, add_cross_attention=True)
    agree(both, input_ids=ids((2, 5)), encoder_hidden_states=numbers((2, 4, 32)), **EVERYTHING)


@pytest.mark.parity("C7")
def test_pruning_adds_up(pruned):
    model, params = jm.prune_heads(pruned.model, pruned.params, {0: [0], 1: [2]})
    assert model.config.pruned_heads == {0: (0, 1, 3), 1: (2,), 2: (0,)}
    again = jm.prune_heads(model, params, {0: [1]})
    assert again[0].config == model.config


@pytest.mark.parity("C7")
def test_pruned_heads_get_no_gradient(pruned):
    loss = lambda params: pruned.model.apply({"params": params}, ids((2, 6)), labels=ids((2, 6))).loss  # noqa: E731
    attention = jax.jit(jax.grad(loss))(pruned.params)["transformer"]["h"]["layers"]["attention"]
    for name, axis in (("qkv", 2), ("out", 0)):
        gone = np.moveaxis(np.asarray(attention[name]["kernel"][0]), axis, 0)
        assert not gone[[1, 3]].any() and all(head.any() for head in gone[[0, 2]])


@pytest.mark.parity("C7")
def test_pruned_model_of_ours_loads_in_torch(pruned, tmp_path):
    jm.save(tmp_path, pruned.model, pruned.params)
    reference, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    assert reference.transformer.h[0].attn.c_attn.weight.shape == (32, 3 * 16)
    assert reference.config.pruned_heads == {0: [1, 3], 2: [0]}
    compare(actual_output(pruned, input_ids=ids((2, 6))), reference(torch.tensor(ids((2, 6))), use_cache=False))


@pytest.mark.parity("C7")
def test_pruned_model_of_torch_loads_here(pruned, tmp_path):
    pruned.reference.save_pretrained(tmp_path)
    model, params = jm.load(tmp_path)
    assert model.config.pruned_heads == pruned.model.config.pruned_heads
    for path, leaf in flatten(pruned.params).items():
        np.testing.assert_array_equal(flatten(params)[path], leaf, err_msg=path)


@pytest.mark.parity("C7")
def test_head_mask_and_pruning_together(pruned):
    """The reference's pruned layer would take a mask of the remaining heads only; ours keeps the documented shape."""
    mask = np.ones((3, 4), np.float32)
    mask[1, 2] = 0.0
    got = actual_output(pruned, input_ids=ids((2, 6)), head_mask=mask).logits
    model, params = jm.prune_heads(pruned.model, pruned.params, {1: [2]})
    close(got, actual_output(Pair(None, model, params, None), input_ids=ids((2, 6))).logits)


@pytest.mark.parity("C7")
def test_a_head_mask_does_not_bring_pruned_heads_back():
    """Here their parameters are not zero, as those of a model that begins with pruned heads are not."""
    model, params = tiny(pruned_heads={0: [1, 3]})
    logits = jax.jit(lambda mask: model.apply({"params": params}, ids((2, 6)), head_mask=mask).logits)
    without = np.ones((2, 4), np.float32)
    without[0, [1, 3]] = 0.0
    np.testing.assert_array_equal(logits(np.ones((2, 4), np.float32)), logits(without))


@pytest.mark.parametrize("heads", [{5: [0]}, {0: [4]}, {0: [0, 1, 2, 3]}])
@pytest.mark.parity("C7")
def test_heads_that_do_not_exist_or_leave_none_are_refused(heads):
    with pytest.raises(ValueError, match="pruned_heads"):
        jm.prune_heads(*tiny(), heads)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "GPT2ForTokenClassification"])
@pytest.mark.parametrize(("size", "multiple"), [(80, None), (50, None), (68, 64), (None, 8)])
@pytest.mark.parity("C8")
def test_resized_embeddings_have_the_shape_of_the_reference_and_keep_the_rows(name, size, multiple):
    model, params = tiny(name)
    reference = getattr(transformers, name)(transformers.GPT2Config(**TINY))
    reference.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    resized, new = resize(model, params, size, multiple)
    table, old = new["transformer"]["wte"]["embedding"], params["transformer"]["wte"]["embedding"]
    assert table.shape == tuple(reference.get_input_embeddings().weight.shape)
    assert resized.config.vocab_size == reference.config.vocab_size
    kept = min(len(old), len(table))
    np.testing.assert_array_equal(table[:kept], old[:kept])
    rest = {path: leaf for path, leaf in flatten(new).items() if "wte" not in path}
    assert all(np.array_equal(leaf, flatten(params)[path]) for path, leaf in rest.items())


def resize(model, params, size, multiple=None):
    return jm.resize_token_embeddings(model, params, size, pad_to_multiple_of=multiple, key=jax.random.key(3))


@pytest.mark.parity("C8")
def test_old_tokens_keep_their_logits_and_new_rows_are_initialised(tmp_path):
    both = pair("GPT2LMHeadModel", tmp_path, initializer_range=0.5)
    model, params = resize(both.model, both.params, 400)
    got = actual_output(Pair(None, model, params, None), input_ids=ids((2, 6))).logits
    assert got.shape == (2, 6, 400)
    close(got[..., :67], actual_output(both, input_ids=ids((2, 6))).logits)
    assert 0.45 < np.std(params["transformer"]["wte"]["embedding"][67:]) < 0.55


@pytest.mark.parity("C8")
def test_untied_head_is_resized_along(tmp_path):
    model, params = tiny(tie_word_embeddings=False)
    _, new = resize(model, params, 80)
    assert new["lm_head"]["kernel"].shape == (32, 80)
    np.testing.assert_array_equal(new["lm_head"]["kernel"][:, :67], params["lm_head"]["kernel"])


@pytest.mark.parity("C8")
def test_resized_model_loads_in_torch(tmp_path):
    model, params = resize(*tiny(), 80)
    jm.save(tmp_path, model, params)
    reference = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert reference.config.vocab_size == 80
    agree_in_training(Pair(reference, model, params, tmp_path), input_ids=ids((2, 5), high=80), labels=ids((2, 5)))


@pytest.mark.parametrize(("size", "multiple"), [(0, None), (-3, None), (67, 0)])
@pytest.mark.parity("C8")
def test_sizes_that_make_no_sense_are_refused(size, multiple):
    with pytest.raises(ValueError, match="positive"):
        resize(*tiny(), size, multiple)
