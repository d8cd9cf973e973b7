"""The RAG experiment: scores, inputs of the models, the joint training step and its index, and the complete run."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from support import retrieval_samples as samples
from support.experiment_runs import curve, finish, keys, kill_when, logged, starter

import jaxmodels as jm
from experiments import rag_qa
from experiments.configs import rag_nq, rag_nq_bart, rag_smoke, rag_squad
from experiments.data import retrieval
from experiments.optimizer import make_optimizer
from experiments.rag import models, prepare, tables
from experiments.rag.answers import f1, normalize_answer, scores
from experiments.rag.joint import retrieve_passages
from experiments.rag_qa import Experiment
from jaxmodels.__main__ import main
from jaxmodels.training import init_state, place

KEY = jax.random.key(0)
LONG = 1500  # seconds that a whole run may take


def config(file, **more) -> FrozenConfigDict:
    found = rag_smoke.get_config()
    found.data.path = str(file)
    # Without dropout, so that losses are comparable.
    found.generator.model.dropout = 0.0
    found.model.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    found.update(more)
    return FrozenConfigDict(found)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return samples.write(tmp_path_factory.mktemp("squad"), samples.squad(6))


@pytest.fixture(scope="module", params=[("token", 1), pytest.param(("sequence", 8), marks=pytest.mark.slow)], ids=str)
def experiment(request, file, tmp_path_factory):
    """Experiments with both likelihoods, on one device and on eight."""
    marginal, devices = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jm.sharding, "make_mesh", partial(jm.sharding.make_mesh, devices=jax.devices()[:devices]))
        return Experiment(config(file, marginal=marginal), tmp_path_factory.mktemp("run"))


@pytest.mark.full_data
def test_scores_of_a_published_system(full_data_dir):
    """A BERT large ensemble of 2018 has 86.2 and 92.2 on the SQuAD leaderboard."""
    articles = json.loads((full_data_dir / "qa/squad/dev-v1.1.rebuilt.json").read_text())["data"]
    right = {q["id"]: [a["text"] for a in q["answers"]] for d in articles for p in d["paragraphs"] for q in p["qas"]}
    given = json.loads((full_data_dir / "qa/squad/predictions-bert-ensemble.json").read_text())
    found = scores([given[name] for name in right], list(right.values()))
    assert {name: round(100 * value, 2) for name, value in found.items()} == {"exact match": 86.21, "F1": 92.20}


def test_scores_by_hand():
    assert normalize_answer("  The cat, a   dog & an 'ox'!") == "cat dog ox"
    assert f1("the red red house", "red house of brick") == pytest.approx(2 * 2 / (3 + 4))
    assert f1("the", "an") == 0.0, "nothing is left of either, and they share nothing"
    assert scores(["A cat", "dog"], [["a hat", "The Cat!"], ["big dog", "ox"]]) == {
        "exact match": 0.5,
        "F1": pytest.approx((1 + 2 / 3) / 2),
    }


def natural_questions_are_read(folder, *, dev, train, blank):
    """dev, train: numbers of questions and passages. blank: number of training questions without an answer."""
    found = retrieval.read_natural_questions(folder / "qa/nq_gold/dev.jsonl")
    assert (len(found.questions), len(found.passages)) == dev
    first = found.questions[0]
    assert first.text == "who got the first nobel prize in physics" and "Wilhelm Conrad Röntgen" in first.answers
    assert found.passages[first.positives[0]].title == "List of Nobel laureates in Physics" == first.group
    found = retrieval.read_natural_questions(folder / "qa/nq_gold/train.jsonl")
    assert (len(found.questions), len(found.passages)) == train
    assert sum(not question.answers for question in found.questions) == blank


def test_natural_questions_test_data(data_dir):
    natural_questions_are_read(data_dir, dev=(48, 48), train=(26, 26), blank=2)


@pytest.mark.full_data
def test_natural_questions_full_files(full_data_dir):
    natural_questions_are_read(full_data_dir, dev=(1204, 1196), train=(7167, 6854), blank=20)


def test_invalid_natural_questions_line_is_reported(tmp_path):
    file = tmp_path / "bad.jsonl"
    for line, message in (
        ("{", "line 1: not JSON"),
        (
            '{"question": "q", "title": "t", "passage": "p", "answers": []}',
            "'answers' is a non-empty list of strings",
        ),
        ('{"question": "q", "title": "t", "answers": ["a"]}', "no 'passage'"),
    ):
        file.write_text(line)
        with pytest.raises(ValueError, match=message):
            retrieval.read_natural_questions(file)


def test_rag_loss_with_one_document_matches_the_reader(experiment):
    """The reader is trained on the same contexts, start tokens and labels as the generator in RAG."""
    questions, sizes = experiment.data.train[:4], experiment.sizes
    gold_examples = tables.with_gold_passage(experiment.retriever, questions, **sizes)
    table = tables.rag_examples(experiment.retriever, questions, **sizes)
    model = experiment.model.clone(context_encoder_training=False)
    params = {"rag": {**experiment.encoders, "generator": experiment.first}}
    gold = np.array([question.positives[0] for question in questions])
    texts = [question.text for question in questions]
    _, ready = experiment.retriever.ask(texts, padding="max_length", truncation=True, max_length=sizes["question"])
    contexts, lengths = ready._combine(ready.passages[gold], ready.questions)
    np.testing.assert_array_equal(contexts, gold_examples.ids)
    np.testing.assert_array_equal(lengths, gold_examples.lengths)
    for row, question in zip(table.labels, questions, strict=True):
        assert row[0] == experiment.generator.config.decoder_start_token_id
        answer = experiment.data.generator.decode(row, skip_special_tokens=True).strip()
        assert answer and question.answers[0].startswith(answer), "the answer may be truncated"
    loss = jax.jit(
        lambda: (
            model.apply(
                {"params": params},
                context_input_ids=gold_examples.ids,
                context_attention_mask=gold_examples.mask,
                doc_scores=np.zeros((4, 1), np.float32),
                labels=table.labels,
                n_docs=1,
            ).loss
        )
    )()
    reader = jax.jit(lambda **batch: experiment.generator.apply({"params": experiment.first}, **batch).loss)
    alone = [reader(**gold_examples.batch(np.array([i]), gold_examples.ids.shape[1])) for i in range(4)]
    np.testing.assert_allclose(loss, np.array(alone) * (gold_examples.labels != -100).sum(axis=1), rtol=1e-4)


def joint_of(experiment, every=2):
    optimizer, _ = make_optimizer(rag_qa._part(experiment.config, "joint"))
    return experiment._joint(optimizer, every), optimizer


def vectors_of(experiment, params, texts) -> np.ndarray:
    """Encode one passage at a time with a separate DPR encoder."""
    encoder = jm.DPRContextEncoder(experiment.model.config.question_encoder)
    tokenizer, length = experiment.data.encoder, experiment.config.lengths.passage
    rows = [tokenizer([title], [text], truncation=True, max_length=length) for title, text in texts]
    own = {"params": params["rag"]["ctx_encoder"]}
    apply = jax.jit(lambda ids: encoder.apply(own, ids).pooler_output)
    return np.concatenate([apply(row["input_ids"]) for row in rows])


def test_index_is_refreshed_in_place_and_all_models_are_updated(experiment):
    """Run five steps, then the last one again as after resuming from a checkpoint of the fourth."""
    joint, optimizer = joint_of(experiment)
    params = experiment.join(experiment.first)
    before = jax.tree.map(np.asarray, params)
    some = experiment.data.passages[:5]
    table = tables.rag_examples(experiment.retriever, experiment.data.train, **experiment.sizes)
    batch = place(table.take(np.arange(8)), **experiment.sharding)
    state, losses, indices = init_state(optimizer, params), [], []
    for n in range(5):
        kept, old = jax.tree.map(np.asarray, state), joint.retriever.index.values
        state, metrics = joint(state, batch, KEY)
        losses.append(float(metrics["loss"]))
        indices.append(np.asarray(joint.retriever.index.vectors(np.arange(5))))
        assert old.is_deleted() == (n % 2 == 0), "refreshed into the old rows, every second step"
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(indices[0], vectors_of(experiment, before, some), atol=1e-5)
    np.testing.assert_array_equal(indices[0], indices[1])
    assert np.abs(indices[2] - indices[1]).max() > 1e-5, "the context encoder has moved"
    for part, changed in before["rag"].items():
        now = jax.tree.map(np.asarray, state.params["rag"][part])
        assert max(jax.tree.leaves(jax.tree.map(lambda x, y: np.abs(x - y).max(), changed, now))) > 1e-5, part

    joint._steps, joint.retriever = None, joint.retriever.with_index(experiment._empty_index())
    _, metrics = joint(jax.tree.map(jax.numpy.asarray, kept), batch, KEY)
    assert float(metrics["loss"]) == losses[-1]
    np.testing.assert_array_equal(joint.retriever.index.vectors(np.arange(5)), indices[-1])


def test_retrieval_matches_exhaustive_search(experiment):
    joint, _ = joint_of(experiment)
    params = {"rag": {**experiment.encoders, "generator": experiment.first}}
    joint.refresh(params)
    questions = experiment.data.train[:5]
    table = tables.rag_examples(experiment.retriever, questions, **experiment.sizes)
    found = retrieve_passages(experiment.model, params, joint.retriever, table, 100, batch_size=3)
    count = len(experiment.data.passages)
    assert found.shape == (5, count) and all(sorted(row) == list(range(count)) for row in found.tolist())
    own = {"params": experiment.encoders["question_encoder"]}
    encoder = experiment.model.question_encoder_model
    asked = jax.jit(encoder.apply)(own, table.input_ids, attention_mask=table.attention_mask).pooler_output
    scores = np.asarray(asked) @ vectors_of(experiment, params, experiment.data.passages).T
    ranked = np.take_along_axis(scores, found, axis=1)
    assert (np.diff(ranked, axis=1) <= 1e-4).all()


def test_encoders_are_loaded_from_a_retrieval_run(experiment, tmp_path):
    facts = experiment.model.config.question_encoder
    for name, cls, own in (
        (models.CONTEXT, jm.DPRContextEncoder, experiment.encoders["ctx_encoder"]),
        (models.QUESTION, jm.DPRQuestionEncoder, experiment.encoders["question_encoder"]),
    ):
        jm.save(tmp_path / name, cls(facts), own)
        experiment.data.encoder.save_pretrained(tmp_path / name)
    changed = config(experiment.config.data.path, start=str(tmp_path))
    taken, params = models.load_encoders(changed, experiment.data.encoder, experiment.sharding)
    assert taken.hidden_size == facts.hidden_size
    for part in ("ctx_encoder", "question_encoder"):
        jax.tree.map(np.testing.assert_array_equal, params[part], experiment.encoders[part])
    tokenizer = prepare._encoder_tokenizer(changed, [], tmp_path / "unused")
    assert tokenizer.get_vocab() == experiment.data.encoder.get_vocab()


def test_generator_is_loaded_from_a_checkpoint(experiment, tmp_path):
    jm.save(tmp_path / "bart", experiment.generator, experiment.first)
    experiment.data.generator.save_pretrained(tmp_path / "bart")
    changed = rag_smoke.get_config()
    changed.generator.start, changed.generator.model = str(tmp_path / "bart"), ConfigDict({"dropout": 0.2})
    tokenizer = prepare._generator_tokenizer(changed, [], tmp_path / "unused")
    model, params = models.load_generator(changed, tokenizer, experiment.sharding)
    assert model.config.dropout == 0.2 and model.config.d_model == 16
    jax.tree.map(np.testing.assert_array_equal, params, experiment.first)
    assert tokenizer.get_vocab() == experiment.data.generator.get_vocab()


def test_a_table_has_columns_of_any_name(tmp_path):
    """As JSON lines with titles and lists, and as CSV with single answers."""
    rows = [("who?", "A", "he did", ["he", "him"]), ("what?", "A", "he did", ["it"]), ("where?", "B", "here", ["here"])]
    lines = [{"q": q, "heading": t, "body": p, "answers": a} for q, t, p, a in rows]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    columns = {"question": "q", "passage": "heading,body", "answers": "answers"}
    found = prepare.read(config(tmp_path / "a.jsonl", data={"kind": "table"}, columns=columns))
    assert found.passages == [("A", "he did"), ("B", "here")]
    assert found.questions[0] == ("A", "who?", ("he", "him"), (0,), ()) and found.questions[1].group == "A"
    (tmp_path / "b.csv").write_text("question,passage,answers\nwho?,he did,he\n")
    found = prepare.read(config(tmp_path / "b.csv", data={"kind": "table"}))
    assert found.questions == [("he did", "who?", ("he",), (0,), ())]
    (tmp_path / "c.csv").write_text("question,passage,answers\nwho?,he did,\n")
    with pytest.raises(ValueError, match="line 2: answers is a text or a list of texts, at least one, got ''"):
        prepare.read(config(tmp_path / "c.csv", data={"kind": "table"}))


def test_invalid_configs_are_rejected(file, tmp_path):
    with pytest.raises(ValueError, match="data.kind is one of table, squad, nq, dpr; got 'csv'"):
        prepare.read(config(file, data={"kind": "csv", "path": ""}))
    with pytest.raises(FileNotFoundError, match=r"no file at data.path='/no'.*JSON lines of question"):
        prepare.read(config(file, data={"kind": "nq", "path": "/no"}))
    with pytest.raises(ValueError, match=r"held_out=0.0 leaves 36 training and 0 test questions with"):
        prepare.prepare(config(file, data={"kind": "squad", "path": str(file), "held_out": 0.0}), tmp_path)
    with pytest.raises(ValueError, match="marginal is one of token, sequence; got 'both'"):
        models.make_rag(config(file, marginal="both"), jm.DPRConfig(), None)
    with pytest.raises(ValueError, match="in one process"):
        rag_qa.run(config(file, distributed=True), tmp_path)


def test_checkpoint_between_refreshes_is_rejected(experiment):
    between = config(experiment.config.data.path, joint={"save_every": 3})
    other = object.__new__(Experiment)
    other.config = between
    with pytest.raises(ValueError, match=r"joint.save_every=3 is no multiple of joint.refresh_every=2"):
        other.train({})


@pytest.mark.parametrize("module", [rag_smoke, rag_nq, rag_nq_bart])
def test_configs_have_the_same_keys(module):
    whole = ("changes", "mesh", "model")
    assert keys(module.get_config(), whole) == keys(rag_squad.get_config(), whole)


@pytest.fixture(scope="module")
def begin(file):
    """begin(workdir, *flags) -> a running process with piped output."""
    flags = ["--config=rag_smoke", f"--config.data.path={file}"]
    return starter("rag_qa", *flags)


@pytest.mark.slow
def test_killed_run_matches_uninterrupted_run_and_answers_questions(begin, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    output = finish(begin(whole), LONG)
    log = killed / "RAG" / "metrics.jsonl"
    assert kill_when(begin(killed), lambda: logged(log) >= 6), "the run was over before it could be killed"
    assert "resuming from the checkpoint of step 4" in finish(begin(killed), LONG)
    rows = curve(whole / "RAG")
    assert curve(killed / "RAG") == rows and [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    same = ("before.json", "answers.jsonl", "model/model.safetensors", "context_encoder/model.safetensors")
    for name in (*same, "index/dense_index.json", "index/embeddings-00001.safetensors", "index/passages.arrow"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    result = json.loads((whole / "result.json").read_text())
    assert set(result["scores"]) == {
        "closed book", "own passage", "RAG before training", "RAG", "RAG's generator, own passage",
    }  # fmt: skip
    assert set(result["accuracy"]) == {"BM25", "RAG before training", "RAG"} and (whole / "curves.png").is_file()
    for shown in ("exact match", "top-20", "own passage", "jaxmodels ask"):
        assert shown in output
    assert "this run is complete" in finish(begin(whole), LONG)
    asked = ["ask", "--model", str(whole / "model"), "--index", str(whole / "index")]
    assert main([*asked, "Which river does Aldria have?"]) == 0
    assert "2. " in capsys.readouterr().out, "the index is that of the model's question encoder"
    assert main(["ask", "--model", str(whole / "model"), "--index", str(killed / "index"), "Which?"]) == 0
