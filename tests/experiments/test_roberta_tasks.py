"""Entities, intents and masked tokens: labels, scores, baselines."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from experiments.configs import roberta_banking77, roberta_mlm_15, roberta_mlm_40, roberta_smoke, roberta_wnut17
from experiments.data.conll import Sentence
from experiments.predict import Predictions
from experiments.tasks.entities import (
    FILES,
    Entities,
    entity_dictionary,
    entity_scores,
    tag_by_dictionary,
    tag_capitalized,
)
from experiments.tasks.intents import Intents
from experiments.tasks.masked_lm import MaskedLM

TRAIN = "New\tB-location\nYork\tI-location\nis\tO\nbig\tO\n\nAda\tB-person\nmet\tO\nYork\tB-location\n\n"
TEST = "Ada\tB-person\nsaw\tO\nNew\tB-location\nYork\tI-location\n\nnobody\tO\n\nHal\tB-person\nmet\tO\nAda\tB-person\n"


def spans(tags):
    """Find the entities in well-formed tags, independently of the library."""
    found = set()
    for inside, group in itertools.groupby(enumerate(tags), key=lambda item: item[1] != "O"):
        if inside:
            rows = list(group)
            starts = [place for place, tag in rows if tag[0] == "B"] + [rows[-1][0] + 1]
            found |= {(start, end, tags[start][2:]) for start, end in itertools.pairwise(starts)}
    return found


def test_entity_f1_matches_exact_spans_on_random_tags():
    random = np.random.default_rng(0)

    def row(n=12):
        tags = ["O"]
        for _ in range(n):
            choices = ["O", "B-a", "B-b"] + ([f"I-{tags[-1][2:]}"] * 2 if tags[-1] != "O" else [])
            tags.append(str(random.choice(choices)))
        return tags

    true = [row() for _ in range(60)]
    found = [row() if random.random() < 0.5 else list(tags) for tags in true]
    scores = entity_scores(true, found)
    for name, kinds in (("F1", "ab"), ("F1 a", "a"), ("F1 b", "b")):
        pairs = [[{s for s in spans(tags) if s[2] in kinds} for tags in both] for both in zip(true, found, strict=True)]
        hits = sum(len(a & b) for a, b in pairs)
        sizes = sum(len(a) + len(b) for a, b in pairs)
        assert scores[name] == pytest.approx(2 * hits / sizes)
    assert 0 < scores["F1"] < 1


def test_entity_scores_of_edge_cases():
    true = [["B-a", "I-a", "O"], ["B-b", "B-b", "O"]]
    assert entity_scores(true, true)["F1"] == 1
    assert entity_scores(true, [["O"] * 3] * 2) == {"F1": 0, "precision": 0, "recall": 0, "F1 a": 0, "F1 b": 0}
    assert entity_scores(true, [["B-a", "O", "O"], ["B-b", "I-b", "O"]])["F1"] == 0, "part of an entity is none"
    assert entity_scores(true, [["I-a", "I-a", "O"], ["B-a", "B-b", "O"]])["F1"] == pytest.approx(2 / 3)


def test_dictionary_prefers_the_most_frequent_type_and_the_longest_entry():
    sentences = [
        Sentence(["York"], ["B-person"]),
        Sentence(["York", "x"], ["B-location", "O"]),
        Sentence(["York"], ["B-location"]),
        Sentence(["New", "York", "Times"], ["B-group", "I-group", "I-group"]),
        Sentence(["New"], ["B-product"]),
    ]
    known = entity_dictionary(sentences)
    assert known == {("York",): "location", ("New", "York", "Times"): "group", ("New",): "product"}
    words = ["York", "New", "York", "Times", "new", "York", "New", "York"]
    assert tag_by_dictionary(words, known) == [
        *("B-location", "B-group", "I-group", "I-group"),
        *("O", "B-location", "B-product", "B-location"),
    ]
    assert tag_by_dictionary(["a"], {}) == ["O"]


def test_runs_of_capitalized_words_are_entities():
    assert tag_capitalized(["So", "Ada", "Lovelace", "met", "IBM"], "x") == ["O", "B-x", "I-x", "O", "B-x"]
    assert tag_capitalized(["so"], "x") == ["O"]


@pytest.fixture
def wnut(tmp_path):
    for split, file in FILES.items():
        (tmp_path / file).write_text(TRAIN if split == "train" else TEST)
    return tmp_path


def config(task, path, **changes):
    config = roberta_smoke.get_config(task)
    config.data.path = str(path)
    config.update_from_flattened_dict(changes)
    return FrozenConfigDict(config)


def test_first_token_of_each_word_has_the_label(wnut, tmp_path):
    task = Entities(config("entities", wnut), tmp_path / "run")
    tags = task.config_fields["id2label"]
    assert list(tags.values()) == ["O", "B-location", "B-person", "I-location"]
    batch = task.train.batch(np.array([0, 1]), 16)
    for ids, labels, words, expected in zip(
        batch["input_ids"],
        batch["labels"],
        (["New", "York", "is", "big"], ["Ada", "met", "York"]),
        (["B-location", "I-location", "O", "O"], ["B-person", "O", "B-location"]),
        strict=True,
    ):
        heads = np.flatnonzero(labels >= 0)
        assert [tags[label] for label in labels[heads]] == expected
        ends = [*heads[1:], int(np.flatnonzero(ids == 2)[0])]
        parts = [task.tokenizer.decode(ids[a:b]).strip() for a, b in zip(heads, ends, strict=True)]
        assert parts == words


def predictions(task, wrong=()):
    """Perfect predictions on the test set, except for some examples where everything is O."""
    best = []
    for index, length in enumerate(task.test.lengths):
        labels = task.test.batch(np.array([index]), int(length))["labels"][0]
        best.append(np.where(labels < 0, 1, 0 if index in wrong else labels))
    return Predictions(0.5, best)


def test_entities_are_scored_by_first_tokens(wnut, tmp_path):
    task = Entities(config("entities", wnut), tmp_path / "run")
    assert task.test_scores(predictions(task))["F1"] == 1
    scores = task.test_scores(predictions(task, wrong=[2]))
    assert (scores["precision"], scores["recall"]) == (1, 0.5) and scores["F1 location"] == 1
    known = task.baselines()["entities of the training set"]
    assert (known["precision"], known["recall"]) == (1, 0.75), "Hal is not in the training set"


def test_words_beyond_the_maximum_length_are_not_entities(wnut, tmp_path):
    (wnut / FILES["test"]).write_text("Ada\tB-person\n" + "word\tO\n" * 100 + "Ada\tB-person\n")
    task = Entities(config("entities", wnut), tmp_path / "run")
    assert task.test.lengths.tolist() == [32]
    scores = task.test_scores(predictions(task))
    assert (scores["precision"], scores["recall"]) == (1, 0.5)


def test_tag_missing_from_training_data_is_rejected(wnut, tmp_path):
    (wnut / FILES["dev"]).write_text("x\tB-product\n")
    with pytest.raises(
        ValueError, match=r"emerging\.dev\.conll: the training set has no B-product; it has O, B-location"
    ):
        Entities(config("entities", wnut), tmp_path / "run")


@pytest.fixture
def bank(tmp_path):
    (tmp_path / "categories.json").write_text(json.dumps(["lost", "found", "thanks"]))
    rows = [f"where is my card number {i},lost\nhere it is {i},found\n" for i in range(20)] + ["thanks,thanks\n"]
    (tmp_path / "train.csv").write_text("text,category\n" + "".join(rows))
    (tmp_path / "test.csv").write_text(
        "text,category\nwhere is it,lost\nmy card,lost\nhere you are,found\nthanks,thanks\n"
    )
    return tmp_path


def test_intents_are_split_and_scored_with_baselines(bank, tmp_path):
    task = Intents(config("intents", bank), tmp_path / "run")
    assert len(task.train.lengths) + len(task.dev.lengths) == 41 and 0 < len(task.dev.lengths) < 20
    scores = task.test_scores(Predictions(0.0, [np.int32(n) for n in (0, 1, 1, 2)]))
    assert scores["accuracy"] == 0.75
    assert scores["macro F1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    others = task.baselines()
    assert others["most frequent class"]["accuracy"] in (0.25, 0.5)
    assert others["TF-IDF, logistic regression"]["accuracy"] >= 0.75


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_empty_intent_split_is_rejected(bank, tmp_path, fraction):
    with pytest.raises(ValueError, match=f"data.held_out={fraction} leaves no examples for"):
        Intents(config("intents", bank, **{"data.held_out": fraction}), tmp_path / "run")


def test_masked_tokens_are_scored_with_a_frequency_baseline(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in range(12):
        (tmp_path / "texts" / f"{name}.txt").write_text("a b " * 2000)
    task = MaskedLM(config("masked-lm", tmp_path / "texts"), tmp_path / "run")
    assert task.dev is task.test
    right = predictions(task)
    assert task.test_scores(right) == {"loss": 0.5, "accuracy": 1}
    other = task.baselines()["word frequencies"]
    assert other["loss"] == pytest.approx(np.log(2), abs=0.1) and 0.4 < other["accuracy"] < 0.6
    rates = [
        np.mean([(batch["labels"] >= 0).sum() / batch["attention_mask"].sum() for batch in batches])
        for batches in (
            [source.batch(np.array([i]), 32) for i in range(len(source.lengths))] for source in (task.train, task.test)
        )
    ]
    assert rates == pytest.approx([0.4, 0.15], abs=0.04), "the held-out text is masked at 15% whatever the training is"


def test_masking_configs_differ_only_in_the_rate():
    actual, expected = roberta_mlm_15.get_config().to_dict(), roberta_mlm_40.get_config().to_dict()
    assert (actual["masking"].pop("rate"), expected["masking"].pop("rate")) == (0.15, 0.4)
    assert actual == expected


@pytest.mark.parametrize("module", [roberta_wnut17, roberta_banking77])
def test_fine_tuning_configs_use_dropout_and_match_the_pretrained_model(module):
    tuned, pretrained = module.get_config(), roberta_mlm_40.get_config()
    rates = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    assert all(tuned.model[name] > 0 for name in rates)
    assert {k: v for k, v in tuned.model.items() if k not in rates} == {
        k: v for k, v in pretrained.model.items() if k not in rates
    }
    assert Path(tuned.init).parent.name == "roberta_mlm_40"
