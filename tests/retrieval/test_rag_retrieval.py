"""Documents for RAG: the host's tokenizers and the device's ids make the same contexts, and one program answers."""

import json

import jax
import numpy as np
import pytest
from support.tiny import random_params

import jaxmodels as jm
from jaxmodels.generation import recompiles

PASSAGES, WIDTH, LENGTH = 60, 32, 96


@pytest.fixture(scope="module")
def squad(data_dir):
    """Titles and texts of real passages, and questions about them."""
    articles = json.loads((data_dir / "qa/squad/dev-v1.1.rebuilt.json").read_text())["data"]
    pairs = [(a["title"].replace("_", " "), p["context"]) for a in articles for p in a["paragraphs"]]
    questions = [qa["question"] for a in articles for p in a["paragraphs"][:1] for qa in p["qas"][:1]]
    # What a context has to survive: quotes around a title, double spaces, no text at all.
    return [('"Quoted"', "Two  spaces   here."), ("", ""), *pairs][:PASSAGES], questions[:7]


@pytest.fixture(scope="module", params=["bart", pytest.param("t5", marks=pytest.mark.slow)])
def parts(request, data_dir, squad):
    """A tiny RAG with real vocabularies, and its retriever on the host."""
    folders = {name: data_dir / "tokenizers" / name for name in ("bert-base-uncased", "roberta-base", "t5")}
    question = jm.load_tokenizer(folders["bert-base-uncased"], cls=jm.DPRQuestionEncoderTokenizer)
    encoder = jm.DPRConfig(
        vocab_size=len(question), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
    )
    if request.param == "bart":
        generates = jm.load_tokenizer(folders["roberta-base"], cls=jm.BartTokenizer)
        sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        generator = jm.BartConfig(vocab_size=len(generates), d_model=16, max_position_embeddings=128, **sizes, **heads)
    else:
        generates = jm.load_tokenizer(folders["t5"], cls=jm.T5Tokenizer)
        generator = jm.T5Config(
            vocab_size=len(generates), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            decoder_start_token_id=0, prefix="answer: ",
        )  # fmt: skip
    config = jm.RagConfig.from_question_encoder_generator_configs(
        encoder, generator, n_docs=3, max_combined_length=LENGTH, retrieval_vector_size=WIDTH, retrieval_batch_size=2
    )
    vectors = np.random.default_rng(0).normal(size=(PASSAGES, WIDTH)).astype(np.float32)
    index = jm.DenseIndex(vectors)
    return jm.RagRetriever(config, question, generates, index=index, passages=squad[0])


@pytest.fixture(scope="module")
def token_model(parts):
    model = jm.RagTokenForGeneration(parts.config)
    return model, random_params(model)


@pytest.mark.parity("A15")
def test_a_context_is_the_text_that_the_reference_puts_together():
    """No quotes around the title, and one space of two; its text is made in an inner function, so by hand here."""
    generator = jm.T5Config(prefix="answer:  ")
    config = jm.RagConfig.from_question_encoder_generator_configs(jm.DPRConfig(), generator)
    retriever = jm.RagRetriever(config, None, None, index=jm.DenseIndex(np.eye(1)), passages=[('"A "b""', "c  d   e")])
    found = [retriever.passage_text(retriever.document(0), prefix, "q?") for prefix in (None, "")]
    assert found == ['answer: A "b" / c d  e // q?', 'A "b" / c d  e // q?']


