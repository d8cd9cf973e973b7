"""Answers to questions, as spans of texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.architectures.dpr import DPRReader
from jaxmodels.inference.batches import check_texts, padded, run, tokenize
from jaxmodels.messages import brief
from jaxmodels.tokenization import BatchEncoding, DPRReaderTokenizer
from jaxmodels.tokenization.base import Tokenizer

# How many first and last tokens are candidates, as in the reference's evaluation.
_CANDIDATES = 20


class Answer(NamedTuple):
    """A span of a context that answers a question.

    Attributes:
      text: the span, "" for no answer.
      score: sum of the logits of its first and last token.
      context: index of the context among those of the question.
      start, end: its first character in the context, and the one after its last; None from DPR's reader, whose answers
        may be parts of the title.
    """

    text: str
    score: float
    context: int
    start: int | None
    end: int | None


class Context(NamedTuple):
    """A context, and whose it is: question and place among the question's contexts."""

    question: int
    place: int
    text: Any


def answer(
    model: Model,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    questions: Sequence[str],
    contexts: Sequence[str | Sequence[str | tuple[str, str]]],
    *,
    top_k: int = 1,
    max_answer_length: int = 30,
    no_answer: bool = False,
    stride: int = 128,
    batch_size: int = 32,
    max_length: int = 384,
    progress: bool = False,
) -> list[list[Answer]]:
    """Answers to questions, as spans of their contexts.

    Contexts that are too long for the model are read in overlapping windows. The rules are those of the reference's
    evaluation of SQuAD (transformers/examples/pytorch/question-answering/utils_qa.py): the sum of the logits of the
    first and the last token, of the 20 best of each in the context. DPR's reader has its own, see
    `DPRReaderTokenizer.decode_best_spans`, and no windows.

    Args:
      model: a model with a head for extractive question answering, or a DPRReader.
      params, tokenizer, batch_size, progress: as in `embed`.
      questions: N questions.
      contexts: for each question a text, or several texts whose best answers are wanted. For DPR's reader they are
        passages, pairs of a title and a text.
      top_k: answers for each question, the best first. There may be fewer.
      max_answer_length: number of tokens of the longest answer.
      no_answer: the answer "" competes with the others (SQuAD v2): its score is that of the first token, in the window
        where it is lowest.
      stride: number of tokens by which windows overlap.
      max_length: number of tokens of a question and a window.

    Returns:
      For each question its answers.

    Raises:
      TypeError: questions or contexts that are no sequences of str.
      ValueError: as many contexts as questions are not given, a model without such a head, or a number below 1.

    Examples:
      >>> model, params = jm.load("FacebookAI/roberta-base", cls=jm.RobertaForQuestionAnswering, key=jax.random.key(0))
      >>> tok = jm.load_tokenizer("FacebookAI/roberta-base")
      >>> answers = jm.answer(model, params, tok, ["Who sat?"], ["The cat sat on the mat."], top_k=2)
      >>> [answer.text in "The cat sat on the mat." for answer in answers[0]]
      [True, True]
    """
    for name, number in (("top_k", top_k), ("max_answer_length", max_answer_length)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    check_texts("questions", questions)
    if isinstance(contexts, str) or len(contexts) != len(questions):
        raise ValueError(
            f"each of the {len(questions)} questions needs a context or a list of them, got {brief(contexts)}"
        )
    every = [
        Context(question, place, text)
        for question, each in enumerate(contexts)
        for place, text in enumerate([each] if isinstance(each, str) else each)
    ]
    compute = partial(
        run,
        partial(_logits, model),
        params,
        pad_token_id=tokenizer.pad_token_id,
        longest=model.max_source_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    if isinstance(model, DPRReader):
        return _answer_with_reader(tokenizer, compute, questions, every, top_k, max_answer_length, max_length)
    if not type(model).__name__.endswith("ForQuestionAnswering"):
        raise ValueError(
            f"answer takes a model for extractive question answering, got a {type(model).__name__}; load it with "
            'cls="AutoModelForQuestionAnswering"'
        )
    fields = tokenize(
        model,
        tokenizer,
        [questions[context.question] for context in every],
        [context.text for context in every],
        max_length,
        truncation="only_second",
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    return answers_of_windows(
        compute(fields),
        fields,
        every,
        len(questions),
        top_k=top_k,
        max_answer_length=max_answer_length,
        no_answer=no_answer,
    )


def answers_of_windows(
    logits: Sequence[Sequence[np.ndarray]],
    fields: BatchEncoding,
    contexts: Sequence[Context],
    questions: int,
    *,
    top_k: int,
    max_answer_length: int,
    no_answer: bool,
) -> list[list[Answer]]:
    """The best answers to each question.

    Args:
      logits: of each window the logits of starts and ends, [T] each, which may have padding.
      fields: questions and windows of their contexts, with overflow_to_sample_mapping and offset_mapping.
      contexts: the contexts.
      questions: number of questions.
      top_k, max_answer_length, no_answer: see `answer`.
    """
    found: list[list[Answer]] = [[] for _ in range(questions)]
    empty = [np.inf] * questions
    for window, (start, end) in enumerate(logits):
        question, place, text = contexts[int(fields["overflow_to_sample_mapping"][window])]
        empty[question] = min(empty[question], float(start[0] + end[0]))
        in_context = np.array([part == 1 for part in fields.sequence_ids(window)])
        offsets = np.asarray(fields["offset_mapping"][window])
        for first, last in _best_spans(start, end, in_context, max_answer_length):
            begin, stop = int(offsets[first, 0]), int(offsets[last, 1])
            found[question].append(Answer(text[begin:stop], float(start[first] + end[last]), place, begin, stop))
    for question, score in enumerate(empty):
        if no_answer and np.isfinite(score):
            found[question].append(Answer("", score, 0, 0, 0))
    return [_without_repeats(sorted(each, key=lambda answer: -answer.score))[:top_k] for each in found]


def _answer_with_reader(
    tokenizer: Tokenizer,
    compute: Callable[[BatchEncoding], list[Any]],
    questions: Sequence[str],
    passages: Sequence[Context],
    top_k: int,
    max_answer_length: int,
    max_length: int,
) -> list[list[Answer]]:
    if not isinstance(tokenizer, DPRReaderTokenizer):
        raise TypeError(f"a DPRReader needs a DPRReaderTokenizer, got a {type(tokenizer).__name__}")
    if any(isinstance(passage.text, str) or len(passage.text) != 2 for passage in passages):
        raise TypeError("the contexts of a DPRReader are lists of passages (title, text)")
    answers: list[list[Answer]] = [[] for _ in questions]
    if not passages:
        return answers
    fields = tokenizer(
        [questions[passage.question] for passage in passages],
        [passage.text[0] for passage in passages],
        [passage.text[1] for passage in passages],
        truncation=True,
        max_length=min(max_length, tokenizer.model_max_length),
    )
    every = zip(passages, fields["input_ids"], compute(fields), strict=True)
    for question, group in groupby(every, key=lambda row: row[0].question):
        _, ids, logits = zip(*group, strict=True)
        width = max(map(len, ids))
        rows = [padded(row, width, tokenizer.pad_token_id or 0) for row in ids]
        # The scores of padding are not read.
        start, end = (np.stack([np.resize(row[part], width) for row in logits]) for part in (0, 1))
        spans = tokenizer.decode_best_spans(
            {"input_ids": rows},
            (start, end, np.array([row[2] for row in logits])),
            num_spans=top_k,
            max_answer_length=max_answer_length,
        )
        answers[question] = [Answer(span.text, float(span.span_score), span.doc_id, None, None) for span in spans]
    return answers


def _best_spans(
    start: np.ndarray, end: np.ndarray, in_context: np.ndarray, max_answer_length: int
) -> Iterator[tuple[int, int]]:
    """First and last tokens of the spans of a window, from logits of its tokens and of padding."""
    (places,) = np.nonzero(in_context)
    firsts, lasts = (places[np.argsort(-logits[places], kind="stable")[:_CANDIDATES]] for logits in (start, end))
    for first, last in product(firsts, lasts):
        if first <= last < first + max_answer_length:
            yield int(first), int(last)


def _without_repeats(answers: list[Answer]) -> list[Answer]:
    """Overlapping windows find a span twice; the first is kept."""
    unique: dict[tuple, Answer] = {}
    for answer in answers:
        unique.setdefault((answer.context, answer.start, answer.end), answer)
    return list(unique.values())


@partial(jax.jit, static_argnums=0)
def _logits(model: Model, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
    """float32 logits of the starts and the ends [B,T], and of DPR's reader the relevance [B]."""
    out: Any = model.apply({"params": params}, **batch)
    logits = (out.start_logits, out.end_logits, getattr(out, "relevance_logits", None))
    return tuple(x.astype(jnp.float32) for x in logits if x is not None)
