"""RagRetriever compared with the reference's on the same tokenizers and passages (docs/parity.md, A14 to A16)."""

import numpy as np
import pytest
import transformers
from transformers.models.rag.retrieval_rag import Index

import jaxmodels as jm

WIDTH, N_DOCS = 8, 3
PASSAGES = [
    ('"Paris"', "Paris is the  capital of France. " * 8),
    ('A "quoted" word', "This passage has a    row of spaces, and 1,234 numbers."),
    ('""', ""),
    ("", "The river Tiber runs through Rome."),
    ('Rome"', "Rome was not built in a day."),
]
QUESTIONS = ["What is the capital of France?", "which river runs", "a"]


class ListIndex(Index):
    """An exact index with the reference's interface, without the package `datasets`."""

    def __init__(self, vectors: np.ndarray):
        self.vectors = vectors

    def get_top_docs(self, question_hidden_states, n_docs=5):
        ids = np.argsort(-(question_hidden_states @ self.vectors.T), axis=1)[:, :n_docs]
        return ids, self.vectors[ids]

    def get_doc_dicts(self, doc_ids):
        return [{"title": [PASSAGES[i][0] for i in row], "text": [PASSAGES[i][1] for i in row]} for row in doc_ids]


class IncompleteIndex(jm.DenseIndex):
    """Finds one document less than requested."""

    def search(self, queries, k):
        scores, ids = super().search(queries, k)
        return scores, ids.at[:, -1].set(-1)


@pytest.fixture(scope="module")
def tokenizers(cases_dir):
    """Folders of the tokenizers of question encoder and generator."""
    return [cases_dir / "rag_retriever" / f"{part}_tokenizer" for part in ("question_encoder", "generator")]


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(len(PASSAGES), WIDTH)).astype(np.float32)


@pytest.fixture
def both(tokenizers, vectors, cases_dir):
    changes = {"n_docs": N_DOCS, "max_combined_length": 40, "retrieval_batch_size": 2, "retrieval_vector_size": WIDTH}
    folder = cases_dir / "rag_retriever" / "checkpoint"
    actual = jm.RagRetriever(
        jm.RagConfig.from_dict({**transformers.RagConfig.from_pretrained(folder).to_dict(), **changes}),
        *(jm.load_tokenizer(path) for path in tokenizers),
        index=jm.DenseIndex(vectors),
        passages=PASSAGES,
    )
    # Its __init__ requires the package `datasets`, for indexes that are not used here.
    reference = object.__new__(transformers.RagRetriever)
    reference.config = transformers.RagConfig.from_pretrained(folder, **changes)
    reference.question_encoder_tokenizer, reference.generator_tokenizer = (
        transformers.AutoTokenizer.from_pretrained(path) for path in tokenizers
    )
    reference.index, reference.n_docs, reference.batch_size = ListIndex(vectors), N_DOCS, 2
    reference.ctx_encoder_tokenizer, reference.return_tokenized_docs = None, False
    return actual, reference


def call(retriever, **options):
    """Retrieves for three questions: one more than retrieval_batch_size."""
    questions = retriever.question_encoder_tokenizer(QUESTIONS, padding=True)["input_ids"]
    states = np.random.default_rng(1).normal(size=(len(QUESTIONS), WIDTH)).astype(np.float32)
    return retriever(questions, states, **options)


@pytest.mark.parametrize("options", [{}, {"prefix": "answer: "}, {"n_docs": 5}, {"n_docs": 1}], ids=str)
@pytest.mark.parity("A15", "A16")
def test_a_call_returns_what_the_reference_returns(both, options):
    actual = call(both[0], **options)
    expected = call(both[1], **options, return_tensors="np")
    assert set(actual) == set(expected)
    np.testing.assert_allclose(actual["retrieved_doc_embeds"], expected.pop("retrieved_doc_embeds"), rtol=1e-6)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    assert actual["context_input_ids"].shape == (len(QUESTIONS) * options.get("n_docs", N_DOCS), 40)


@pytest.mark.parity("A16")
def test_documents_for_a_context_encoder_match_the_reference_up_to_padding(both):
    retriever, reference = both
    retriever.set_ctx_encoder_tokenizer(retriever.question_encoder_tokenizer, length=120)
    reference.set_ctx_encoder_tokenizer(reference.question_encoder_tokenizer)
    actual, expected = call(retriever), call(reference, return_tensors="np")
    assert set(actual) == set(expected)
    for name in ("tokenized_doc_ids", "tokenized_doc_attention_mask"):
        width = expected[name].shape[1]
        np.testing.assert_array_equal(actual[name][:, :width], expected[name], err_msg=name)
        assert actual[name].shape[1] == 120 and not actual["tokenized_doc_attention_mask"][:, width:].any()


@pytest.mark.parity("A14")
def test_a_missing_hit_is_an_empty_document_with_a_zero_vector(both, vectors):
    """faiss reports them with the id -1 if an approximate search finds too few."""
    retriever, _ = both
    retriever.index = IncompleteIndex(vectors)
    embeddings, ids, documents = retriever.retrieve(vectors[:2], N_DOCS)
    np.testing.assert_array_equal(ids[:, -1], -1)
    assert not embeddings[:, -1].any() and embeddings[:, :-1].any(axis=-1).all()
    assert [row[-1] for row in documents] == [("", ""), ("", "")]
