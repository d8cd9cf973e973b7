"""RAG's outputs, losses, gradients and answers against the reference (docs/parity.md, A1 to A12)."""

import jax
import numpy as np
import pytest
import torch
from support.arrays import close
from support.rag_pairs import CONTEXTS, DOCUMENTS, LABELS, QUESTIONS, rag_pair
from support.reference import actual_output, as_torch, reference_output

import jaxmodels as jm
from jaxmodels.generation.loop import num_compiled

PADDING = {"context_input_ids": 1, "context_attention_mask": 0}
CLASSES = ("RagModel", "RagSequenceForGeneration", "RagTokenForGeneration")


@pytest.fixture(scope="module", params=["bart", pytest.param("t5", marks=pytest.mark.slow)])
def generator(request):
    return request.param


@pytest.fixture(scope="module")
def pairs(generator, tmp_path_factory):
    return {name: rag_pair(name, tmp_path_factory.mktemp(name), generator) for name in CLASSES}


def agree(both, **inputs):
    got, expected = actual_output(both, **inputs), reference_output(both, **inputs)
    tensors = {name: value for name, value in expected.items() if value is not None and value != (None,)}
    tensors.pop("past_key_values", None)
    for name, value in tensors.items():
        for i, layer in enumerate(value if isinstance(value, tuple) else [value]):
            close(got[name][i] if isinstance(value, tuple) else got[name], layer, f"{name}[{i}]")
    return got


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("A1", "A4", "A6", "A7")
def test_outputs_from_contexts_and_scores(pairs, name):
    got = agree(pairs[name], **CONTEXTS, decoder_input_ids=LABELS, output_attentions=True)
    assert got.logits.shape[:2] == (QUESTIONS * DOCUMENTS, LABELS.shape[1])
    assert not {"retrieved_doc_embeds", "context_input_ids", "question_encoder_last_hidden_state"} & set(got.keys())


@pytest.mark.parity("A6")
def test_every_document_gets_the_decoder_s_ids_and_mask(pairs):
    mask = np.ones_like(LABELS)
    mask[0, 2], mask[1, 4:] = 0, 0
    agree(pairs["RagModel"], **CONTEXTS, decoder_input_ids=LABELS, decoder_attention_mask=mask)


@pytest.mark.parity("A4")
def test_encoder_outputs_in_place_of_contexts(pairs):
    both = pairs["RagTokenForGeneration"]
    states = np.random.default_rng(0).normal(size=(6, 9, 32)).astype(np.float32)
    shared = {name: CONTEXTS[name] for name in ("context_attention_mask", "doc_scores")}
    options = {**shared, "decoder_input_ids": LABELS, "do_marginalize": True}
    got = actual_output(both, **options, encoder_outputs=(states,))
    expected = both.reference(
        **{name: as_torch(value) for name, value in options.items()}, encoder_outputs=(torch.from_numpy(states),)
    )
    close(got.logits, expected.logits)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RagSequenceForGeneration", {}),
        ("RagSequenceForGeneration", {"exclude_bos_score": True, "reduce_loss": True}),
        ("RagTokenForGeneration", {}),
        ("RagTokenForGeneration", {"reduce_loss": True, "do_marginalize": True}),
    ],
    ids=str,
)
@pytest.mark.parity("A8", "A9", "A10")
def test_losses_are_the_reference_s(pairs, name, options):
    bos = np.where(np.arange(6) == 1, 0, LABELS)  # the first target is bos, where there is one
    for labels in (LABELS, bos):
        got = agree(pairs[name], **CONTEXTS, labels=labels, **options)
        assert got.loss.shape == (() if options.get("reduce_loss") else (QUESTIONS,))


@pytest.mark.parametrize("name", CLASSES[1:])
@pytest.mark.parity("A8", "A9")
def test_label_smoothing_and_every_gradient(name, tmp_path):
    both = rag_pair(name, tmp_path, label_smoothing=0.2, reduce_loss=True)
    inputs = {**CONTEXTS, "labels": LABELS}
    (loss, got), gradients = jax.jit(jax.value_and_grad(lambda p: _loss(both, p, inputs), has_aux=True))(both.params)
    expected = reference_output(both, **inputs)
    close(loss, expected.loss)
    expected.loss.backward()
    flat = {name: p.grad for name, p in both.reference.named_parameters() if p.grad is not None}
    ours_ = jax.tree.map(np.asarray, gradients["rag"]["generator"])
    close(ours_["model"]["shared"]["embedding"], flat["rag.generator.model.shared.weight"], "shared")
    close(
        ours_["model"]["decoder"]["stack"]["layers"]["feed_forward"]["up"]["kernel"][1],
        flat["rag.generator.model.decoder.layers.1.fc1.weight"].T,
        "fc1",
    )


