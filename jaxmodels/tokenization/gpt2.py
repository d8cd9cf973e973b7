"""GPT-2's tokenizer (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2)."""

from collections.abc import Set as AbstractSet

from tokenizers import processors

from jaxmodels.tokenization.byte_level import ByteLevelTokenizer, read_backend
from jaxmodels.tokenization.settings import check


class GPT2Tokenizer(ByteLevelTokenizer):
    """Byte-level BPE with the one special token <|endoftext|>, from vocab_file and merges_file or from tokenizer_file.

    add_bos_token: put bos_token before each text, before both of a pair. False leaves the post-processor that a
      tokenizer.json may bring. (The reference's fast tokenizer ignores the option; this follows its slow one.)
    pad_token: none by default; `tok.pad_token = tok.eos_token` is the usual choice.
    Further arguments: `Tokenizer` and `ByteLevelTokenizer`. Source: transformers 4.37.2, tokenization_gpt2.py and
    tokenization_gpt2_fast.py.
    """

    MODEL_TYPES = ("gpt2",)
    OPTIONS = (*ByteLevelTokenizer.OPTIONS, "add_bos_token")
    DEFAULT_CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"

    def __init__(
        self,
        vocab_file=None,
        merges_file=None,
        tokenizer_file=None,
        *,
        errors: str = "replace",
        unk_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token=None,
        add_prefix_space: bool = False,
        add_bos_token: bool = False,
        **common,
    ):
        self._add_bos_token = check("add_bos_token", add_bos_token)
        backend = read_backend(vocab_file, merges_file, tokenizer_file, unk_token)
        if tokenizer_file is None:
            # offsets keep the space before a word, as in the reference
            backend.post_processor = processors.ByteLevel(trim_offsets=False)
        super().__init__(
            backend,
            errors=errors,
            add_prefix_space=add_prefix_space,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            **common,
        )

    @classmethod
    def recognises(cls, tokens: AbstractSet[str]) -> bool:
        # RoBERTa's vocabulary holds GPT-2's
        return "<|endoftext|>" in tokens and "<s>" not in tokens

    @property
    def add_bos_token(self) -> bool:
        return self._add_bos_token

    def _special_tokens_changed(self):
        if not self._add_bos_token:
            return
        if self.bos_token is None:
            raise ValueError("add_bos_token=True needs a bos_token")
        self._backend.post_processor = processors.TemplateProcessing(
            single="bos:0 $A:0",
            pair="bos:0 $A:0 bos:1 $B:1",
            special_tokens=[{"id": "bos", "ids": [self.bos_token_id], "tokens": [self.bos_token]}],
        )
