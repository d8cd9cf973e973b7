"""Fine-tuning of DPR on tables: encoders and reader learn, their folders are read by transformers."""

import random

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from support.finetuned import finish, refused, settings, write_lines
from support.tiny_checkpoints import save_checkpoint

import jaxmodels as jm
from experiments import finetune
from experiments.data.buckets import IGNORED
from experiments.report import THIS_MODEL
from experiments.tasks.dense_retrieval import DenseRetrieval
from experiments.tasks.reader import span_likelihood_loss
from experiments.tasks.run import UNTRAINED

pytestmark = pytest.mark.usefixtures("one_device")
NAMES, TOWNS = ("Ada", "Bob", "Eve"), ("Rome", "Oslo", "Lima")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "bert", "BertForMaskedLM")


def pair_rows(count):
    chance = random.Random(0)
    drawn = [(chance.choice(NAMES), chance.choice(TOWNS)) for _ in range(count)]
    return [
        {"question": f"where is {name} {town}", "positive": ["a film", f"{name} lives in {town}"]}
        for name, town in drawn
    ]


@pytest.fixture(scope="module")
def encoders(bert, tmp_path_factory):
    """Config, folder and result of a run with two microbatches."""
    folder = tmp_path_factory.mktemp("runs")
    file = write_lines(folder / "rows.jsonl", pair_rows(96))
    options = {"epochs": 16.0, "microbatches": 2, "optimizer.learning_rate": 0.003, "max_question_tokens": 8}
    config = settings("dpr_biencoder", bert, file, **options)
    (folder / "run").mkdir()
    return config, folder / "run", finetune.run(config, folder / "run")


def test_encoders_learn_which_passage_answers(encoders):
    _, _, result = encoders
    ours, before = result["scores"][THIS_MODEL], result["scores"][UNTRAINED]
    assert ours["MRR"] > before["MRR"] + 0.2 and ours["recall@1"] > before["recall@1"] + 0.2
    assert ours["loss"] < before["loss"] and ours["recall@20"] == 1
    assert result["scores"]["BM25"]["MRR"] > 0.9
    assert result["different_after_reload"] == 0


def test_saved_encoders_are_read_by_transformers_and_embed(encoders):
    _, folder, _ = encoders
    question, passage = ["where is Ada Rome"], (["a film"], ["Ada lives in Rome"])
    for name, cls, texts in (
        ("context_encoder", transformers.DPRContextEncoder, passage),
        ("question_encoder", transformers.DPRQuestionEncoder, (question,)),
    ):
        theirs = cls.from_pretrained(folder / "model" / name)
        encoded = transformers.AutoTokenizer.from_pretrained(folder / "model" / name)(*texts, return_tensors="pt")
        model, params = jm.load(folder / "model" / name)
        tokenizer = jm.load_tokenizer(folder / "model" / name)
        assert type(tokenizer).__name__ == f"{cls.__name__}Tokenizer"
        ours = jm.embed(model, params, tokenizer, *texts)
        np.testing.assert_allclose(ours, theirs(**encoded).pooler_output.detach().numpy(), atol=1e-4)


def test_use_of_both_encoders_is_printed_and_runs(encoders, capsys):
    config, folder, result = encoders
    finetune.show(result, config, folder)
    lines = capsys.readouterr().out.strip().splitlines()[-5:]
    found = {"jm": jm}
    exec("\n".join(lines), found)
    assert found["scores"].shape == (1, 1)


def test_negatives_are_those_of_the_column_or_found_by_words(bert, tmp_path):
    rows = pair_rows(40)
    for row in rows:
        row["wrong"] = ["never", {"title": "poor", "text": "again"}, row["positive"]]
    file, other = write_lines(tmp_path / "rows.jsonl", rows), {"data.validation": str(tmp_path / "rows.jsonl")}
    given = DenseRetrieval(settings("dpr_biencoder", bert, file, **other, **{"columns.negatives": "wrong"}), tmp_path)
    found = DenseRetrieval(settings("dpr_biencoder", bert, file, **other), tmp_path)
    indices = np.arange(40)
    for task, wrong in ((given, {"never", "again"}), (found, {row["positive"][1] for row in rows})):
        drawn, length = set(), int(task.train.lengths.max())
        for epoch in range(4):
            batch = task.train.batch(indices, length, epoch)
            assert batch["context_input_ids"].shape == (40, 2, length)
            texts = [task.tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["context_input_ids"][:, 1]]
            drawn |= {text.removeprefix("a film ").removeprefix("poor ") for text in texts}
            assert (batch["passages"][:, 0] != batch["passages"][:, 1]).all()
        assert drawn <= {text.lower() for text in wrong} and len(drawn) > 1
        first = task.dev.batch(indices, length)
        assert (first["passages"] == task.dev.batch(indices, length, epoch=1)["passages"]).all()


