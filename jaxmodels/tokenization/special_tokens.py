"""Special tokens and added tokens of a tokenizer, kept beside the library's vocabulary."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Self, overload

import tokenizers
from tokenizers import AddedToken

from jaxmodels.tokenization import unsupported
from jaxmodels.tokenization.arguments import Token
from jaxmodels.tokenization.backend import Backend
from jaxmodels.tokenization.validation import boolean, invalid, string, token_id

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
ADDITIONAL = "additional_special_tokens"
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


def to_added_token(token: Any, special: bool, name: str = "a token") -> AddedToken:
    """Convert a token of a call or a file (a str, an AddedToken or a mapping with its content) to an AddedToken.

    Args:
      token: the token.
      special: whether it is a special token; a mapping or AddedToken may also say so.
      name: name of the option or key, for errors.

    Raises:
      ValueError: a value of another type, an empty token, or one that is not valid Unicode.
    """
    if isinstance(token, str):
        return AddedToken(_nonempty(name, token), special=special, normalized=not special)
    if isinstance(token, AddedToken):
        token = token.__getstate__()
    if not isinstance(token, Mapping) or not isinstance(token.get("content"), str):
        raise invalid(name, "a str or a tokenizers.AddedToken, or an object with its content", token)
    flags = {key: boolean(f"{name}: {key}", token[key]) for key in FLAGS if key in token}
    special = special or boolean(f"{name}: special", token.get("special", False))
    return AddedToken(_nonempty(name, token["content"]), special=special, **flags)


def token_content(token: Any) -> str:
    """Return the text of a token, which may be anything that `to_added_token` accepts."""
    return to_added_token(token, special=True).content


def token_list(name: str, value: Any) -> Sequence[Any]:
    """Validate a list or tuple of tokens."""
    if not isinstance(value, (list, tuple)):
        raise invalid(name, "a list of tokens", value)
    return value


def _nonempty(name: str, text: str) -> str:
    if not text:
        raise ValueError(f"{name} must not be empty, got ''")
    return string(name, text)


def parse_added_tokens(tokens: Any) -> dict[int, AddedToken]:
    """Validate added_tokens_decoder, whose ids and tokens may also have the form of files."""
    if not isinstance(tokens, Mapping):
        raise invalid("added_tokens_decoder", "a dict of ids and tokens", tokens)
    return {
        token_id("added_tokens_decoder", i): to_added_token(token, special=False, name=f"added_tokens_decoder[{i}]")
        for i, token in tokens.items()
    }


class _SpecialToken:
    """`tok.pad_token`: the token as a str, or None. It can be set to a token of the vocabulary or to None."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, tokenizer: None, owner: type) -> Self: ...

    @overload
    def __get__(self, tokenizer: "SpecialTokens", owner: type) -> str | None: ...

    def __get__(self, tokenizer: "SpecialTokens | None", owner: type) -> Self | str | None:
        return self if tokenizer is None else tokenizer._special.get(self.name)

    def __set__(self, tokenizer: "SpecialTokens", token: Token | None) -> None:
        content = None if token is None else to_added_token(token, special=True).content
        tokenizer._assign_special_token(self.name, content)


