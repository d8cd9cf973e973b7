"""Named entity recognition as token classification: WNUT-17 (Derczynski et al. 2017)."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import FrozenConfigDict
from nervaluate import Evaluator

import jaxmodels as jm
from jaxmodels.tokenization.base import Tokenizer

from ..data import conll
from ..data.batches import IGNORE
from ..data.bpe import token_id
from ..data.buckets import LabelledTexts
from ..data.conll import Sentence
from ..predict import Predictions
from .common import Scores, Task, max_tokens, task_tokenizer, tokenizer_config

FILES = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}


class LabelledWords(LabelledTexts):
    """Tokenized lists of words.

    Attributes:
      first_tokens: For each example the first token of each word that has one.
    """

    def __init__(self, fields: Mapping[str, Sequence[Any]], pad: int, first_tokens: list[dict[int, int]]):
        super().__init__(fields, pad)
        self.first_tokens = first_tokens


class Entities(Task):
    """A tag for each word, predicted at its first token; its other tokens have no label.

    Words beyond the maximum length of the model get no prediction, and count as O.
    """

    model_class = jm.RobertaPreLayerNormForTokenClassification
    score = "F1"
    dev: LabelledWords
    test: LabelledWords

    def __init__(self, config: FrozenConfigDict, folder: Path):
        root = Path(config.data.path)
        self._sentences = {split: conll.read(root / file) for split, file in FILES.items()}
        self._tags = tags(self._sentences["train"])
        for split in ("dev", "test"):
            check_tags(self._sentences[split], self._tags, root / FILES[split])
        self._max_tokens = max_tokens(config)
        self.tokenizer = task_tokenizer(
            config,
            folder,
            lambda: (" ".join(sentence.words) for sentence in self._sentences["train"]),
            add_prefix_space=True,  # sentences are lists of words
        )
        self.train, self.dev, self.test = (self._encode(split, self.tokenizer) for split in FILES)
        self.config_fields = tokenizer_config(self.tokenizer) | {"id2label": dict(enumerate(self._tags))}

    def dev_scores(self, predicted: Predictions) -> Scores:
        scores = self._scores("dev", self.dev, predicted)
        return {name: scores[name] for name in ("F1", "precision", "recall")}

    def test_scores(self, predicted: Predictions) -> Scores:
        return self._scores("test", self.test, predicted)

    def baselines(self) -> dict[str, Scores]:
        """Score a dictionary of the training entities, and a rule based on capital letters.

        The dictionary finds nothing by design of WNUT-17: no training entity occurs in the dev and test sets.
        """
        known, label = entity_dictionary(self._sentences["train"]), most_frequent_type(self._sentences["train"])
        rules = {
            "entities of the training set": lambda words: tag_by_dictionary(words, known),
            f"capital letters: {label}": lambda words: tag_capitalized(words, label),
        }
        test = self._sentences["test"]
        true = [sentence.tags for sentence in test]
        return {name: entity_scores(true, [rule(sentence.words) for sentence in test]) for name, rule in rules.items()}

    def describe(self) -> str:
        return ", ".join(
            f"{split}: {len(sentences):,} sentences with {entity_count(sentences):,} entities"
            for split, sentences in self._sentences.items()
        )

    def encoded_test(self, tokenizer: jm.RobertaTokenizer) -> LabelledWords:
        return self._encode("test", tokenizer)

    def _encode(self, split: str, tokenizer: jm.RobertaTokenizer) -> LabelledWords:
        numbers = {tag: number for number, tag in enumerate(self._tags)}
        sentences = self._sentences[split]
        labels = [[numbers[tag] for tag in sentence.tags] for sentence in sentences]
        return encode_words(tokenizer, [sentence.words for sentence in sentences], labels, self._max_tokens)

    def _scores(self, split: str, examples: LabelledWords, predicted: Predictions) -> Scores:
        true = [sentence.tags for sentence in self._sentences[split]]
        return entity_scores(true, word_names(examples, predicted, self._tags, true))


def encode_words(
    tokenizer: Tokenizer, words: Sequence[Sequence[str]], labels: Sequence[Sequence[int]], max_length: int
) -> LabelledWords:
    """Tokenize lists of words, each with a label at its first token; its other tokens have none."""
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    numbers, first_tokens = [], []
    for row, each in enumerate(labels):
        owners = encoded.word_ids(row)
        firsts = {word: token for token, word in reversed([*enumerate(owners)]) if word is not None}
        numbers.append(
            [IGNORE if word is None or firsts[word] != token else each[word] for token, word in enumerate(owners)]
        )
        first_tokens.append(firsts)
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    fields = {name: encoded[name] for name in names} | {"labels": numbers}
    return LabelledWords(fields, token_id(tokenizer, "pad"), first_tokens)


def word_names(
    examples: LabelledWords, predicted: Predictions, names: Sequence[str], words: Sequence[Sequence[Any]]
) -> list[list[str]]:
    """Return the name of the predicted class of each word; O for words without tokens or beyond the maximum length."""
    return [
        [names[best[firsts[word]]] if word in firsts else "O" for word in range(len(row))]
        for row, best, firsts in zip(words, predicted.best, examples.first_tokens, strict=True)
    ]


def tags(sentences: list[Sentence]) -> list[str]:
    """Return the tags in the sentences: O first, the others in alphabetical order."""
    return ["O", *sorted({tag for sentence in sentences for tag in sentence.tags} - {"O"})]


def check_tags(sentences: list[Sentence], known: list[str], file: Path) -> None:
    """Raise ValueError if a sentence has a tag that does not occur in the training set."""
    unknown = sorted({tag for sentence in sentences for tag in sentence.tags} - set(known))
    if unknown:
        raise ValueError(f"{file}: the training set has no {', '.join(unknown)}; it has {', '.join(known)}")


def entity_count(sentences: list[Sentence]) -> int:
    """Return the number of entities."""
    return sum(tag.startswith("B-") for sentence in sentences for tag in sentence.tags)


def entity_scores(true: list[list[str]], found: list[list[str]]) -> Scores:
    """Compute precision, recall and F1 over all entities, and F1 for each type.

    An entity is correct if its first word, its last word and its type are correct. An I- tag that does not continue an
    entity begins one, as in the original script of CoNLL.
    """
    types = sorted({tag[2:] for row in true for tag in row} - {""})
    results = Evaluator(true, found, tags=types, loader="list").evaluate()
    overall, each = results["overall"]["strict"], results["entities"]
    scores = {"F1": overall.f1, "precision": overall.precision, "recall": overall.recall}
    scores |= {f"F1 {name}": each[name]["strict"].f1 for name in types}
    return {name: float(value) for name, value in scores.items()}


def entity_dictionary(sentences: list[Sentence]) -> dict[tuple[str, ...], str]:
    """Map the words of each entity to its most frequent type."""
    seen: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for words, tagged in sentences:
        starts = [index for index, tag in enumerate(tagged) if tag[0] == "B"]
        for start in starts:
            end = start + 1
            while end < len(tagged) and tagged[end][0] == "I":
                end += 1
            seen[tuple(words[start:end])][tagged[start][2:]] += 1
    return {words: types.most_common(1)[0][0] for words, types in seen.items()}


def tag_by_dictionary(words: list[str], known: dict[tuple[str, ...], str]) -> list[str]:
    """Tag the entities of a dictionary in a sentence; if two overlap, the first one wins, then the longest."""
    longest_entry = max(map(len, known), default=0)
    found, start = ["O"] * len(words), 0
    while start < len(words):
        for end in range(min(start + longest_entry, len(words)), start, -1):
            label = known.get(tuple(words[start:end]))
            if label:
                found[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
                start = end - 1
                break
        start += 1
    return found


def most_frequent_type(sentences: list[Sentence]) -> str:
    """Return the most frequent entity type."""
    return Counter(tag[2:] for sentence in sentences for tag in sentence.tags if tag[0] == "B").most_common(1)[0][0]


def tag_capitalized(words: list[str], label: str) -> list[str]:
    """Tag each run of capitalized words as an entity, except for the first word of the sentence."""
    found = ["O"] * len(words)
    for index in range(1, len(words)):
        if words[index][0].isupper():
            found[index] = f"B-{label}" if found[index - 1] == "O" else f"I-{label}"
    return found
