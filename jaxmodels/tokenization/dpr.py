"""DPR's tokenizers (Karpukhin et al. 2020, "Dense Passage Retrieval"): BERT's, and a reader's calls and answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.tokenization.bert import BertTokenizer
from jaxmodels.tokenization.encoding import BatchEncoding
from jaxmodels.tokenization.inputs import as_batch, plain
from jaxmodels.tokenization.kinds import whole
from jaxmodels.tokenization.options import EncodeOptions
from jaxmodels.tokenization.spans import DPRSpanPrediction, best_spans
from jaxmodels.tokenization.wordpiece import settings_of


class DPRTokenizer(BertTokenizer):
    """What DPR's three tokenizers share: a folder's tokenizer.json rules over its tokenizer_config.json.

    transformers 5 writes do_lower_case=false there, whatever the tokenizer does.
    """

    MODEL_TYPES = ("dpr",)

    @classmethod
    def settle(cls, arguments: dict[str, Any], tokenizer_file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
        return super().settle(arguments, tokenizer_file, config) | settings_of(tokenizer_file)


class DPRQuestionEncoderTokenizer(DPRTokenizer):
    """BERT's tokenizer for the question encoder: `tok(questions)`."""


class DPRContextEncoderTokenizer(DPRTokenizer):
    """BERT's tokenizer for the context encoder: `tok(titles, texts)` or `tok(texts)`."""


