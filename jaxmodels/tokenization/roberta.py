"""RoBERTa's tokenizer (Liu et al. 2019, section 4.4), which RoBERTa-PreLayerNorm uses unchanged."""

from collections.abc import Set as AbstractSet

from tokenizers import AddedToken, processors

from jaxmodels.tokenization.byte_level import ByteLevelTokenizer, read_backend
from jaxmodels.tokenization.settings import check


class RobertaTokenizer(ByteLevelTokenizer):
    """Byte-level BPE with <s> text </s> and <s> text </s></s> second text </s>, from vocabulary and merges or a JSON.

    cls_token, sep_token: what a call puts around texts. mask_token takes the space before it, so that it stands for a
      whole word, unless it is an AddedToken that says otherwise.
    trim_offsets: offsets leave out the space that a token begins with. Token types are zeros, where asked for.
    Further arguments: `Tokenizer` and `ByteLevelTokenizer`. Source: transformers 4.37.2, tokenization_roberta.py and
    tokenization_roberta_fast.py.
    """

    MODEL_TYPES = ("roberta-prelayernorm", "roberta")
    OPTIONS = (*ByteLevelTokenizer.OPTIONS, "trim_offsets")

    def __init__(
        self,
        vocab_file=None,
        merges_file=None,
        tokenizer_file=None,
        *,
        errors: str = "replace",
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        add_prefix_space: bool = False,
        trim_offsets: bool = True,
        **common,
    ):
        if isinstance(mask_token, str):
            mask_token = AddedToken(mask_token, lstrip=True, normalized=False, special=True)
        self._trim_offsets = check("trim_offsets", trim_offsets)
        super().__init__(
            read_backend(vocab_file, merges_file, tokenizer_file, unk_token),
            errors=errors,
            add_prefix_space=add_prefix_space,
            bos_token=bos_token,
            eos_token=eos_token,
            sep_token=sep_token,
            cls_token=cls_token,
            unk_token=unk_token,
            pad_token=pad_token,
            mask_token=mask_token,
            **common,
        )

    @classmethod
    def recognises(cls, tokens: AbstractSet[str]) -> bool:
        return {"<s>", "</s>", "<mask>"} <= tokens

    @property
    def trim_offsets(self) -> bool:
        return self._trim_offsets

    def _special_tokens_changed(self):
        if self.cls_token is None or self.sep_token is None:
            name = type(self).__name__
            raise ValueError(f"a {name} needs a cls_token and a sep_token, got {self.special_tokens_map}")
        # by place: the second one's name differs between releases of tokenizers
        self._backend.post_processor = processors.RobertaProcessing(
            (self.sep_token, self.sep_token_id),
            (self.cls_token, self.cls_token_id),
            trim_offsets=self._trim_offsets,
            add_prefix_space=self.add_prefix_space,
        )
