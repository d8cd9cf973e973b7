"""RagRetriever and DeviceRetriever: both make the same contexts, and the latter runs in one compiled program."""

import json

import jax
import numpy as np
import pytest
from support.tiny import random_params

import jaxmodels as jm
from jaxmodels.generation.loop import num_compiled

PASSAGES, WIDTH, LENGTH = 60, 32, 96


@pytest.fixture(scope="module")
def squad(data_dir):
    """Real passages, and questions about them."""
    articles = json.loads((data_dir / "qa/squad/dev-v1.1.rebuilt.json").read_text())["data"]
    pairs = [(a["title"].replace("_", " "), p["context"]) for a in articles for p in a["paragraphs"]]
    questions = [qa["question"] for a in articles for p in a["paragraphs"][:1] for qa in p["qas"][:1]]
    # Edge cases: quotes around a title, double spaces, empty passages.
    return [('"Quoted"', "Two  spaces   here."), ("", ""), *pairs][:PASSAGES], questions[:7]


@pytest.fixture(scope="module", params=["bart", pytest.param("t5", marks=pytest.mark.slow)])
def retriever(request, data_dir, squad):
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
def token_model(retriever):
    model = jm.RagTokenForGeneration(retriever.config)
    return model, random_params(model)


@pytest.mark.parity("A15")
def test_a_context_has_the_text_of_the_reference():
    """Removes quotes around the title and double spaces. The reference does so in an inner function, hence by hand."""
    generator = jm.T5Config(prefix="answer:  ")
    config = jm.RagConfig.from_question_encoder_generator_configs(jm.DPRConfig(), generator)
    retriever = jm.RagRetriever(config, None, None, index=jm.DenseIndex(np.eye(1)), passages=[('"A "b""', "c  d   e")])
    found = [retriever.passage_text(retriever.document(0), prefix, "q?") for prefix in (None, "")]
    assert found == ['answer: A "b" / c d  e // q?', 'A "b" / c d  e // q?']


@pytest.mark.parity("A15", "A16")
def test_contexts_on_the_device_match_those_of_the_host(retriever, squad):
    device = jm.DeviceRetriever.of(retriever, batch=16)
    encoded, ready = device.ask(squad[1])
    vectors = np.random.default_rng(1).normal(size=(len(squad[1]), WIDTH)).astype(np.float32)
    found = jax.jit(lambda retriever, v: retriever.find(None, v, 4))(ready, vectors)
    expected = retriever(encoded["input_ids"], vectors, n_docs=4)
    np.testing.assert_array_equal(found.ids, expected["doc_ids"])
    np.testing.assert_allclose(found.embeddings, expected["retrieved_doc_embeds"], rtol=1e-6)
    np.testing.assert_array_equal(found.context_attention_mask, expected["context_attention_mask"])
    np.testing.assert_array_equal(found.context_input_ids, expected["context_input_ids"])
    lengths = expected["context_attention_mask"].sum(axis=1)
    assert (lengths == LENGTH).any() and (lengths < LENGTH).any(), "some are truncated, some are padded"


@pytest.mark.parity("A15")
def test_every_passage_gives_the_context_of_the_host(retriever, squad):
    device = jm.DeviceRetriever.of(retriever)
    question = squad[1][0]
    encoded, ready = device.ask([question])
    passages, _ = ready._combine(ready.passages, np.repeat(np.asarray(ready.questions), PASSAGES, axis=0))
    strings = retriever.question_encoder_tokenizer.batch_decode(encoded["input_ids"], skip_special_tokens=True)
    documents = [[retriever.document(i) for i in range(PASSAGES)]]
    expected, _ = retriever.postprocess_docs(documents, strings, None, PASSAGES)
    np.testing.assert_array_equal(passages, expected)