class _SpecialTokenId:
    """`tok.pad_token_id`: the id of `tok.pad_token`, or None. Setting it assigns the token with that id."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    @overload
    def __get__(self, tokenizer: None, owner: type) -> Self: ...

    @overload
    def __get__(self, tokenizer: "SpecialTokens", owner: type) -> int | None: ...

    def __get__(self, tokenizer: "SpecialTokens | None", owner: type) -> Self | int | None:
        if tokenizer is None:
            return self
        token = tokenizer._special.get(self.name)
        return None if token is None else tokenizer._backend.token_to_id(token)

    def __set__(self, tokenizer: "SpecialTokens", index: int | None) -> None:
        token = None if index is None else tokenizer._id_to_token(token_id(f"{self.name}_id", index))
        if token is None and index is not None:
            raise ValueError(f"{self.name}_id: no token has the id {index}; ids go from 0 to {len(tokenizer) - 1}")
        tokenizer._assign_special_token(self.name, token)


class SpecialTokens:
    """The part of a tokenizer that handles special and added tokens."""

    bos_token, bos_token_id = _SpecialToken(), _SpecialTokenId()
    eos_token, eos_token_id = _SpecialToken(), _SpecialTokenId()
    unk_token, unk_token_id = _SpecialToken(), _SpecialTokenId()
    sep_token, sep_token_id = _SpecialToken(), _SpecialTokenId()
    pad_token, pad_token_id = _SpecialToken(), _SpecialTokenId()
    cls_token, cls_token_id = _SpecialToken(), _SpecialTokenId()
    mask_token, mask_token_id = _SpecialToken(), _SpecialTokenId()

    _engine: Backend

    @property
    def _backend(self) -> tokenizers.Tokenizer:
        return self._engine.tokenizer

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def __getattr__(self, name: str) -> Any:
        # copy and pickle look up attributes before any are set
        extra = vars(self).get("_extra", ())
        if name in extra:
            return self._special.get(name)
        if name.removesuffix("_id") in extra:
            return self._backend.token_to_id(self._special[name.removesuffix("_id")])
        raise unsupported.missing_attribute(type(self).__name__, name, dir(type(self)))

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary without added tokens."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Return {token: id}, including added tokens."""
        return self._backend.get_vocab(with_added_tokens=True)

    def _init_special_tokens(
        self,
        added: Mapping[int, AddedToken],
        special: Mapping[str, Token | None],
        additional: Sequence[Token],
        extra: Mapping[str, Token],
    ) -> None:
        """Add the tokens of a file and of the constructor; those that the vocabulary lacks get ids at its end.

        Args:
          added: {id: token} of the file's added tokens.
          special: {name: token} with names of SPECIAL_TOKENS.
          additional: special tokens without a name.
          extra: {name: token} with other names, which become attributes.
        """
        self._special: dict[str, str] = {}
        self._additional: list[str] = []
        self._extra = tuple(extra)
        for name in extra:
            if not name.isidentifier() or hasattr(type(self), name) or name in vars(self):
                raise ValueError(
                    f"{name!r} cannot be the name of an extra special token: it is in use or is not an identifier"
                )
        present = self._backend.get_added_tokens_decoder()
        self._add_to_backend([token for i, token in sorted(added.items()) if repr(token) != repr(present.get(i))])
        for i, token in added.items():
            actual = self._backend.token_to_id(token.content)
            if actual != i:
                raise ValueError(
                    f"added token {token.content!r} must have the id {i} and would get {actual}: the vocabulary and "
                    "the list of added tokens do not belong together"
                )
        named = {name: token for name, token in {**special, **extra}.items() if token is not None}
        requested = [*(named[name] for name in self._special_token_names() if name in named), *additional]
        # special tokens of the file keep the flags they have there
        entered = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        new = [to_added_token(token, special=True) for token in requested if token_content(token) not in entered]
        self._add_to_backend(new)
        self._special = {name: token_content(token) for name, token in named.items()}
        self._additional = [token_content(token) for token in additional]

    def _special_token_names(self) -> tuple[str, ...]:
        return (*SPECIAL_TOKENS, *self._extra)

    def _add_to_backend(self, tokens: Sequence[AddedToken]) -> None:
        """Add tokens in one batch, since each call rebuilds the library's matcher."""
        new = [token.content for token in tokens if self._backend.token_to_id(token.content) is None]
        self._backend.add_tokens(tokens)
        for content in new:
            i = self._backend.token_to_id(content)
            other = self._backend.model.id_to_token(i)
            if other not in (None, content):
                raise ValueError(
                    f"{content!r} would get the id {i}, which is {other!r}'s: the ids of this vocabulary have gaps, so "
                    "no tokens can be added at its end"
                )
        self._added_content = {i: token.content for i, token in self._backend.get_added_tokens_decoder().items()}

    def _id_to_token(self, index: int) -> str | None:
        """Return the token of an id; the library would return added tokens in the normalizer's lower case."""
        content = self._added_content.get(index)
        return self._backend.id_to_token(index) if content is None else content

    def _assign_special_token(self, name: str, token: str | None) -> None:
        if token is None:
            self._special.pop(name, None)
        elif self._backend.token_to_id(token) is None:
            raise ValueError(
                f"{name} = {token!r} is not in the vocabulary: add it with "
                f"tok.add_special_tokens({{{name!r}: {token!r}}}) and an embedding row of the model for it, or use an "
                "existing token such as tok.eos_token"
            )
        else:
            self._special[name] = token
        self._update_post_processor()

    def _update_post_processor(self) -> None:
        """Hook for classes whose post-processor holds special tokens; called after these change."""

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens that have no name."""
        return list(self._additional)

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Ids of `additional_special_tokens`."""
        return [self._backend.token_to_id(token) for token in self._additional]

    @property
    def extra_special_tokens(self) -> dict[str, str]:
        """{name: token} of the special tokens with nonstandard names; each is also an attribute."""
        return {name: self._special[name] for name in self._extra}

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """{name: token} of the special tokens that are set."""
        named: dict[str, str | list[str]] = {
            name: self._special[name] for name in self._special_token_names() if name in self._special
        }
        return named | ({ADDITIONAL: list(self._additional)} if self._additional else {})

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens without duplicates."""
        named = [self._special[name] for name in self._special_token_names() if name in self._special]
        return list(dict.fromkeys([*named, *self._additional]))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return [self._backend.token_to_id(token) for token in self.all_special_tokens]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """{id: token} of the tokens that are matched before a text is split, special tokens included."""
        return dict(sorted(self._backend.get_added_tokens_decoder().items()))

    def get_added_vocab(self) -> dict[str, int]:
        """Return {token: id} of `added_tokens_decoder`."""
        return {token.content: i for i, token in self.added_tokens_decoder.items()}

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens that are never split. The model needs an embedding row for each new one.

        Args:
          new_tokens: a token or a list of tokens.
          special_tokens: whether they are special tokens.

        Returns:
          The number of tokens that were not in the vocabulary and were added at its end.

        Raises:
          ValueError: an invalid token, or a vocabulary whose ids have gaps.
        """
        if isinstance(new_tokens, (str, AddedToken)):
            new_tokens = [new_tokens]
        special, size = boolean("special_tokens", special_tokens), len(self)
        self._add_to_backend([to_added_token(token, special) for token in token_list("new_tokens", new_tokens)])
        return len(self) - size

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Any],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Set special tokens by name ({"pad_token": "[PAD]"}) and add those that the vocabulary lacks.

        Args:
          special_tokens_dict: {name: token}; additional_special_tokens takes a list.
          replace_additional_special_tokens: replace the additional special tokens instead of extending them.

        Returns:
          The number of tokens that were not in the vocabulary.

        Raises:
          ValueError: an unknown name or an invalid token.
        """
        if not isinstance(special_tokens_dict, Mapping):
            raise invalid("special_tokens_dict", 'a dict like {"pad_token": "[PAD]"}', special_tokens_dict)
        replace = boolean("replace_additional_special_tokens", replace_additional_special_tokens)
        known = (*self._special_token_names(), ADDITIONAL)
        unknown = sorted(map(str, set(special_tokens_dict) - set(known)))
        if unknown:
            raise ValueError(f"unknown names of special tokens: {unknown}; expected {list(known)}")
        listed = token_list(ADDITIONAL, special_tokens_dict.get(ADDITIONAL, ()))
        additional = [to_added_token(token, special=True) for token in listed]
        named = {
            name: to_added_token(token, special=True, name=name)
            for name, token in special_tokens_dict.items()
            if name != ADDITIONAL
        }
        # new ids are assigned in the order of the mapping
        new = [additional if name == ADDITIONAL else [named[name]] for name in special_tokens_dict]
        count = self.add_tokens(list(chain(*new)), special_tokens=True)
        for name, token in named.items():
            self._assign_special_token(name, token.content)
        if additional:
            existing = [] if replace else self._additional
            self._additional = list(dict.fromkeys([*existing, *(token.content for token in additional)]))
        return count