@pytest.mark.parity("A15", "A16")
def test_contexts_on_the_device_are_those_of_the_host(parts, squad):
    device = jm.DeviceRetriever.of(parts, batch=16)
    encoded, ready = device.ask(squad[1])
    vectors = np.random.default_rng(1).normal(size=(len(squad[1]), WIDTH)).astype(np.float32)
    found = jax.jit(lambda retriever, v: retriever.find(None, v, 4))(ready, vectors)
    expected = parts(encoded["input_ids"], vectors, n_docs=4)
    np.testing.assert_array_equal(found.ids, expected["doc_ids"])
    np.testing.assert_allclose(found.embeddings, expected["retrieved_doc_embeds"], rtol=1e-6)
    np.testing.assert_array_equal(found.context_attention_mask, expected["context_attention_mask"])
    np.testing.assert_array_equal(found.context_input_ids, expected["context_input_ids"])
    lengths = expected["context_attention_mask"].sum(axis=1)
    assert (lengths == LENGTH).any() and (lengths < LENGTH).any(), "some are cut, some are padded"


@pytest.mark.parity("A15")
def test_every_passage_is_put_together_as_on_the_host(parts, squad):
    """Searching for each passage's own place, whatever its vector."""
    device = jm.DeviceRetriever.of(parts)
    question = squad[1][0]
    encoded, ready = device.ask([question])
    passages, _ = ready._together(ready.passages, np.repeat(np.asarray(ready.questions), PASSAGES, axis=0))
    strings = parts.question_encoder_tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True)
    documents = [[parts.document(i) for i in range(PASSAGES)]]
    expected, _ = parts.postprocess_docs(documents, strings, None, PASSAGES)
    np.testing.assert_array_equal(passages, expected)


def test_one_compiled_program_answers_as_the_route_through_the_host(parts, token_model, squad):
    model, params = token_model
    encoded, ready = jm.DeviceRetriever.of(parts).ask(squad[1][:3])
    inputs = {"attention_mask": encoded["attention_mask"], "max_new_tokens": 6, "num_beams": 2}
    device = jm.generate(model, params, encoded["input_ids"], retriever=ready, **inputs)
    host = jm.generate(model, params, encoded["input_ids"], retriever=parts, **inputs)
    np.testing.assert_array_equal(device.sequences, host.sequences)
    np.testing.assert_allclose(device.sequences_scores, host.sequences_scores, rtol=1e-4)


def test_questions_of_other_lengths_compile_nothing(parts, token_model):
    model, params = token_model
    retriever, compiled = jm.DeviceRetriever.of(parts), []
    for question in ("who wrote it?", "who wrote the play?"):
        encoded, ready = retriever.ask([question], padding="max_length", max_length=16)
        jm.generate(model, params, **encoded, retriever=ready, max_new_tokens=3)
        compiled.append(recompiles.compiled())
    assert compiled[0] == compiled[1]


@pytest.mark.parity("A4", "A7")
def test_the_routes_of_a_call_agree(parts, token_model, squad):
    model, params = token_model
    encoded, ready = jm.DeviceRetriever.of(parts).ask(squad[1][:2])
    options = {"attention_mask": encoded["attention_mask"], "labels": np.full((2, 4), 5), "output_retrieved": True}

    def call(retriever):
        return model.apply({"params": params}, encoded["input_ids"], retriever=retriever, **options)

    outs = [call(parts), jax.jit(lambda: call(parts))(), jax.jit(call)(ready)]
    given = {"context_input_ids": outs[0].context_input_ids, "doc_scores": outs[0].doc_scores}
    given |= {"context_attention_mask": outs[0].context_attention_mask, "labels": options["labels"]}
    outs.append(model.apply({"params": params}, **given))
    for out in outs:
        np.testing.assert_allclose(out.loss, outs[0].loss, rtol=1e-4)
        np.testing.assert_allclose(out.doc_scores, outs[0].doc_scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outs[2].retrieved_doc_ids, outs[0].retrieved_doc_ids)
    assert outs[0].question_encoder_last_hidden_state.shape == (2, WIDTH)