def test_one_compiled_program_generates_the_same_as_with_the_host(retriever, token_model, squad):
    model, params = token_model
    encoded, ready = jm.DeviceRetriever.of(retriever).ask(squad[1][:3])
    inputs = {"attention_mask": encoded["attention_mask"], "max_new_tokens": 6, "num_beams": 2}
    device = jm.generate(model, params, encoded["input_ids"], retriever=ready, **inputs)
    host = jm.generate(model, params, encoded["input_ids"], retriever=retriever, **inputs)
    np.testing.assert_array_equal(device.sequences, host.sequences)
    np.testing.assert_allclose(device.sequences_scores, host.sequences_scores, rtol=1e-4)


@pytest.mark.parametrize("name", ["RagTokenForGeneration", "RagSequenceForGeneration"])
@pytest.mark.parity("N16")
def test_the_retriever_can_be_an_argument_of_the_caller_s_program(name, retriever, squad):
    model = getattr(jm, name)(retriever.config)
    params = random_params(model)
    encoded, ready = jm.DeviceRetriever.of(retriever).ask(squad[1][:2])

    def call(params, encoded, retriever):
        return jm.generate(model, params, **encoded, retriever=retriever, max_new_tokens=4, num_beams=2)

    inside, outside = jax.jit(call)(params, dict(encoded), ready), call(params, encoded, ready)
    np.testing.assert_array_equal(inside.sequences[:, : outside.sequences.shape[1]], outside.sequences)
    np.testing.assert_allclose(inside.sequences_scores, outside.sequences_scores, rtol=1e-4)
    with pytest.raises(ValueError, match="a retriever on the host cannot search; pass a DeviceRetriever"):
        jax.jit(lambda params: call(params, encoded, retriever))(params)


def test_questions_of_other_lengths_do_not_recompile(retriever, token_model):
    model, params = token_model
    device, compiled = jm.DeviceRetriever.of(retriever), []
    for question in ("who wrote it?", "who wrote the play?"):
        encoded, ready = device.ask([question], padding="max_length", max_length=16)
        jm.generate(model, params, **encoded, retriever=ready, max_new_tokens=3)
        compiled.append(num_compiled())
    assert compiled[0] == compiled[1]


@pytest.mark.parity("A4", "A7")
def test_retrievers_and_explicit_contexts_agree(retriever, token_model, squad):
    model, params = token_model
    encoded, ready = jm.DeviceRetriever.of(retriever).ask(squad[1][:2])
    options = {"attention_mask": encoded["attention_mask"], "labels": np.full((2, 4), 5), "output_retrieved": True}

    def call(retriever):
        return model.apply({"params": params}, encoded["input_ids"], retriever=retriever, **options)

    outs = [call(retriever), jax.jit(lambda: call(retriever))(), jax.jit(call)(ready)]
    contexts = {"context_input_ids": outs[0].context_input_ids, "doc_scores": outs[0].doc_scores}
    contexts |= {"context_attention_mask": outs[0].context_attention_mask, "labels": options["labels"]}
    outs.append(model.apply({"params": params}, **contexts))
    for out in outs:
        np.testing.assert_allclose(out.loss, outs[0].loss, rtol=1e-4)
        np.testing.assert_allclose(out.doc_scores, outs[0].doc_scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outs[2].retrieved_doc_ids, outs[0].retrieved_doc_ids)
    assert outs[0].question_encoder_last_hidden_state.shape == (2, WIDTH)


@pytest.mark.parity("A7")
def test_output_retrieved_returns_the_documents(retriever, token_model, squad):
    model, params = token_model
    encoded = retriever.question_encoder_tokenizer(squad[1][:2], padding=True)
    found = {"retrieved_doc_embeds", "retrieved_doc_ids", "context_input_ids", "context_attention_mask"}
    inputs = {"attention_mask": encoded["attention_mask"], "decoder_input_ids": np.full((2, 4), 5)}
    options = {**inputs, "retriever": retriever, "output_hidden_states": True}
    plain = model.apply({"params": params}, encoded["input_ids"], **options)
    assert not found & set(plain.keys())
    assert len(plain.generator_dec_hidden_states) == 2, "the reference requests none from its generator"
    extended = model.apply({"params": params}, encoded["input_ids"], **options, output_retrieved=True)
    assert set(extended.keys()) - set(plain.keys()) == found
    always = model.clone(config=model.config.replace(output_retrieved=True))
    np.testing.assert_array_equal(
        always.apply({"params": params}, encoded["input_ids"], **options).retrieved_doc_ids, extended.retrieved_doc_ids
    )


