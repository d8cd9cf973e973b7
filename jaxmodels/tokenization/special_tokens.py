"""Special tokens and added tokens: the names by which a model knows them, kept beside the library's vocabulary."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from tokenizers import AddedToken

from jaxmodels.tokenization.kinds import boolean, refused, string, whole

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
ADDITIONAL = "additional_special_tokens"


FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
# No table of embeddings has more rows; ids that no model could read are damage.
as_id = whole(0, 2**24)


def as_added_token(token: str | Mapping | AddedToken, special: bool, name: str = "a token") -> AddedToken:
    """A token as files and callers give it (its text, or flags, too) -> with flags.

    Raises:
      ValueError: anything else, an empty text, and one that is not valid Unicode; it begins with `name`.
    """
    expected = "a str or a tokenizers.AddedToken, or an object with its content"
    if isinstance(token, str):
        return AddedToken(_text(name, token), special=special, normalized=not special)
    if isinstance(token, AddedToken):
        token = token.__getstate__()
    if not isinstance(token, Mapping) or not isinstance(token.get("content"), str):
        raise refused(name, expected, token)
    flags = {key: boolean(f"{name}: {key}", token[key]) for key in FLAGS if key in token}
    special = special or boolean(f"{name}: special", token.get("special", False))
    return AddedToken(_text(name, token["content"]), special=special, **flags)


def _text(name: str, text: str) -> str:
    if not text:
        raise ValueError(f"{name} must have a text, got ''")
    return string(name, text)


def content(token: str | Mapping | AddedToken) -> str:
    """The text of a token, however it is given."""
    return as_added_token(token, special=True).content


class _Token:
    """`tok.pad_token`: the text of the token or None. Setting takes a token of the vocabulary, or None."""

    def __set_name__(self, owner, name: str):
        self.name = name

    def __get__(self, tokenizer, owner=None) -> str | None:
        return self if tokenizer is None else tokenizer._special.get(self.name)

    def __set__(self, tokenizer, token: str | AddedToken | None):
        tokenizer._name_special(
            self.name,
            None if token is None else as_added_token(token, special=True).content,
        )


class _TokenId:
    """`tok.pad_token_id`: the id of `tok.pad_token` or None. Setting names the token that has this id."""

    def __set_name__(self, owner, name: str):
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer, owner=None) -> int | None:
        if tokenizer is None:
            return self
        token = tokenizer._special.get(self.name)
        return None if token is None else tokenizer._backend.token_to_id(token)

    def __set__(self, tokenizer, index: int | None):
        token = None if index is None else tokenizer._token_of(as_id(f"{self.name}_id", index))
        if token is None and index is not None:
            raise ValueError(f"{self.name}_id: no token has the id {index}; ids go from 0 to {len(tokenizer) - 1}")
        tokenizer._name_special(self.name, token)


class SpecialTokens:
    """The part of a tokenizer that knows its special and added tokens; `_backend` is a `tokenizers.Tokenizer`."""

    bos_token, bos_token_id = _Token(), _TokenId()
    eos_token, eos_token_id = _Token(), _TokenId()
    unk_token, unk_token_id = _Token(), _TokenId()
    sep_token, sep_token_id = _Token(), _TokenId()
    pad_token, pad_token_id = _Token(), _TokenId()
    cls_token, cls_token_id = _Token(), _TokenId()
    mask_token, mask_token_id = _Token(), _TokenId()

    def _set_up_tokens(
        self,
        added: Mapping[int, AddedToken],
        special: Mapping[str, Any],
        additional: Sequence[str | AddedToken],
        extra: Mapping[str, str | AddedToken],
    ):
        """Enter a file's added tokens {id: token} and the constructor's special tokens {name: token or None}.

        additional: those without a name; extra: those with a name that is not one of SPECIAL_TOKENS. A special token
        that the vocabulary lacks goes to its end, as in the reference.
        """
        self._special: dict[str, str] = {}
        self._additional: list[str] = []
        self._extra = tuple(extra)
        for name in extra:
            if not name.isidentifier() or hasattr(type(self), name) or name in vars(self):
                raise ValueError(f"{name!r} cannot be the name of an extra special token: it is taken, or no name")
        present = self._backend.get_added_tokens_decoder()
        self._enter([token for i, token in sorted(added.items()) if repr(token) != repr(present.get(i))])
        for i, token in added.items():
            got = self._backend.token_to_id(token.content)
            if got != i:
                raise ValueError(
                    f"added token {token.content!r} must have the id {i} and would get {got}: "
                    "the vocabulary and the list of added tokens do not belong together"
                )
        named = {name: token for name, token in {**special, **extra}.items() if token is not None}
        given = [*(named[name] for name in self._names() if name in named), *additional]
        # a token that files enter as special keeps the flags that they give it
        entered = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        self._enter([as_added_token(each, special=True) for each in given if content(each) not in entered])
        self._special = {name: content(token) for name, token in named.items()}
        self._additional = [content(token) for token in additional]

    def _names(self) -> tuple[str, ...]:
        return (*SPECIAL_TOKENS, *self._extra)

    def _enter(self, tokens: list[AddedToken]):
        """Tokens to match in a text before it is split; in batches, since each call rebuilds the library's matcher."""
        new = [token.content for token in tokens if self._backend.token_to_id(token.content) is None]
        self._backend.add_tokens(tokens)
        for text in new:
            i = self._backend.token_to_id(text)
            other = self._backend.model.id_to_token(i)
            if other not in (None, text):
                raise ValueError(
                    f"{text!r} would get the id {i}, which is {other!r}'s: the ids of this vocabulary have "
                    "gaps, so no tokens can be added at its end"
                )
        self._entered = {i: token.content for i, token in self._backend.get_added_tokens_decoder().items()}

    def _token_of(self, index: int) -> str | None:
        """An id's token, an added one as it was given: what the library says is lower-cased where texts are."""
        entered = self._entered.get(index)
        return self._backend.id_to_token(index) if entered is None else entered

    def _name_special(self, name: str, token: str | None):
        if token is None:
            self._special.pop(name, None)
        elif self._backend.token_to_id(token) is None:
            raise ValueError(
                f"{name} = {token!r} is not in the vocabulary: add it with "
                f"tok.add_special_tokens({{{name!r}: {token!r}}}) and give the model an embedding row for it, "
                "or name a token that is there, such as tok.eos_token"
            )
        else:
            self._special[name] = token
        self._special_tokens_changed()

    def _special_tokens_changed(self):
        """For a family whose post-processor holds special tokens."""

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a name of their own."""
        return list(self._additional)

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        return [self._backend.token_to_id(token) for token in self._additional]

    @property
    def extra_special_tokens(self) -> dict[str, str]:
        """{name: token} of the special tokens whose names are none of the usual ones; each is an attribute, too."""
        return {name: self._special[name] for name in self._extra}

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """{name: token} of the special tokens that are set."""
        named = {name: self._special[name] for name in self._names() if name in self._special}
        return named | ({ADDITIONAL: list(self._additional)} if self._additional else {})

    @property
    def all_special_tokens(self) -> list[str]:
        """Each special token once."""
        return list(
            dict.fromkeys(
                [
                    *(self._special[name] for name in self._names() if name in self._special),
                    *self._additional,
                ]
            )
        )

    @property
    def all_special_ids(self) -> list[int]:
        return [self._backend.token_to_id(token) for token in self.all_special_tokens]

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """{id: token} of the tokens that are matched in a text before it is split, special ones among them."""
        return dict(sorted(self._backend.get_added_tokens_decoder().items()))

    def get_added_vocab(self) -> dict[str, int]:
        """{token: id} of `added_tokens_decoder`."""
        return {token.content: i for i, token in self.added_tokens_decoder.items()}

    def add_tokens(
        self,
        new_tokens: str | AddedToken | Sequence[str | AddedToken],
        special_tokens: bool = False,
    ) -> int:
        """Enter tokens that are then never split; -> how many were not in the vocabulary and are now at its end.

        The model needs as many further embedding rows.

        Raises:
          ValueError: what is no token, and a vocabulary whose ids have gaps.
        """
        if isinstance(new_tokens, (str, AddedToken)):
            new_tokens = [new_tokens]
        special, before = boolean("special_tokens", special_tokens), len(self)
        self._enter([as_added_token(token, special) for token in as_tokens("new_tokens", new_tokens)])
        return len(self) - before

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, Any],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Name special tokens ({"pad_token": "[PAD]"}), and add those that the vocabulary lacks; -> how many it lacked.

        additional_special_tokens takes a list, which replaces the present one or, where told, extends it.

        Raises:
          ValueError: a name that is not one of a special token, and what is no token.
        """
        if not isinstance(special_tokens_dict, Mapping):
            raise refused("special_tokens_dict", 'a dict like {"pad_token": "[PAD]"}', special_tokens_dict)
        replace = boolean("replace_additional_special_tokens", replace_additional_special_tokens)
        known = (*self._names(), ADDITIONAL)
        unknown = sorted(map(str, set(special_tokens_dict) - set(known)))
        if unknown:
            raise ValueError(f"no special tokens are called {unknown}; there are {list(known)}")
        listed = as_tokens(ADDITIONAL, special_tokens_dict.get(ADDITIONAL, ()))
        additional = [as_added_token(token, special=True) for token in listed]
        named = {
            name: as_added_token(token, special=True, name=name)
            for name, token in special_tokens_dict.items()
            if name != ADDITIONAL
        }
        # New ids go in the order of the mapping.
        new = [additional if name == ADDITIONAL else [named[name]] for name in special_tokens_dict]
        count = self.add_tokens(list(chain(*new)), special_tokens=True)
        for name, token in named.items():
            self._name_special(name, token.content)
        if additional:
            kept = [] if replace else self._additional
            self._additional = list(dict.fromkeys([*kept, *(token.content for token in additional)]))
        return count


def as_tokens(name: str, value) -> Sequence:
    """A list or tuple of tokens."""
    if not isinstance(value, (list, tuple)):
        raise refused(name, "a list of tokens", value)
    return value
