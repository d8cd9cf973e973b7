"""Special tokens and added tokens: the names by which a model knows them, kept beside the library's vocabulary."""

from collections.abc import Mapping, Sequence
from itertools import chain

from tokenizers import AddedToken

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


def as_added_token(token: str | Mapping | AddedToken, special: bool) -> AddedToken:
    """A token as files and callers give it (its text, or flags, too) -> with flags; TypeError for anything else."""
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=not special)
    if isinstance(token, AddedToken):
        token = token.__getstate__()
    if isinstance(token, Mapping):
        known = ("content", "lstrip", "rstrip", "single_word", "normalized")
        flags = {key: token[key] for key in known if key in token}
        return AddedToken(**flags, special=special or token.get("special", False))
    raise TypeError(f"a token must be a str or a tokenizers.AddedToken, got {type(token).__name__}")


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
        token = None if index is None else tokenizer._token_of(index)
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

    def _set_up_tokens(self, added: Mapping[int, AddedToken], special: Mapping[str, object]):
        """Enter a file's added tokens {id: token} and the constructor's special tokens {name: token or None}.

        A special token that the vocabulary lacks goes to its end, as in the reference.
        """
        self._special, self._additional = {}, []
        present = self._backend.get_added_tokens_decoder()
        self._enter([token for i, token in sorted(added.items()) if repr(token) != repr(present.get(i))])
        for i, token in added.items():
            got = self._backend.token_to_id(token.content)
            if got != i:
                raise ValueError(
                    f"added token {token.content!r} must have the id {i} and would get {got}: "
                    "the vocabulary and the list of added tokens do not belong together"
                )
        given = [special[name] for name in SPECIAL_TOKENS if special.get(name) is not None]
        given += special.get(ADDITIONAL) or ()
        # a token that files enter as special keeps the flags that they give it
        entered = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        self._enter([as_added_token(each, special=True) for each in given if content(each) not in entered])
        self._special = {name: content(special[name]) for name in SPECIAL_TOKENS if special.get(name) is not None}
        self._additional = [content(token) for token in special.get(ADDITIONAL) or ()]

    def _enter(self, tokens: list[AddedToken]):
        """Tokens to match in a text before it is split; in batches, since each call rebuilds the library's matcher."""
        self._backend.add_tokens(tokens)
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
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """{name: token} of the special tokens that are set."""
        named = {name: self._special[name] for name in SPECIAL_TOKENS if name in self._special}
        return named | ({ADDITIONAL: list(self._additional)} if self._additional else {})

    @property
    def all_special_tokens(self) -> list[str]:
        """Each special token once."""
        return list(
            dict.fromkeys(
                [
                    *(self._special[name] for name in SPECIAL_TOKENS if name in self._special),
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
        """
        if isinstance(new_tokens, (str, AddedToken)):
            new_tokens = [new_tokens]
        before = len(self)
        self._enter([as_added_token(token, special_tokens) for token in new_tokens])
        return len(self) - before

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, object],
        replace_additional_special_tokens: bool = True,
    ) -> int:
        """Name special tokens ({"pad_token": "[PAD]"}), and add those that the vocabulary lacks; -> how many it lacked.

        additional_special_tokens takes a list, which replaces the present one or, where told, extends it.
        Raises ValueError for a name that is not one of a special token.
        """
        unknown = sorted(set(special_tokens_dict) - {*SPECIAL_TOKENS, ADDITIONAL})
        if unknown:
            raise ValueError(f"no special tokens are called {unknown}; there are {[*SPECIAL_TOKENS, ADDITIONAL]}")
        named = {name: token for name, token in special_tokens_dict.items() if name != ADDITIONAL}
        additional = [as_added_token(token, special=True) for token in special_tokens_dict.get(ADDITIONAL, ())]
        # New ids go in the order of the mapping.
        new = [additional if name == ADDITIONAL else [token] for name, token in special_tokens_dict.items()]
        count = self.add_tokens(list(chain(*new)), special_tokens=True)
        for name, token in named.items():
            setattr(self, name, token)
        if additional:
            kept = [] if replace_additional_special_tokens else self._additional
            self._additional = list(dict.fromkeys([*kept, *(token.content for token in additional)]))
        return count