@pytest.mark.parity("A5", "A16")
def test_the_marginal_likelihood_trains_both_encoders(retriever, squad):
    host = jm.RagRetriever(
        retriever.config, retriever.question_encoder_tokenizer, retriever.generator_tokenizer,
        index=retriever.index, passages=retriever.passages,
    )  # fmt: skip
    model = jm.RagSequenceForGeneration(retriever.config, context_encoder_training=True)
    params = random_params(model)
    encoded = retriever.question_encoder_tokenizer(squad[1][:2], padding=True)
    inputs = {"attention_mask": encoded["attention_mask"], "labels": np.full((2, 4), 5), "reduce_loss": True}

    def loss(params):
        return model.apply({"params": params}, encoded["input_ids"], retriever=host, **inputs).loss

    with pytest.raises(ValueError, match="set_ctx_encoder_tokenizer"):
        loss(params)
    with pytest.raises(ValueError, match="before DeviceRetriever.of"):
        jm.DeviceRetriever.of(host).ask(squad[1])[1].find(None, np.zeros((2, WIDTH)), 2, tokenized=True)
    host.set_ctx_encoder_tokenizer(retriever.question_encoder_tokenizer, length=40)
    gradients = jax.grad(loss)(params)["rag"]
    for part in ("question_encoder", "ctx_encoder", "generator"):
        assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[part])), part
    # On the device the same documents are tokenized in advance.
    vectors = np.random.default_rng(1).normal(size=(2, WIDTH)).astype(np.float32)
    ready = jm.DeviceRetriever.of(host, batch=16).ask(squad[1][:2])[1]
    found = ready.find(None, vectors, 3, tokenized=True)
    expected = host(encoded["input_ids"], vectors, n_docs=3)
    width = found.document_ids.shape[1]
    assert expected["tokenized_doc_attention_mask"][:, width:].sum() == 0
    np.testing.assert_array_equal(found.document_mask, expected["tokenized_doc_attention_mask"][:, :width])
    np.testing.assert_array_equal(found.document_ids, expected["tokenized_doc_ids"][:, :width])
    # A device retriever does not change with the retriever that it was created from.
    host.set_ctx_encoder_tokenizer(retriever.generator_tokenizer)
    np.testing.assert_array_equal(ready.find(None, vectors, 3, tokenized=True).document_ids, found.document_ids)


def test_invalid_arguments_raise(retriever, squad):
    device = jm.DeviceRetriever.of(retriever)
    vectors = np.zeros((2, WIDTH), np.float32)
    with pytest.raises(ValueError, match="ask"):
        device.find(None, vectors, 2)
    with pytest.raises(ValueError, match=f"the index has {PASSAGES} rows, got 1 passages"):
        jm.RagRetriever(
            retriever.config, retriever.question_encoder_tokenizer, retriever.generator_tokenizer,
            index=retriever.index, passages=[("a", "b")],
        )  # fmt: skip
    with pytest.raises(ValueError, match="2 questions and 1 vectors"):
        retriever(np.zeros((2, 4), int), vectors[:1])
    host = jm.RagRetriever(
        retriever.config.replace(doc_sep="//"), retriever.question_encoder_tokenizer, retriever.generator_tokenizer,
        index=retriever.index, passages=retriever.passages,
    )  # fmt: skip
    with pytest.raises(ValueError, match="doc_sep must end with a space .*'//'"):
        jm.DeviceRetriever.of(host)
