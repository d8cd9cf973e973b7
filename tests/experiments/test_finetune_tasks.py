"""The other tasks of fine-tuning: tiny checkpoints of several families learn them, and invalid rows are located."""

import json
import random

import jax.numpy as jnp
import numpy as np
import pytest
from support.experiment_runs import finish as finish_process
from support.experiment_runs import in_two_processes, starter
from support.finetuned import finish, refused, settings, write_lines
from support.tiny_checkpoints import save_checkpoint

import jaxmodels as jm
from experiments.data.batches import IGNORE
from experiments.data.buckets import IGNORED, LabelledTexts, cover, evaluation
from experiments.predict import Predictions
from experiments.report import THIS_MODEL
from experiments.tasks.multiple_choice import MultipleChoice
from experiments.tasks.question_answering import QuestionAnswering, squad_scores
from experiments.tasks.run import UNTRAINED
from experiments.tasks.text_classification import TextClassification
from experiments.tasks.token_classification import TokenClassification

pytestmark = pytest.mark.usefixtures("one_device")
NAMES, TOWNS = ("Ada", "Bob", "Eve"), ("Rome", "Oslo", "Lima")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """checkpoint(class name) -> folder, saved once."""
    root, saved = tmp_path_factory.mktemp("checkpoints"), {}

    def checkpoint(name):
        if name not in saved:
            saved[name] = save_checkpoint(root / name, name)
        return saved[name]

    return checkpoint


def sentences(count, seed=0):
    chance = random.Random(seed)
    return [(chance.choice(NAMES), chance.choice(TOWNS)) for _ in range(count)]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """JSON lines with the columns of several tasks."""
    rows = []
    for name, town in sentences(120):
        context = f"{name} lives in {town}"
        entry = {"text": context, "source": context, "target": town, "question": "where is", "context": context}
        entry |= {"tokens": context.split(), "tags": ["B-person", "O", "O", "B-town"]}
        start = context.index(town)
        entry["answers"] = {"text": [town], "answer_start": [start]}
        entry |= {"choices": [f"go to {each}" for each in TOWNS], "label": TOWNS.index(town)}
        rows.append(entry)
    return write_lines(tmp_path_factory.mktemp("data") / "lives.jsonl", rows)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", pytest.param("LlamaForCausalLM", marks=pytest.mark.slow)])
def test_causal_language_models_learn_texts(checkpoint, lines, tmp_path, name):
    result, model, params, tokenizer = finish("causal_lm", checkpoint(name), lines, tmp_path, epochs=12.0)
    ours, before = result["scores"][THIS_MODEL], result["scores"][UNTRAINED]
    assert ours["loss"] < before["loss"] - 1 and ours["accuracy"] > 0.5
    assert {path.name for path in tmp_path.glob("*.png")} == {"loss.png"}
    assert ours["perplexity"] == pytest.approx(np.exp(ours["loss"]))
    ids = np.asarray(tokenizer(["Ada lives in"])["input_ids"])
    logits = model.apply({"params": params}, jnp.asarray(ids)).logits
    best = tokenizer.decode(int(logits[0, -1].argmax())).strip()
    assert any(town.startswith(best) for town in TOWNS), best


@pytest.mark.parametrize(
    "name",
    [
        "BertForMaskedLM",
        *[pytest.param(f"Roberta{kind}ForMaskedLM", marks=pytest.mark.slow) for kind in ("", "PreLayerNorm")],
    ],
)
def test_masked_language_models_learn_texts(checkpoint, lines, tmp_path, name):
    result, *_ = finish("masked_lm", checkpoint(name), lines, tmp_path, masking_rate=0.3)
    ours, before = result["scores"][THIS_MODEL], result["scores"][UNTRAINED]
    assert ours["loss"] < before["loss"] - 1 and ours["accuracy"] > before["accuracy"] + 0.2


@pytest.mark.parametrize("name", ["BertForMaskedLM", pytest.param("RobertaForMaskedLM", marks=pytest.mark.slow)])
def test_words_are_classified(checkpoint, lines, tmp_path, name):
    result, model, *_ = finish("token_classification", checkpoint(name), lines, tmp_path)
    ours = result["scores"][THIS_MODEL]
    assert ours["F1"] == ours["F1 town"] == ours["accuracy"] == 1
    assert result["scores"]["always O"]["F1"] == 0 and result["scores"]["always O"]["accuracy"] == 0.5
    assert list(model.config.id2label.values()) == ["B-person", "B-town", "O"]


def test_questions_are_answered_with_spans(checkpoint, lines, tmp_path):
    result, model, params, tokenizer = finish(
        "question_answering", checkpoint("BertForMaskedLM"), lines, tmp_path, stride=8
    )
    assert result["scores"][THIS_MODEL] == {"F1": 1, "exact match": 1}
    assert result["scores"]["first 1 words"]["F1"] == 0 and "no answer" not in result["scores"]
    ((answer,),) = jm.answer(model, params, tokenizer, ["where is"], ["Eve lives in Lima"], stride=8)
    assert answer.text == "Lima"