def test_reader_finds_the_passage_and_the_answer(bert, tmp_path):
    """The name of the question is in one of three passages; the answer occurs in it twice."""
    chance, rows = random.Random(0), []
    for _ in range(96):
        who = chance.sample(NAMES, 3)
        towns = [chance.choice(TOWNS) for _ in who]
        texts = [["film", f"{name} lives in {town} really {town}"] for name, town in zip(who, towns, strict=True)]
        answer = chance.randrange(3)
        rows.append({"question": f"where is {who[answer]}", "passages": texts, "answers": [towns[answer]]})
    file = write_lines(tmp_path / "rows.jsonl", rows)
    options = {"epochs": 14.0, "passages": 3}
    result, model, params, tokenizer = finish("dpr_reader", bert, file, tmp_path / "run", **options)
    assert result["scores"][THIS_MODEL]["exact match"] > 0.5
    assert result["scores"]["first 1 words"]["exact match"] == 0
    assert type(tokenizer).__name__ == "DPRReaderTokenizer"
    passages = [[("film", "Ada lives in Rome really Rome")]]
    ((answer,),) = jm.answer(model, params, tokenizer, ["where is Ada"], passages)
    assert answer.text == "rome"
    theirs = transformers.DPRReader.from_pretrained(tmp_path / "run" / "model")
    encoded = tokenizer(["where is Ada"], ["film"], ["Ada lives in Rome"])["input_ids"]
    ours = model.apply({"params": params}, np.asarray(encoded))
    expected = theirs(torch.tensor(np.asarray(encoded)))
    np.testing.assert_allclose(ours.start_logits, expected.start_logits.detach().numpy(), atol=1e-4)


def test_loss_of_the_reader_is_the_likelihood_of_all_places():
    """By enumeration: two places in the second passage, which has three tokens; the second question has no answer."""
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 2, 2, 3)).astype(np.float32)
    far = IGNORED["start_positions"]
    places = np.array([[0, 2, far], [far] * 3], np.int32)
    found = span_likelihood_loss(*map(jnp.asarray, (start, end, np.array([1, -100]), places, places)))
    p, q = (np.exp(x[0, 1]) / np.exp(x[0, 1]).sum() for x in (start, end))
    assert float(found) == pytest.approx(-np.log(p[0] * q[0] + p[2] * q[2]), rel=1e-5)


WRONG = [
    ("dpr_reader", {"passages": "Ada"}, "passages is a list of passages, got 'Ada'"),
    ("dpr_reader", {"passages": []}, "passages has no passage"),
    ("dpr_reader", {"answers": []}, "answers is a text or a list of texts, at least one, got []"),
    ("dpr_biencoder", {"positive": 3}, "positive has passages, each a text, "),
    ("dpr_biencoder", {"positive": ["title", " "]}, "positive has passages, each a text, "),
    ("dpr_biencoder", {"question": None}, "question is a text, got None"),
]
GOOD = {
    "dpr_biencoder": {"question": "who", "positive": "Ada"},
    "dpr_reader": {"question": "who", "passages": ["Ada"], "answers": ["Ada"]},
}


@pytest.mark.parametrize(("task", "changes", "message"), WRONG)
def test_invalid_row_is_located(bert, tmp_path, task, changes, message):
    file = write_lines(tmp_path / "rows.jsonl", [GOOD[task], GOOD[task] | changes])
    error = refused(task, bert, file, tmp_path, **{"data.validation": str(file)})
    assert f"{file}, line 2: " in error and message in error