def _loss(both, params, inputs):
    out = both.model.apply({"params": params}, **inputs)
    return out.loss, out.logits


def generated(both, contexts=CONTEXTS, **options):
    contexts = {name: as_torch(value) for name, value in contexts.items()}
    with torch.no_grad():
        return both.reference.generate(**contexts, **options).numpy()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5, "early_stopping": True},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.4},
    ],
    ids=str,
)
@pytest.mark.parity("A12")
def test_answers_of_rag_token_are_the_reference_s(pairs, options):
    both = pairs["RagTokenForGeneration"]
    expected = generated(both, max_length=10, **options)
    got = jm.generate(both.model, both.params, **CONTEXTS, max_length=10, **options)
    np.testing.assert_array_equal(got.sequences, expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 2, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 3, "do_deduplication": False},
    ],
    ids=str,
)
@pytest.mark.parity("A11")
def test_answers_of_rag_sequence_are_the_reference_s(pairs, options):
    both = pairs["RagSequenceForGeneration"]
    expected = generated(both, max_length=9, **options)
    got = jm.generate(both.model, both.params, **CONTEXTS, max_length=9, **options)
    np.testing.assert_array_equal(got.sequences, expected)
    assert (np.diff(np.asarray(got.sequences_scores).reshape(QUESTIONS, -1), axis=1) <= 0).all()


@pytest.mark.parity("A11")
def test_the_generator_reads_what_is_not_padding_and_scores_by_the_mask_given(pairs):
    """Where the two are not alike, documents are encoded once for each."""
    both = pairs["RagSequenceForGeneration"]
    masked = {**CONTEXTS, "context_attention_mask": CONTEXTS["context_attention_mask"] * (np.arange(9) > 2)}
    answers = {}
    for name, contexts in {"alike": CONTEXTS, "masked": masked}.items():
        got = jm.generate(both.model, both.params, **contexts, max_length=9, num_beams=3, num_return_sequences=3)
        expected = generated(both, contexts, max_length=9, num_beams=3, num_return_sequences=3)
        np.testing.assert_array_equal(got.sequences, expected)
        answers[name] = np.asarray(got.sequences_scores)
    assert np.abs(answers["alike"] - answers["masked"]).max() > 1e-3


@pytest.mark.parametrize("name", CLASSES[1:])
def test_columns_of_padding_alone_make_no_difference(pairs, name):
    both = pairs[name]
    wide = {key: np.pad(CONTEXTS[key], ((0, 0), (0, 50)), constant_values=pad) for key, pad in PADDING.items()}
    options = {"max_length": 9, "num_beams": 2}
    expected = jm.generate(both.model, both.params, **CONTEXTS, **options)
    before = num_compiled()
    got = jm.generate(both.model, both.params, **{**CONTEXTS, **wide}, **options)
    np.testing.assert_array_equal(got.sequences, expected.sequences)
    assert num_compiled() == before, "they are cut off before anything is compiled for them"


def test_answers_do_not_depend_on_the_other_questions(pairs):
    both = pairs["RagTokenForGeneration"]
    together = np.asarray(jm.generate(both.model, both.params, **CONTEXTS, max_length=10, num_beams=2).sequences)
    for i in range(QUESTIONS):
        rows = {
            k: v[i * DOCUMENTS : (i + 1) * DOCUMENTS] if "context" in k else v[i : i + 1] for k, v in CONTEXTS.items()
        }
        alone = np.asarray(jm.generate(both.model, both.params, **rows, max_length=10, num_beams=2).sequences)
        np.testing.assert_array_equal(together[i, : alone.shape[1]], alone[0])


