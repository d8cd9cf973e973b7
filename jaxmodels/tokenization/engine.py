"""The `tokenizers` library with truncation, padding and splitting as arguments of a call instead of state."""

import contextlib
import threading

import tokenizers

from jaxmodels.tokenization.inputs import check_unicode


class Engine:
    """Encodes batches from any thread; pickles and copies like the library's tokenizer that it holds as `tokenizer`."""

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self._lock = threading.Lock()

    def __getstate__(self):
        return self.tokenizer

    def __setstate__(self, tokenizer):
        self.__init__(tokenizer)

    def encode(
        self,
        rows: list,
        *,
        words: bool,
        add_special_tokens: bool,
        split_special_tokens: bool,
        truncation: dict | None,
        padding: dict | None,
    ) -> list[tokenizers.Encoding]:
        """Encode texts, or tuples for pairs, as `inputs.as_batch` gives them.

        truncation: {max_length, stride, strategy, direction}; padding: the arguments of `enable_padding`;
        split_special_tokens: special tokens in a text are ordinary text.

        Raises ValueError where the truncation is impossible, and for text that is not valid Unicode.
        """
        if truncation:
            self._check(rows, add_special_tokens, **truncation)
        with self._lock, self._state(split_special_tokens, truncation, padding):
            try:
                return self.tokenizer.encode_batch(rows, words, add_special_tokens)
            except BaseException as error:
                # The library raises Exception itself where a strategy cannot make a row short enough, and panics, which
                # is no Exception, where the stride does not fit into what a text of a pair keeps.
                if not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
                    raise
                check_unicode(rows)
                if not truncation:
                    raise ValueError(f"the vocabulary cannot encode this text: {error}") from error
                raise ValueError(
                    f"truncation={truncation['strategy']!r} with stride {truncation['stride']} cannot bring a row of "
                    f"this batch to {truncation['max_length']} tokens: {error}"
                ) from error

    @contextlib.contextmanager
    def _state(self, split_special_tokens: bool, truncation: dict | None, padding: dict | None):
        self.tokenizer.encode_special_tokens = split_special_tokens
        try:
            if truncation:
                self.tokenizer.enable_truncation(**truncation)
            if padding:
                self.tokenizer.enable_padding(**padding)
            yield
        finally:
            self.tokenizer.no_truncation()
            self.tokenizer.no_padding()

    def _check(self, rows, add_special_tokens, *, max_length, stride, strategy, direction):
        """What the library would answer with a crash."""
        pairs = [isinstance(row, tuple) for row in rows]
        if strategy == "only_second" and not all(pairs):
            raise ValueError("truncation='only_second' needs a second text in every row: pass text_pair")
        extra = self.tokenizer.num_special_tokens_to_add(any(pairs)) if add_special_tokens else 0
        if not 0 <= stride < max_length - extra:
            raise ValueError(
                f"max_length={max_length} leaves {max_length - extra} tokens for text beside the special ones; "
                f"the stride, {stride}, must lie between 0 and one less"
            )
