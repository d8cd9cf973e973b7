"""WordPiece and BERT's basic tokenization: the vocabulary of BERT and DPR, in which "##" continues a word.

Everything is made of parts that a tokenizer.json can hold, and follows the reference's slow tokenizer rather than its
fast one, whose own part, BertNormalizer, keeps unassigned characters, does not compose accents in cased text, splits at
fewer kinds of punctuation and forgets to split at U+2B820 to U+2B91F.

What a character is comes from the library's Unicode tables (16.0); the reference's slow tokenizer takes Python's (14.0
in Python 3.11), and so differs in characters that were assigned between these versions.
"""

import dataclasses
import json
import os
import re
import warnings
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jaxmodels import download
from jaxmodels.tokenization.tokenizer_json import read_tokenizer_json

# The ranges that BERT calls Chinese. They hold neither kana nor Hangul.
CJK = r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}"
# ASCII symbols such as $ and ^ count, too.
PUNCTUATION = r"!-/:-@\[-`{-~\p{P}"


def _remove(pattern: str) -> normalizers.Normalizer:
    return normalizers.Replace(tokenizers.Regex(pattern), "")


def _split(pattern: str, behaviour: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behaviour)


CLEAN = _remove(r"[\p{C}\x{FFFD}&&[^\t\n\r]]")
STRIP_ACCENTS = (normalizers.NFD(), _remove(r"\p{Mn}"))
# Python's white space: Unicode's and four control characters.
WORDS = _split(r"[\s\x{1C}-\x{1F}]+", "removed")
CHINESE = _split(f"[{CJK}]", "isolated")


@dataclasses.dataclass(frozen=True)
class BasicTokenization:
    """What happens to a text before WordPiece; the options are those of `BertTokenizer`."""

    do_lower_case: bool
    do_basic_tokenize: bool
    never_split: tuple[str, ...]
    tokenize_chinese_chars: bool
    strip_accents: bool | None

    def normalizer(self) -> normalizers.Normalizer:
        if not self.do_basic_tokenize:
            return normalizers.Sequence([])
        strip = self.do_lower_case if self.strip_accents is None else self.strip_accents
        lower = [normalizers.Lowercase()] if self.do_lower_case else []
        return normalizers.Sequence([CLEAN, *lower, *(STRIP_ACCENTS if strip else [normalizers.NFC()])])

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        if not self.do_basic_tokenize:
            return pre_tokenizers.Sequence([WORDS])
        chinese = [CHINESE] if self.tokenize_chinese_chars else []
        # a whole word of never_split comes before punctuation in it
        kept = "".join(rf"\A{re.escape(word)}\z|" for word in self.never_split)
        return pre_tokenizers.Sequence([WORDS, *chinese, _split(f"{kept}[{PUNCTUATION}]", "isolated")])


def read_backend(vocab_file, tokenizer_file, basic: BasicTokenization, unk_token: str) -> tokenizers.Tokenizer:
    """The library's tokenizer, without a post-processor, from a vocabulary or from a tokenizer.json.

    vocab_file: a token a line, whose number is its id. From a tokenizer.json come the vocabulary and the added tokens;
    `basic` rules over its normalizer and pre-tokenizer, as the reference's constructors do.

    Raises ValueError for a tokenizer.json that is not a BERT's, and for a vocabulary without unk_token.
    """
    if (vocab_file is None) == (tokenizer_file is None):
        raise ValueError("give tokenizer_file alone, or vocab_file alone")
    path = vocab_file if tokenizer_file is None else tokenizer_file
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {path}")
    source = None if tokenizer_file is None else _from_tokenizer_json(path, basic)
    model = models.WordPiece(_read_vocabulary(path)) if source is None else source.model
    if model.token_to_id(unk_token) is None:
        raise ValueError(f"{path} has no token {unk_token!r}, which stands for words that it lacks: pass unk_token")
    model.unk_token = unk_token
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = basic.normalizer()
    backend.pre_tokenizer = basic.pre_tokenizer()
    # clean-up is the tokenizer's own affair, which can be switched off
    backend.decoder = decoders.WordPiece(prefix=model.continuing_subword_prefix, cleanup=False)
    for word in basic.never_split:
        if model.token_to_id(word) is None or backend.normalizer.normalize_str(word) != word:
            raise ValueError(
                f"never_split: {word!r} is not a token of the vocabulary, or cleaning and lower-casing a text changes "
                "it, so it cannot be kept: enter it with tok.add_tokens instead"
            )
    if source is not None:
        backend.add_tokens([token for _, token in sorted(source.get_added_tokens_decoder().items())])
    return backend


def _read_vocabulary(path) -> dict[str, int]:
    try:
        with open(path, encoding="utf-8") as lines:
            return {line.rstrip("\n"): i for i, line in enumerate(lines)}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a vocabulary in UTF-8: {error}") from error


def write_vocabulary(path, vocabulary: dict[str, int]):
    """Write vocab.txt; an id that no token has, since a token stood twice in the file read, keeps an empty line."""
    tokens = {i: token for token, i in vocabulary.items()}
    with open(path, "w", encoding="utf-8") as lines:
        lines.writelines(tokens.get(i, "") + "\n" for i in range(max(tokens) + 1))


def _from_tokenizer_json(path, basic: BasicTokenization) -> tokenizers.Tokenizer:
    source = read_tokenizer_json(path, "BERT's WordPiece", model="WordPiece")
    normalizer, pre_tokenizer = _state(source.normalizer), _state(source.pre_tokenizer)
    known = normalizer.get("type") == "BertNormalizer" and pre_tokenizer.get("type") == "BertPreTokenizer"
    own = normalizer.get("normalizers", [])[:1] in ([], [_state(CLEAN)])
    if not known and not (own and pre_tokenizer.get("pretokenizers", [])[:1] == [_state(WORDS)]):
        raise ValueError(
            f"{path} is WordPiece, but does not prepare a text as BERT does: its normalizer is {normalizer}, its "
            f"pre-tokenizer {pre_tokenizer}"
        )
    if known and normalizer["lowercase"] != basic.do_lower_case:
        warnings.warn(
            f"{path} says lowercase={normalizer['lowercase']}, but do_lower_case={basic.do_lower_case} rules, as in "
            f"the reference: pass do_lower_case={normalizer['lowercase']} unless that is meant",
            stacklevel=2,
        )
    return source


def _state(part) -> dict:
    return {} if part is None else json.loads(part.__getstate__())


def settings_of(path) -> dict[str, bool | None]:
    """The options of `BasicTokenization` that a tokenizer.json with BERT's own normalizer stands for; {} for others."""
    normalizer = download.read_json(Path(path)).get("normalizer") or {}
    names = {"lowercase": "do_lower_case", "handle_chinese_chars": "tokenize_chinese_chars"}
    names["strip_accents"] = "strip_accents"
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return {}
    return {ours: normalizer[theirs] for theirs, ours in names.items() if theirs in normalizer}
