"""DPR's tokenizers: BERT's for questions and contexts, and the reader's with extraction of answers.

From Karpukhin et al. 2020, "Dense Passage Retrieval for Open-Domain Question Answering".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Unpack

import numpy as np

from jaxmodels.tokenization.arguments import EncodeOptions, ExtraEncodeKwargs, TextInput, to_batch, to_list
from jaxmodels.tokenization.bert import BertTokenizer, basic_tokenization_settings
from jaxmodels.tokenization.encoding import BatchEncoding
from jaxmodels.tokenization.validation import integer


class DPRSpanPrediction(NamedTuple):
    """An answer that the reader found.

    Attributes:
      span_score: sum of the logits of the span's start and end.
      relevance_score: the passage's relevance logit.
      doc_id: index of the passage in the batch.
      start_index, end_index: first and last token of the span.
      text: the decoded span.
    """

    span_score: float
    relevance_score: float
    doc_id: int
    start_index: int
    end_index: int
    text: str


class DPRTokenizer(BertTokenizer):
    """Base class of DPR's tokenizers: a folder's tokenizer.json takes precedence over its tokenizer_config.json.

    transformers 5 always writes do_lower_case=false into the latter.
    """

    MODEL_TYPES: ClassVar = ("dpr",)

    @classmethod
    def resolve_arguments(
        cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        return super().resolve_arguments(arguments, tokenizer_file, config) | basic_tokenization_settings(
            tokenizer_file
        )


class DPRQuestionEncoderTokenizer(DPRTokenizer):
    """BERT's tokenizer for the question encoder: `tok(questions)`."""


class DPRContextEncoderTokenizer(DPRTokenizer):
    """BERT's tokenizer for the context encoder: `tok(titles, texts)` or `tok(texts)`."""


class DPRReaderTokenizer(DPRTokenizer):
    """BERT's tokenizer for the reader, whose inputs are a question with the title and text of a passage.

    Arguments are those of `BertTokenizer`. From transformers 4.37.2, tokenization_dpr.py.
    """

    MODEL_INPUT_NAMES: ClassVar = ("input_ids", "attention_mask")

    def __call__(  # type: ignore[override]  # the arguments are those of transformers
        self,
        questions: TextInput,
        titles: TextInput | None = None,
        texts: TextInput | None = None,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: Literal["np", "jax"] | None = None,
        return_attention_mask: bool | None = None,
        **options: Unpack[ExtraEncodeKwargs],
    ) -> BatchEncoding:
        """Encode [CLS] question [SEP] title [SEP] text, without a final [SEP], for each passage.

        With titles and texts, truncation of any strategy removes tokens beyond `max_length` at the end; without
        max_length it has no effect, as in transformers, and a warning is emitted for sequences that are too long for
        the model. attention_mask is 0 for every pad_token, including those in a text. return_attention_mask=False does
        not remove it, as in transformers, but it is then 0 for padding only.

        Args:
          questions: N questions, or a str for all passages.
          titles, texts: a str, or N of them. With only one of these, BERT's pairs are encoded; with neither, texts.
          padding, truncation, max_length, return_tensors, return_attention_mask: see `EncodeOptions`.
          options: without titles or texts, the other fields of `EncodeOptions`.

        Returns:
          Fields [N, T].

        Raises:
          ValueError: no passages, or different numbers of titles, texts and questions.
        """
        common: dict[str, Any] = {
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "return_tensors": return_tensors,
            "return_attention_mask": return_attention_mask,
        }
        question_list, title_list, text_list = to_list(questions), to_list(titles), to_list(texts)
        if title_list is None or text_list is None:
            pair = title_list if text_list is None else text_list
            if isinstance(pair, list):
                question_list = _per_passage(question_list, len(pair))
            return super().__call__(question_list, pair, **common, **options)
        parsed = EncodeOptions.from_kwargs("a tokenizer call", {**common, **options})
        rejected = [name for name in options if EncodeOptions.has(name) and name != "verbose"]
        if rejected:
            raise TypeError(f"a call with titles and texts does not support the options {sorted(rejected)}")
        title_list, text_list = ([part] if isinstance(part, str) else part for part in (title_list, text_list))
        if len(title_list) != len(text_list):
            raise ValueError(
                f"each passage needs a title and a text, got {len(title_list)} titles and {len(text_list)} texts; pass "
                "'' for an unknown title"
            )
        pairs, _ = to_batch(_per_passage(question_list, len(title_list)), title_list, False)
        bodies, _ = to_batch(text_list, None, False)
        prefixes = self._encode_batch(pairs, EncodeOptions())
        suffixes = self._encode_batch(bodies, EncodeOptions(add_special_tokens=False))
        end = parsed.max_length if parsed.truncation else None
        sequences = [
            np.asarray(prefix.ids + suffix.ids, np.int32)[:end]
            for prefix, suffix in zip(prefixes, suffixes, strict=True)
        ]
        if parsed.verbose:
            longest = max(map(len, sequences))
            self._check_length(longest, remedy=f"truncation=True, max_length={self.model_max_length}")
        fields = {"input_ids": sequences}
        if return_attention_mask is not False:
            fields["attention_mask"] = [(ids != self.pad_token_id).astype(np.int32) for ids in sequences]
        return self.pad(
            fields,
            padding=parsed.padding,
            max_length=parsed.max_length if parsed.padding == "max_length" else None,
            return_tensors=return_tensors,
        )

    def decode_best_spans(
        self,
        reader_input: Mapping[str, Any],
        reader_output: Sequence[Any],
        num_spans: int = 16,
        max_answer_length: int = 64,
        num_spans_per_passage: int = 4,
    ) -> list[DPRSpanPrediction]:
        """Extract the reader's best answers: passages by relevance, and spans of each by the sum of their logits.

        As in transformers, spans are searched after the first [SEP] at position 2 or later, which ends the question, so
        titles and the [SEP] after them can be part of an answer. A sequence whose last token is a pad token ends before
        its first pad token. Passages after the one that brings the answers to `num_spans` are not searched.

        Args:
          reader_input: output of a call with titles and texts; `input_ids` [N, T].
          reader_output: a DPRReader's output, whose first three elements are start_logits and end_logits [N, T] and
            relevance_logits [N].
          num_spans: maximum number of answers.
          max_answer_length: maximum number of tokens of an answer.
          num_spans_per_passage: maximum number of answers of one passage.

        Raises:
          ValueError: logits whose shapes do not match the ids, or a sequence without that [SEP].
        """
        num_spans = integer(1)("num_spans", num_spans)
        max_answer_length = integer(1)("max_answer_length", max_answer_length)
        num_spans_per_passage = integer(1)("num_spans_per_passage", num_spans_per_passage)
        start_logits, end_logits, relevance_logits = map(np.asarray, reader_output[:3])
        sequences = [np.asarray(ids).tolist() for ids in reader_input["input_ids"]]
        for i, ids in enumerate(sequences):
            if not (start_logits.shape == end_logits.shape == (len(sequences), len(ids))):
                raise ValueError(
                    f"sequence {i} of {len(sequences)} has {len(ids)} ids, but start_logits and end_logits have the "
                    f"shapes {start_logits.shape} and {end_logits.shape}: pass the reader's input and the output for it"
                )
        if relevance_logits.shape != (len(sequences),):
            raise ValueError(
                f"relevance_logits must have the shape ({len(sequences)},), one per passage, got "
                f"{relevance_logits.shape}"
            )
        answers: list[DPRSpanPrediction] = []
        # stable: of equally relevant passages the first one is searched first
        for doc_id in np.argsort(-relevance_logits, kind="stable").tolist():
            if len(answers) >= num_spans:
                break
            ids, start, end = sequences[doc_id], start_logits[doc_id], end_logits[doc_id]
            begin, stop = self._passage_range(ids, doc_id)
            spans = best_spans(start[begin:stop], end[begin:stop], max_answer_length, num_spans_per_passage)
            for first, last in spans:
                first, last = first + begin, last + begin
                answers.append(
                    DPRSpanPrediction(
                        span_score=float(start[first] + end[last]),
                        relevance_score=float(relevance_logits[doc_id]),
                        doc_id=doc_id,
                        start_index=first,
                        end_index=last,
                        text=self.decode(ids[first : last + 1]),
                    )
                )
        return answers[:num_spans]

    def _passage_range(self, ids: list[int], doc_id: int) -> tuple[int, int]:
        """Return the range of a sequence in which answers are searched."""
        separator, padding = self.sep_token_id, self.pad_token_id
        if separator is None or separator not in ids[2:]:
            raise ValueError(
                f"sequence {doc_id} of input_ids has no {self.sep_token} after its question and thus no passage: call "
                "the tokenizer with questions, titles and texts, and truncate to more tokens than the question has"
            )
        end = ids.index(padding) if padding is not None and ids[-1] == padding else len(ids)
        return ids.index(separator, 2) + 1, end