def test_questions_without_answers_and_long_contexts_are_learnt(checkpoint, tmp_path):
    """The answer is in one of several windows; where there is none, "" is right."""
    rows = []
    for index, (name, town) in enumerate(sentences(80)):
        words = ["so"] * (30 if index % 2 else 2) + ["really"] * (index % 3)
        has_answer = index % 4 != 0
        context = " ".join([*words, f"{name} lives in {town}" if has_answer else "we saw it"])
        start = context.index(town) if has_answer else 0
        answers = {"text": [town] * has_answer, "answer_start": [start] * has_answer}
        rows.append({"question": "where is", "context": context, "answers": answers})
    file = write_lines(tmp_path / "rows.jsonl", rows)
    options = {"stride": 8, "epochs": 8.0}
    result, *_ = finish("question_answering", checkpoint("BertForMaskedLM"), file, tmp_path / "run", **options)
    ours, never = result["scores"][THIS_MODEL], result["scores"]["no answer"]
    assert ours["exact match"] > 0.9 and 0 < never["exact match"] < 0.5


@pytest.mark.parametrize(
    "name",
    ["T5ForConditionalGeneration"]
    + [pytest.param(f"{name}ForConditionalGeneration", marks=pytest.mark.slow) for name in ("Bart", "LED")],
)
def test_texts_are_generated(checkpoint, lines, tmp_path, name):
    options = {"max_target_tokens": 8, "prefix": "summarize: ", "epochs": 8.0}
    result, model, params, tokenizer = finish("text_to_text", checkpoint(name), lines, tmp_path, **options)
    ours = result["scores"][THIS_MODEL]
    assert ours["ROUGE-L"] > 0.7 > result["scores"][UNTRAINED]["ROUGE-L"] and ours["equal"] > 0.7
    ids = tokenizer(["summarize: Bob lives in Oslo"])["input_ids"]
    sequences = jm.generate(model, params, np.asarray(ids), max_new_tokens=7).sequences
    assert tokenizer.batch_decode(np.asarray(sequences), skip_special_tokens=True)[0].strip() in TOWNS


def test_choices_are_learnt(checkpoint, lines, tmp_path):
    columns = {"columns.question": "question", "epochs": 12.0}
    result, *_ = finish("multiple_choice", checkpoint("BertForMaskedLM"), lines, tmp_path, **columns)
    assert result["scores"][THIS_MODEL]["accuracy"] > 0.5 > result["scores"]["chance"]["accuracy"]


def test_choices_may_be_in_several_columns(checkpoint, tmp_path):
    rows = [f"we saw,it was {index},it is,1" for index in range(10)]
    (tmp_path / "rows.csv").write_text("\n".join(["context,a,b,label", *rows]))
    columns = {"columns.choices": "a,b"}
    config = settings("multiple_choice", checkpoint("BertForMaskedLM"), tmp_path / "rows.csv", **columns)
    task = MultipleChoice(config, tmp_path)
    batch = task.train.batch(np.array([0, 1]), 16)
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (2, 2, 16)
    assert batch["labels"].tolist() == [1, 1]
    assert batch["attention_mask"].sum(axis=-1).max() == task.train.lengths[0]


GOOD = {
    "token_classification": {"tokens": ["a"], "tags": ["O"]},
    "question_answering": {"question": "a", "context": "a b", "answers": {"text": ["b"], "answer_start": [2]}},
    "text_to_text": {"source": "a", "target": "b"},
    "multiple_choice": {"context": "a", "choices": ["b", "c"], "label": 1},
    "causal_lm": {"text": "a"},
}
WRONG = [
    ("token_classification", {"tags": ["O", "O"]}, "each token has a tag; got 1 tokens and 2 tags"),
    ("token_classification", {"tokens": [" "]}, "tokens are words, got ' '"),
    ("token_classification", {"tokens": "a"}, "tokens is a list with at least one element, got 'a'"),
    ("question_answering", {"answers": ["b"]}, 'answers are {"text"'),
    ("question_answering", {"answers": {"text": ["b"], "answer_start": []}}, "each answer has a text and an"),
    (
        "question_answering",
        {"answers": {"text": ["b"], "answer_start": [1]}},
        "does not have the answer 'b' at character 1",
    ),
    ("text_to_text", {"target": None}, "target is a text, got None"),
    ("multiple_choice", {"label": 2}, "label is the number of a choice, 0 to 1, got 2"),
    ("multiple_choice", {"choices": ["b"]}, "choices are 2 texts as in the first row"),
    ("causal_lm", {"text": 7}, "text is a text, got 7"),
]


@pytest.mark.parametrize(("task", "changes", "message"), WRONG)
def test_invalid_row_is_located(checkpoint, tmp_path, task, changes, message):
    file = write_lines(tmp_path / "rows.jsonl", [GOOD[task], GOOD[task] | changes])
    options = {"stride": 1} if task == "question_answering" else {}
    kind = {"text_to_text": "T5ForConditionalGeneration", "causal_lm": "GPT2LMHeadModel"}.get(task, "BertForMaskedLM")
    error = refused(task, checkpoint(kind), file, tmp_path, **{"data.validation": str(file)}, **options)
    assert f"{file}, line 2: " in error and message in error