@pytest.mark.parity("A12")
def test_sampling_over_documents_is_reproducible(pairs):
    both = pairs["RagTokenForGeneration"]
    options = {"do_sample": True, "num_return_sequences": 3, "max_length": 10}
    one, again, other = (
        jm.generate(both.model, both.params, **CONTEXTS, key=jax.random.key(k), **options).sequences for k in (0, 0, 1)
    )
    assert one.shape[0] == QUESTIONS * 3
    np.testing.assert_array_equal(one, again)
    assert one.shape != other.shape or (np.asarray(one) != np.asarray(other)).any()


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parity("A1", "A2", "C16")
def test_a_saved_folder_loads_in_the_reference_and_here(pairs, name, tmp_path):
    both = pairs[name]
    jm.save(tmp_path, both.model, both.params)
    reference = type(both.reference).from_pretrained(tmp_path, attn_implementation="eager").eval()
    for key, value in both.reference.state_dict().items():
        np.testing.assert_array_equal(reference.state_dict()[key].numpy(), value.numpy(), err_msg=key)
    model, params = jm.load(tmp_path)
    assert type(model) is type(both.model) and model.config == jm.load(both.folder)[0].config
    jax.tree.map(np.testing.assert_array_equal, params, both.params)


BAD = {
    "no documents": ({"context_input_ids": None}, "documents are needed"),
    "no scores": ({"doc_scores": None}, "doc_scores"),
    "rows": ({"context_input_ids": CONTEXTS["context_input_ids"][:5]}, "5"),
    "n_docs": ({"n_docs": 2}, "n_docs"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("cls", CLASSES[1:])
@pytest.mark.parity("A4")
def test_bad_documents_are_refused_by_name(pairs, cls, name):
    changes, message = BAD[name]
    inputs = {key: value for key, value in {**CONTEXTS, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        jm.generate(pairs[cls].model, pairs[cls].params, **inputs, max_length=8)
    with pytest.raises(ValueError, match="doc|context"):
        pairs[cls].model.apply({"params": pairs[cls].params}, **inputs, decoder_input_ids=LABELS)


@pytest.mark.parity("A11", "A12")
def test_what_cannot_be_done_is_refused_by_name(pairs):
    token, sequence = pairs["RagTokenForGeneration"], pairs["RagSequenceForGeneration"]
    with pytest.raises(ValueError, match="no attentions or hidden states"):
        jm.generate(token.model, token.params, **CONTEXTS, max_length=8, output_attentions=True)
    with pytest.raises(ValueError, match="cannot stream"):
        jm.generate(sequence.model, sequence.params, **CONTEXTS, max_length=8, streamer=print)
    with pytest.raises(ValueError, match="different candidates"):
        jm.generate(sequence.model, sequence.params, **CONTEXTS, max_length=8, num_return_sequences=9)


@pytest.mark.parity("C7", "C8")
def test_heads_and_vocabularies_are_those_of_the_parts(pairs):
    both = pairs["RagModel"]
    with pytest.raises(ValueError, match="RAG has no attention heads of its own; prune those of its question encoder"):
        jm.prune_heads(both.model, both.params, {0: [1]})
    with pytest.raises(ValueError, match=r"RagModel has vocabularies of \[.*67\] tokens, from the configs"):
        jm.resize_token_embeddings(both.model, both.params, 80, key=jax.random.key(0))
    encoder = both.model.question_encoder_model
    pruned, _ = jm.prune_heads(encoder, both.params["question_encoder"], {0: [1]})
    assert dict(pruned.config.pruned_heads) == {0: (1,)}


@pytest.mark.parity("A3")
def test_a_rag_from_the_checkpoints_of_its_parts(pairs, tmp_path):
    both = pairs["RagTokenForGeneration"]
    both.reference.question_encoder.save_pretrained(tmp_path / "question")
    both.reference.generator.save_pretrained(tmp_path / "generator")
    options = {
        "n_docs": DOCUMENTS,
        "generator_dropout" if "Bart" in str(type(both.reference.generator)) else "generator_dropout_rate": 0.2,
    }
    model, params = jm.load_rag(tmp_path / "question", tmp_path / "generator", cls="RagTokenForGeneration", **options)
    jax.tree.map(np.testing.assert_array_equal, params, both.params)
    assert 0.2 in (
        model.config.generator.to_dict().get("dropout"),
        model.config.generator.to_dict().get("dropout_rate"),
    )
    got = model.apply({"params": params}, **CONTEXTS, decoder_input_ids=LABELS)
    close(got.logits, reference_output(both, **CONTEXTS, decoder_input_ids=LABELS).logits)
    bare, parts = jm.load_rag(tmp_path / "question", tmp_path / "generator", cls=jm.RagModel, n_docs=DOCUMENTS)
    assert set(parts) == {"question_encoder", "generator"} and type(bare) is jm.RagModel
    with pytest.raises(TypeError, match="cls must be RagModel"):
        jm.load_rag(tmp_path / "question", tmp_path / "generator", cls=jm.GPT2Model)
