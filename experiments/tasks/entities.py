"""Named entities as labels of words: WNUT-17 (Derczynski et al. 2017, "Novel and Emerging Entity Recognition")."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from ml_collections import FrozenConfigDict
from nervaluate import Evaluator

import jaxmodels as jm
from experiments.data import conll
from experiments.data.batches import IGNORE
from experiments.data.conll import Sentence
from experiments.data.labelled import LabelledTexts
from experiments.predict import Predicted
from experiments.tasks.common import Scores, Task, longest, task_tokenizer, tokenizer_facts

FILES = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}


class Entities(Task):
    """A tag for each word, read at its first token; the word's other tokens have no label.

    A word beyond the longest text that the model takes gets no prediction, and counts as no entity.
    """

    model_class = jm.RobertaPreLayerNormForTokenClassification
    score = "F1"

    def __init__(self, config: FrozenConfigDict, folder: Path):
        root = Path(config.data.path)
        self._sentences = {split: conll.read(root / file) for split, file in FILES.items()}
        self._tags = tags(self._sentences["train"])
        for split in ("dev", "test"):
            check_tags(self._sentences[split], self._tags, root / FILES[split])
        self._longest = longest(config)
        self.tokenizer = task_tokenizer(
            config,
            folder,
            lambda: (" ".join(sentence.words) for sentence in self._sentences["train"]),
            add_prefix_space=True,  # sentences come as words
        )
        self.train, self.dev, self.test = (self._encode(split, self.tokenizer) for split in FILES)
        self.facts = tokenizer_facts(self.tokenizer) | {"id2label": dict(enumerate(self._tags))}

    def dev_scores(self, predicted: Predicted) -> Scores:
        scores = self._scores("dev", self.dev, predicted)
        return {name: scores[name] for name in ("F1", "precision", "recall")}

    def test_scores(self, predicted: Predicted) -> Scores:
        return self._scores("test", self.test, predicted)

    def baselines(self) -> dict[str, Scores]:
        """A dictionary of the training set's entities, and capital letters.

        WNUT-17 was made so that the dictionary finds nothing: its dev and test sets have none of those entities.
        """
        known, kind = dictionary(self._sentences["train"]), most_frequent_type(self._sentences["train"])
        rules = {
            "entities of the training set": lambda words: look_up(words, known),
            f"capital letters: {kind}": lambda words: capitals(words, kind),
        }
        test = self._sentences["test"]
        true = [sentence.tags for sentence in test]
        return {name: entity_scores(true, [rule(sentence.words) for sentence in test]) for name, rule in rules.items()}

    def describe(self) -> str:
        return ", ".join(
            f"{split}: {len(sentences):,} sentences with {entity_count(sentences):,} entities"
            for split, sentences in self._sentences.items()
        )

    def encoded_test(self, tokenizer: jm.RobertaTokenizer) -> LabelledTexts:
        return self._encode("test", tokenizer)

    def _encode(self, split: str, tokenizer: jm.RobertaTokenizer) -> LabelledTexts:
        numbers = {tag: number for number, tag in enumerate(self._tags)}
        sentences = self._sentences[split]
        encoded = tokenizer(
            [sentence.words for sentence in sentences],
            is_split_into_words=True,
            truncation=True,
            max_length=self._longest,
        )
        labels = []
        for row, sentence in enumerate(sentences):
            words = [None, *encoded.word_ids(row)]
            labels.append(
                [
                    IGNORE if word is None or word == before else numbers[sentence.tags[word]]
                    for before, word in zip(words, words[1:], strict=False)
                ]
            )
        return LabelledTexts([list(ids) for ids in encoded["input_ids"]], labels, tokenizer.pad_token_id)

    def _scores(self, split: str, examples: LabelledTexts, predicted: Predicted) -> Scores:
        sentences = self._sentences[split]
        found = []
        for index, (sentence, best) in enumerate(zip(sentences, predicted.best, strict=True)):
            labels = examples.batch(np.array([index]), int(examples.lengths[index]))["labels"][0]
            heads = [self._tags[tag] for tag in best[: len(labels)][labels != IGNORE]]
            found.append(heads + ["O"] * (len(sentence.words) - len(heads)))
        return entity_scores([sentence.tags for sentence in sentences], found)


def tags(sentences: list[Sentence]) -> list[str]:
    """O, then the others in alphabetical order."""
    return ["O", *sorted({tag for sentence in sentences for tag in sentence.tags} - {"O"})]


def check_tags(sentences: list[Sentence], known: list[str], file: Path) -> None:
    """Raises ValueError where a sentence has a tag that training never saw."""
    strange = sorted({tag for sentence in sentences for tag in sentence.tags} - set(known))
    if strange:
        raise ValueError(f"{file}: the training set has no {', '.join(strange)}; it has {', '.join(known)}")


def entity_count(sentences: list[Sentence]) -> int:
    return sum(tag.startswith("B-") for sentence in sentences for tag in sentence.tags)


def entity_scores(true: list[list[str]], found: list[list[str]]) -> Scores:
    """Precision, recall and F1 over all entities, and the F1 of each type.

    An entity is found where its first word, its last word and its type are right. An I- tag that continues nothing
    begins an entity, as in CoNLL's own script.
    """
    types = sorted({tag[2:] for row in true for tag in row} - {""})
    results = Evaluator(true, found, tags=types, loader="list").evaluate()
    overall, each = results["overall"]["strict"], results["entities"]
    scores = {"F1": overall.f1, "precision": overall.precision, "recall": overall.recall}
    scores |= {f"F1 {name}": each[name]["strict"].f1 for name in types}
    return {name: float(value) for name, value in scores.items()}


def dictionary(sentences: list[Sentence]) -> dict[tuple[str, ...], str]:
    """The words of each entity -> the type that it has most often."""
    seen = defaultdict(Counter)
    for words, tagged in sentences:
        starts = [place for place, tag in enumerate(tagged) if tag[0] == "B"]
        for start in starts:
            end = start + 1
            while end < len(tagged) and tagged[end][0] == "I":
                end += 1
            seen[tuple(words[start:end])][tagged[start][2:]] += 1
    return {words: types.most_common(1)[0][0] for words, types in seen.items()}


def look_up(words: list[str], known: dict[tuple[str, ...], str]) -> list[str]:
    """Tags of the dictionary's entities in a sentence; where two overlap the first, and then the longest, wins."""
    longest_entry = max(map(len, known), default=0)
    found, place = ["O"] * len(words), 0
    while place < len(words):
        for end in range(min(place + longest_entry, len(words)), place, -1):
            kind = known.get(tuple(words[place:end]))
            if kind:
                found[place:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - place - 1)]
                place = end - 1
                break
        place += 1
    return found


def most_frequent_type(sentences: list[Sentence]) -> str:
    return Counter(tag[2:] for sentence in sentences for tag in sentence.tags if tag[0] == "B").most_common(1)[0][0]


def capitals(words: list[str], kind: str) -> list[str]:
    """Tags that make one entity of each run of words with a capital letter in front, but for the sentence's first."""
    found = ["O"] * len(words)
    for place in range(1, len(words)):
        if words[place][0].isupper():
            found[place] = f"B-{kind}" if found[place - 1] == "O" else f"I-{kind}"
    return found