def _per_passage(questions: Any, num_passages: int) -> list[Any]:
    """Return one question per passage; a single question is repeated."""
    if num_passages == 0:
        raise ValueError("there are no passages: titles and texts are empty")
    if not isinstance(questions, list):
        return [questions] * num_passages
    if len(questions) != num_passages:
        raise ValueError(
            f"{num_passages} passages need as many questions, or one question as a str for all of them, got "
            f"{len(questions)} questions"
        )
    return questions


def best_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, max_answer_length: int, top_spans: int
) -> list[tuple[int, int]]:
    """Return the best spans of a passage.

    A span's score is the sum of its two logits, in their dtype. A span inside a better one, or around it, is left out;
    one that overlaps it partially is not. Of equal scores the earlier start comes first, then the shorter span. From
    transformers 4.37.2, tokenization_dpr.py, `_get_best_spans`.

    Args:
      start_logits, end_logits: [T].
      max_answer_length: maximum number of tokens of a span.
      top_spans: maximum number of spans.

    Returns:
      (first token, last token) of each span, best first.
    """
    # a larger limit than the length of the passage would only take memory
    max_answer_length = max(1, min(max_answer_length, len(start_logits)))
    starts, extra = np.divmod(np.arange(len(start_logits) * max_answer_length), max_answer_length)
    ends = starts + extra
    inside = ends < len(end_logits)
    starts, ends = starts[inside], ends[inside]
    scores = start_logits[starts] + end_logits[ends]
    selected: list[tuple[int, int]] = []
    while scores.size and len(selected) < top_spans:
        best = scores.argmax()  # the first of equal scores
        start, end = starts[best], ends[best]
        selected.append((int(start), int(end)))
        nested = (starts >= start) & (ends <= end) | (starts <= start) & (ends >= end)
        starts, ends, scores = starts[~nested], ends[~nested], scores[~nested]
    return selected