@pytest.mark.parity("A7")
def test_what_was_found_is_returned_where_it_is_asked_for(parts, token_model, squad):
    model, params = token_model
    encoded = parts.question_encoder_tokenizer(squad[1][:2], padding=True)
    found = {"retrieved_doc_embeds", "retrieved_doc_ids", "context_input_ids", "context_attention_mask"}
    inputs = {"attention_mask": encoded["attention_mask"], "decoder_input_ids": np.full((2, 4), 5)}
    options = {**inputs, "retriever": parts, "output_hidden_states": True}
    plain = model.apply({"params": params}, encoded["input_ids"], **options)
    assert not found & set(plain.keys())
    assert len(plain.generator_dec_hidden_states) == 2, "the reference asks its generator for none"
    told = model.apply({"params": params}, encoded["input_ids"], **options, output_retrieved=True)
    assert set(told.keys()) - set(plain.keys()) == found
    always = model.clone(config=model.config.replace(output_retrieved=True))
    np.testing.assert_array_equal(
        always.apply({"params": params}, encoded["input_ids"], **options).retrieved_doc_ids, told.retrieved_doc_ids
    )


@pytest.mark.parity("A5", "A16")
def test_the_marginal_likelihood_trains_question_and_context_encoder(parts, squad):
    host = jm.RagRetriever(
        parts.config, parts.question_encoder_tokenizer, parts.generator_tokenizer,
        index=parts.index, passages=parts.passages,
    )  # fmt: skip
    model = jm.RagSequenceForGeneration(parts.config, context_encoder_training=True)
    params = random_params(model)
    encoded = parts.question_encoder_tokenizer(squad[1][:2], padding=True)
    inputs = {"attention_mask": encoded["attention_mask"], "labels": np.full((2, 4), 5), "reduce_loss": True}

    def loss(params):
        return model.apply({"params": params}, encoded["input_ids"], retriever=host, **inputs).loss

    with pytest.raises(ValueError, match="set_ctx_encoder_tokenizer"):
        loss(params)
    with pytest.raises(ValueError, match="before DeviceRetriever.of"):
        jm.DeviceRetriever.of(host).ask(squad[1])[1].find(None, np.zeros((2, WIDTH)), 2, tokenized=True)
    host.set_ctx_encoder_tokenizer(parts.question_encoder_tokenizer, length=40)
    gradients = jax.grad(loss)(params)["rag"]
    for part in ("question_encoder", "ctx_encoder", "generator"):
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[part])), part
    # On the device the documents are tokenized beforehand, and the same ones.
    vectors = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
    ready = jm.DeviceRetriever.of(host, batch=16).ask(squad[1][:2])[1]
    found = ready.find(None, vectors, 3, tokenized=True)
    expected = host(encoded["input_ids"], vectors, n_docs=3)
    width = found.document_ids.shape[1]
    assert expected["tokenized_doc_attention_mask"][:, width:].sum() == 0
    np.testing.assert_array_equal(found.document_mask, expected["tokenized_doc_attention_mask"][:, :width])
    np.testing.assert_array_equal(found.document_ids, expected["tokenized_doc_ids"][:, :width])


def test_what_does_not_fit_is_refused_by_name(parts, squad):
    device = jm.DeviceRetriever.of(parts)
    vectors = np.zeros((2, WIDTH), np.float32)
    with pytest.raises(ValueError, match="ask"):
        device.find(None, vectors, 2)
    with pytest.raises(ValueError, match=f"the index has {PASSAGES} rows, and there are 1 passages"):
        jm.RagRetriever(
            parts.config, parts.question_encoder_tokenizer, parts.generator_tokenizer,
            index=parts.index, passages=[("a", "b")],
        )  # fmt: skip
    with pytest.raises(ValueError, match="2 questions came with 1 vectors"):
        parts(np.zeros((2, 4), int), vectors[:1])
    host = jm.RagRetriever(
        parts.config.replace(doc_sep="//"), parts.question_encoder_tokenizer, parts.generator_tokenizer,
        index=parts.index, passages=parts.passages,
    )  # fmt: skip
    with pytest.raises(ValueError, match="doc_sep='//' has to end with a space"):
        jm.DeviceRetriever.of(host)