class DPRReaderTokenizer(DPRTokenizer):
    """BERT's tokenizer for the reader, whose rows are a question with a passage's title and text.

    Arguments: `BertTokenizer`. Source: transformers 4.37.2, tokenization_dpr.py.
    """

    MODEL_INPUT_NAMES = ("input_ids", "attention_mask")

    def __call__(
        self,
        questions,
        titles=None,
        texts=None,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        **options,
    ) -> BatchEncoding:
        """[CLS] question [SEP] title [SEP] text, without a closing [SEP], for each passage -> fields [N, T].

        titles, texts: str, or N of them. questions: N, or a str for all passages. With titles or texts alone this is a
        pair, with neither a single text, as BERT encodes them; `options` are then the further fields of
        `EncodeOptions`.

        With both, truncation of any strategy cuts rows to `max_length` at their end; without max_length it cuts
        nothing, as in the reference, and a row that the model cannot take brings a warning. attention_mask is 0 where
        an id is pad_token's, in a text, too; with return_attention_mask=False it is there all the same, as in the
        reference, but 0 for padding alone.

        Raises ValueError for no passages, and for titles, texts and questions of different numbers.
        """
        common = {
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "return_tensors": return_tensors,
            "return_attention_mask": return_attention_mask,
        }
        questions, titles, texts = plain(questions), plain(titles), plain(texts)
        if titles is None or texts is None:
            pair = titles if texts is None else texts
            if isinstance(pair, list):
                questions = _for_each(questions, len(pair))
            return super().__call__(questions, pair, **common, **options)
        chosen = EncodeOptions.of("a tokenizer call", common | options)
        strange = [name for name in options if EncodeOptions.has(name) and name != "verbose"]
        if strange:
            raise TypeError(f"questions with titles and texts do not take the options {sorted(strange)}")
        padding, truncation, max_length = chosen.padding, chosen.truncation, chosen.max_length
        titles, texts = ([part] if isinstance(part, str) else part for part in (titles, texts))
        if len(titles) != len(texts):
            raise ValueError(
                f"every passage has a title and a text, got {len(titles)} titles and {len(texts)} texts; "
                "give '' for a title that is not known"
            )
        heads = self._run(as_batch(_for_each(questions, len(titles)), titles, False)[0], EncodeOptions())
        bodies = self._run(as_batch(texts, None, False)[0], EncodeOptions(add_special_tokens=False))
        end = max_length if truncation else None
        rows = [np.asarray(head.ids + body.ids, np.int32)[:end] for head, body in zip(heads, bodies, strict=True)]
        if chosen.verbose:
            self._check_length(max(map(len, rows)), remedy=f"truncation=True, max_length={self.model_max_length}")
        fields = {"input_ids": rows}
        if return_attention_mask is not False:
            fields["attention_mask"] = [(row != self.pad_token_id).astype(np.int32) for row in rows]
        length = max_length if padding == "max_length" else None
        return self.pad(fields, padding=padding, max_length=length, return_tensors=return_tensors)

    def decode_best_spans(
        self,
        reader_input: Mapping,
        reader_output: Sequence,
        num_spans: int = 16,
        max_answer_length: int = 64,
        num_spans_per_passage: int = 4,
    ) -> list[DPRSpanPrediction]:
        """The reader's best answers: passages by relevance, and in each the spans by the sum of their logits.

        reader_input: what a call with titles and texts returned, `input_ids` [N, T]. reader_output: a DPRReader's
        output, whose first three are start_logits and end_logits [N, T] and relevance_logits [N].
        num_spans: answers in all; num_spans_per_passage: of one passage; max_answer_length: tokens of an answer.

        As in the reference, the search in a row begins behind its first [SEP] from position 2 on, which closes the
        question, so titles and the [SEP] behind them can be part of an answer; the row ends before its first pad token
        if its last one is a pad token; and passages after the one that brings the answers to `num_spans` are not
        searched.

        Raises ValueError for logits of another shape than the ids, and for a row without that [SEP].
        """
        limits = {
            "num_spans": num_spans,
            "max_answer_length": max_answer_length,
            "num_spans_per_passage": num_spans_per_passage,
        }
        num_spans, max_answer_length, num_spans_per_passage = (whole(1)(name, value) for name, value in limits.items())
        start_logits, end_logits, relevance_logits = map(np.asarray, reader_output[:3])
        rows = [np.asarray(row).tolist() for row in reader_input["input_ids"]]
        for i, row in enumerate(rows):
            if not (start_logits.shape == end_logits.shape == (len(rows), len(row))):
                raise ValueError(
                    f"row {i} of {len(rows)} has {len(row)} ids, and start_logits and end_logits have the shapes "
                    f"{start_logits.shape} and {end_logits.shape}: give the reader's input and its output for it"
                )
        if relevance_logits.shape != (len(rows),):
            raise ValueError(f"{len(rows)} rows need as many relevance_logits, got the shape {relevance_logits.shape}")
        answers = []
        # stable: of equally relevant passages the earlier one comes first
        for doc_id in np.argsort(-relevance_logits, kind="stable").tolist():
            if len(answers) >= num_spans:
                break
            ids, start, end = rows[doc_id], start_logits[doc_id], end_logits[doc_id]
            searched = self._searched(ids, doc_id)
            for first, last in best_spans(start[searched], end[searched], max_answer_length, num_spans_per_passage):
                first, last = first + searched.start, last + searched.start
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

    def _searched(self, ids: list[int], doc_id: int) -> slice:
        """The part of a row in which answers are searched."""
        if self.sep_token_id not in ids[2:]:
            raise ValueError(
                f"row {doc_id} of input_ids has no {self.sep_token} behind its question, so it has no passage: call "
                "the tokenizer with questions, titles and texts, and truncate to more tokens than the question has"
            )
        padded = ids[-1] == self.pad_token_id
        return slice(ids.index(self.sep_token_id, 2) + 1, ids.index(self.pad_token_id) if padded else len(ids))


def _for_each(questions, passages: int) -> list:
    """A question for each passage: those given, or one for all."""
    if passages == 0:
        raise ValueError("there are no passages: titles and texts are empty")
    if not isinstance(questions, list):
        return [questions] * passages
    if len(questions) != passages:
        raise ValueError(
            f"{passages} passages need as many questions, or one question as a str for all of them, "
            f"got {len(questions)} questions"
        )
    return questions
