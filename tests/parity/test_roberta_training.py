"""RoBERTa-PreLayerNorm's losses, gradients, dropout and surgery against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from support.arrays import EVERYTHING, close, ids, numbers
from support.reference import Pair, actual_output, agree, agree_in_training, compare, pair, reference_output
from support.tiny import sizes, tiny

import jaxmodels as jm

NAME = "RobertaPreLayerNorm"
PADDED = np.array([[5, 6, 7, 8, 1, 1], [9, 10, 11, 12, 13, 14]])
MASK = (PADDED != 1).astype(int)
LABELS = np.where(MASK, np.roll(PADDED, 1, axis=1), -100)


@pytest.mark.parity("R8")
def test_masked_language_loss_and_every_gradient(tmp_path):
    """The pad row of the tied table is trained by the head alone, as in torch."""
    agree_in_training(pair(f"{NAME}ForMaskedLM", tmp_path), input_ids=PADDED, attention_mask=MASK, labels=LABELS)


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parity("R5")
def test_gradients_of_the_distance_embeddings(kind, tmp_path):
    both = pair(f"{NAME}ForMaskedLM", tmp_path, position_embedding_type=kind, tie_word_embeddings=False)
    agree_in_training(both, input_ids=PADDED, attention_mask=MASK, labels=LABELS)


@pytest.mark.parity("R7")
def test_causal_loss_is_shifted(tmp_path):
    both = pair(f"{NAME}ForCausalLM", tmp_path, is_decoder=True, add_cross_attention=True)
    states = numbers((2, 4, 32))
    agree_in_training(both, input_ids=PADDED, attention_mask=MASK, labels=LABELS, encoder_hidden_states=states)


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"num_labels": 3}, np.array([2, 0])),
        ({"num_labels": 1}, numbers((2,))),
        ({"num_labels": 3}, np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], np.float32)),
        ({"num_labels": 3, "problem_type": "regression"}, numbers((2, 3))),
    ],
    ids=["single-label", "regression", "multi-label", "regression-3"],
)
@pytest.mark.parity("C14")
def test_every_problem_type(config, labels, tmp_path):
    both = pair(f"{NAME}ForSequenceClassification", tmp_path, **config)
    agree_in_training(both, input_ids=PADDED, attention_mask=MASK, labels=labels)


@pytest.mark.parity("C14")
def test_token_classification_loss(tmp_path):
    both = pair(f"{NAME}ForTokenClassification", tmp_path, num_labels=4)
    agree_in_training(both, input_ids=PADDED, attention_mask=MASK, labels=np.where(MASK, PADDED % 4, -100))


@pytest.mark.parity("C15")
def test_question_answering_loss_with_a_position_beyond_the_text(tmp_path):
    both = pair(f"{NAME}ForQuestionAnswering", tmp_path)
    positions = {"start_positions": np.array([1, 9]), "end_positions": np.array([[3], [2]])}
    agree_in_training(both, input_ids=PADDED, attention_mask=MASK, **positions)


@pytest.mark.parity("R10")
def test_multiple_choice_loss(tmp_path):
    both = pair(f"{NAME}ForMultipleChoice", tmp_path)
    rows = np.stack([PADDED, PADDED[::-1]], axis=1)
    agree_in_training(both, input_ids=rows, attention_mask=(rows != 1).astype(int), labels=np.array([1, 0]))


@pytest.mark.parametrize(
    ("config", "rate"), [({}, 0.1), ({"hidden_dropout_prob": 0.4}, 0.4), ({"classifier_dropout": 0.0}, 0.0)], ids=str
)
@pytest.mark.parity("R9")
def test_rate_in_front_of_the_classifiers(config, rate):
    values = transformers.RobertaPreLayerNormConfig(**sizes(NAME), **config)
    for head in ("SequenceClassification", "TokenClassification"):
        reference = getattr(transformers, f"{NAME}For{head}")(values)
        assert getattr(reference, "dropout", None) or reference.classifier.dropout
        assert (reference.dropout if head.startswith("Token") else reference.classifier.dropout).p == rate
    assert jm.RobertaPreLayerNormConfig(**sizes(NAME), **config).head_dropout == rate


@pytest.mark.parametrize(
    ("head", "rates"),
    [
        ("Model", {"hidden_dropout_prob": 0.5}),
        ("Model", {"attention_probs_dropout_prob": 0.5}),
        ("ForSequenceClassification", {"classifier_dropout": 0.5}),
        ("ForTokenClassification", {"classifier_dropout": 0.5}),
    ],
    ids=str,
)
def test_dropout_needs_a_key_and_a_rate(head, rates):
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, params = tiny(NAME + head, **{**off, **rates})

    @jax.jit
    def first(key=None):
        rngs = None if key is None else {"dropout": key}
        return model.apply({"params": params}, ids((2, 6), low=2), rngs=rngs)[0]

    keys = (None, jax.random.key(0), jax.random.key(0), jax.random.key(1))
    still, one, again, other = (np.asarray(first(key)) for key in keys)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - still).max() > 0.01 and np.abs(one - other).max() > 0.01


@pytest.mark.parity("C10")
def test_remat_gives_the_same_loss_and_gradients():
    model, params = tiny(f"{NAME}ForMaskedLM")

    def step(m):
        loss = lambda p: m.apply({"params": p}, PADDED, attention_mask=MASK, labels=LABELS).loss  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    for a, b in zip(jax.tree.leaves(step(model)), jax.tree.leaves(step(model.clone(remat=True))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parity("C7")
def test_pruned_heads_and_their_round_trip(tmp_path):
    both = pair(f"{NAME}ForMaskedLM", tmp_path / "whole", num_hidden_layers=3)
    gone = {0: [1, 3], 2: [0]}
    both.reference.prune_heads(gone)
    model, params = jm.prune_heads(both.model, both.params, gone)
    both.reference.save_pretrained(tmp_path / "theirs")
    pruned = Pair(both.reference, model, params, tmp_path / "theirs")
    compare(
        actual_output(pruned, input_ids=PADDED, **EVERYTHING), reference_output(pruned, input_ids=PADDED, **EVERYTHING)
    )
    agree_in_training(pruned, input_ids=PADDED, attention_mask=MASK, labels=LABELS)
    jm.save(tmp_path / "ours", model, params)
    loaded = transformers.RobertaPreLayerNormForMaskedLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    agree(Pair(loaded.eval(), *jm.load(tmp_path / "ours"), tmp_path), input_ids=PADDED, attention_mask=MASK)


@pytest.mark.parametrize("size", [60, 80])
@pytest.mark.parity("C8")
def test_another_vocabulary_size_keeps_the_rows_and_the_bias(size, tmp_path):
    both = pair(f"{NAME}ForMaskedLM", tmp_path)
    model, params = jm.resize_token_embeddings(both.model, both.params, size, key=jax.random.key(0))
    assert params["lm_head"]["bias"].shape == (size,) and model.config.vocab_size == size
    kept = min(size, 67)
    rows = ids((2, 5), low=2, high=60)
    got = model.apply({"params": params}, rows).logits
    close(got[..., :kept], actual_output(both, input_ids=rows).logits[..., :kept])
    if size > 67:
        assert not np.asarray(params["lm_head"]["bias"])[67:].any()


@pytest.mark.parity("C11")
def test_initialisation_leaves_both_padding_rows_at_zero():
    model, _ = tiny(f"{NAME}Model", initializer_range=0.3)
    tables = jm.init(model, jax.random.key(0))["embeddings"]
    for name in ("word_embeddings", "position_embeddings"):
        table = np.asarray(tables[name]["embedding"])
        assert not table[1].any() and 0.2 < table[[0, *range(2, len(table))]].std() < 0.4
    assert np.asarray(tables["token_type_embeddings"]["embedding"]).any(axis=1).all()


def test_logits_are_float32_whatever_the_compute_type(tmp_path):
    both = pair(f"{NAME}ForMaskedLM", tmp_path, load={"torch_dtype": "bfloat16"})
    logits = actual_output(both, input_ids=PADDED, attention_mask=MASK).logits
    assert logits.dtype == jnp.float32
    expected = reference_output(both, input_ids=PADDED, attention_mask=MASK).logits.detach().numpy()
    assert np.abs(np.asarray(logits) - expected).max() < 0.2