def test_checkpoint_without_such_a_head_is_rejected(checkpoint, lines, tmp_path):
    error = refused("multiple_choice", checkpoint("GPT2LMHeadModel"), lines, tmp_path)
    assert "AutoModelForMultipleChoice has no class for 'gpt2'" in error


def test_answers_are_scored_by_the_rules_of_squad():
    found, references = ["the Cat!", "", "dog", "x", "a"], [["a hat", "cat"], [], [], ["x y"], ["the"]]
    scores = squad_scores(found, references)
    assert scores["exact match"] == pytest.approx((1 + 1 + 0 + 0 + 1) / 5)
    assert scores["F1"] == pytest.approx((1 + 1 + 0 + 2 / 3 + 0) / 5)


def test_word_without_tokens_gets_no_class_of_another(checkpoint, tmp_path):
    """BERT's tokenizer removes the character of the second word."""
    rows = [{"tokens": ["Ada", "\x07", "Rome"], "tags": ["B-a", "O", "B-b"]}] * 12
    file = write_lines(tmp_path / "rows.jsonl", rows)
    config = settings("token_classification", checkpoint("BertForMaskedLM"), file, **{"data.validation": str(file)})
    task = TokenClassification(config, tmp_path)
    labels = [task.dev.batch(np.array([row]), 16)["labels"][0] for row in range(12)]
    assert (labels[0] != IGNORE).sum() == 2
    assert task.dev_scores(Predictions(0.0, labels))["F1"] == 1


def test_first_and_last_token_of_answers_are_labels_of_the_window_with_the_answer(checkpoint, tmp_path):
    context = "so so so so so so so so Ada lives in Rome"
    answers = {"text": ["lives in"], "answer_start": [context.index("lives")]}
    file = write_lines(tmp_path / "rows.jsonl", [{"question": "who", "context": context, "answers": answers}])
    options = {"data.validation": str(file), "max_tokens": 12, "stride": 2}
    task = QuestionAnswering(settings("question_answering", checkpoint("BertForMaskedLM"), file, **options), tmp_path)
    batch = task.train.batch(np.arange(len(task.train.lengths)), 12)
    found = [
        task.tokenizer.decode(ids[a : b + 1])
        for ids, a, b in zip(batch["input_ids"], batch["start_positions"], batch["end_positions"], strict=True)
    ]
    assert found == ["[CLS]", "lives in"]


def test_padding_of_the_last_batch_has_no_labels():
    fields = {"input_ids": [[1, 2]] * 3, "start_positions": [1] * 3, "end_positions": [1] * 3}
    *_, (indices, batch) = evaluation(LabelledTexts(fields, pad=0), batch_size=2, buckets=(16,))
    assert len(indices) == 1
    for name in ("start_positions", "end_positions"):
        assert batch[name].tolist() == [1, IGNORED[name]]


def test_classes_keep_the_order_of_a_checkpoint_with_the_same_names(tmp_path):
    labels = {"id2label": {0: "up", 1: "down"}}
    init = save_checkpoint(tmp_path / "bert", "BertForSequenceClassification", **labels)
    for name, other in (("same", "down"), ("more", "aside")):
        rows = [{"text": "good", "label": ["up", "down", other][row % 3]} for row in range(30)]
        file = write_lines(tmp_path / f"{name}.jsonl", rows)
        names = TextClassification(settings("text_classification", init, file), tmp_path).config_fields["id2label"]
        assert list(names.values()) == (["up", "down"] if name == "same" else ["aside", "down", "up"])


def test_numbers_as_classes_are_in_their_order(checkpoint, tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", [{"text": "good", "label": row % 11} for row in range(60)])
    task = TextClassification(settings("text_classification", checkpoint("BertForMaskedLM"), file), tmp_path)
    assert list(task.config_fields["id2label"].values()) == [str(number) for number in range(11)]


def test_buckets_cover_the_examples():
    def of(*lengths):
        return LabelledTexts({"input_ids": [[1] * n for n in lengths], "labels": [0] * len(lengths)}, pad=0)

    assert cover(of(3, 16), 100) == (16,) and cover(of(17, 2), 100) == (16, 32)
    assert cover(of(100), 100) == (16, 32, 64, 100) and cover(of(5), 12) == (12,)


@pytest.mark.slow
def test_two_processes_generate_what_one_does(checkpoint, lines, tmp_path):
    start = starter(
        "finetune",
        "--config=finetune:text_to_text",
        f"--config.init={checkpoint('T5ForConditionalGeneration')}",
        f"--config.data.train={lines}",
        "--config.max_target_tokens=8",
        "--config.batch_size=8",
        "--config.epochs=1",
        "--config.optimizer.learning_rate=0.01",
    )
    finish_process(start(tmp_path / "one", devices=2))
    in_two_processes(start, tmp_path / "two")
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert one["different_after_reload"] == two["different_after_reload"] == 0
    assert two["scores"][THIS_MODEL] == pytest.approx(one["scores"][THIS_MODEL], rel=1e-3)
