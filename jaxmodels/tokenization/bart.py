"""BART's tokenizer (Lewis et al. 2020, "BART: Denoising Sequence-to-Sequence Pre-training", section 2)."""

from jaxmodels.tokenization.roberta import RobertaTokenizer


class BartTokenizer(RobertaTokenizer):
    """RoBERTa's tokenizer with RoBERTa's vocabulary, for encoder texts and, as `text_target`, for the decoder's.

    Arguments: `RobertaTokenizer`. Source: transformers 4.37.2, tokenization_bart.py and tokenization_bart_fast.py.
    """

    MODEL_TYPES = ("bart",)
