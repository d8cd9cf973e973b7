"""Settings of several sources, the later ones over the earlier ones, and who said what."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any, Self

from jaxmodels.config import TEXT_IDS, Config
from jaxmodels.generation.foreign import FOREIGN, LATER, METADATA, YOUNGER, refuse_later, refuse_others
from jaxmodels.generation.options import DEFAULTS, IDS_OF_TOKENS, NAMES, SINGLE_IDS, OptionError, Options, read
from jaxmodels.messages import brief

CHECKPOINT = "generation_config.json (or config.json)"
GIVEN = "generation_config="
CALL = "the call"

# Options that change nothing unless another one is on; said where a call gives them so.
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS_ONLY = ("early_stopping", "length_penalty")
GROUPS_ONLY = ("num_beam_groups", "diversity_penalty")


class Sources:
    """Settings by name.

    Attributes:
      values: as they were said last. where: who did.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.where: dict[str, str] = {}

    def over(self, where: str, values: Mapping[str, Any]) -> Self:
        """With these values in place of the earlier ones."""
        self.values |= values
        self.where |= dict.fromkeys(values, where)
        return self

    def before_the_call(self, name: str) -> bool:
        """Whether it was said, and not by the call."""
        return self.where.get(name, CALL) != CALL

    def by_a_file(self, name: str) -> bool:
        """Whether it was said by nothing of the call, its `generation_config` included."""
        return self.where.get(name, CALL) not in (CALL, GIVEN)


def told_by(said: Sources, error: Exception) -> Exception:
    """The error of an option (`options.OptionError`, `options.MethodError`), saying of a value that the call did not
    give where it stands, and how the call gives another."""
    for name in error.names:  # type: ignore[attr-defined]
        if said.before_the_call(name):
            words = f"{said.where[name]} says {name}={brief(said.values[name])}: {error}"
            if isinstance(error, NotImplementedError):
                return NotImplementedError(f"{words}, or pass {name}=None")
            return ValueError(f"{words}; pass {name}= for another value")
    return error


def asked(config: Config, given: Any, call: Mapping[str, Any]) -> Sources:
    """The options of a call, those of `given` or the checkpoint below them, as they were said; see `merge`."""
    refuse_others("generate has no option", call, NAMES, ValueError)
    refuse_later(call)
    if given is None:
        said = of_checkpoint(config, besides=call)
    else:
        values = _given(given)
        # Ids that it leaves open are the model's.
        open_ids = [name for name in TEXT_IDS if name not in call and values.get(name) in (None, (), [])]
        ids = {name: getattr(config, name) for name in open_ids}
        said = Sources().over(GIVEN, values).over(CHECKPOINT, _inside(ids, config.vocab_size))
    return said.over(CALL, {name: value for name, value in call.items() if name not in FOREIGN})


def option(said: Sources, name: str) -> Any:
    """One of them, checked alone."""
    try:
        return read(name, said.values.get(name))
    except OptionError as error:
        raise told_by(said, error) from None


def known(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a file: what is said in names that mean something here; names that nobody knows are warned of."""
    unknown = [
        name
        for name, value in values.items()
        if name not in NAMES | LATER.keys() | METADATA | FOREIGN.keys()
        and not (name in YOUNGER and YOUNGER[name].asks_for_nothing(value))
    ]
    if unknown:
        warnings.warn(f"generation settings that mean nothing here: {', '.join(sorted(unknown))}", stacklevel=2)
    return {name: value for name, value in values.items() if name in NAMES or name in LATER}


def _given(given: Any) -> dict[str, Any]:
    """What a call's `generation_config` says, by name.

    Raises:
      TypeError: no settings, or one that nobody knows.
    """
    if isinstance(given, Options):
        return {name: getattr(given, name) for name in NAMES}
    if isinstance(given, Mapping):
        values = dict(given)
    elif callable(find := getattr(given, "to_diff_dict", getattr(given, "to_dict", None))) and not isinstance(
        given, type
    ):
        values = dict(find())
    else:
        raise TypeError(
            "generation_config is a GenerationConfig, a dict of its options, or another library's object with to_dict; "
            f"got {brief(given)}; of a folder it is GenerationConfig.from_pretrained(folder)"
        )
    # Such objects hold whether a record is returned, which is so always, as their default.
    values = {name: value for name, value in values.items() if name not in METADATA | {"return_dict_in_generate"}}
    refuse_others("generation_config= has no option", values, NAMES, TypeError)
    return {name: value for name, value in values.items() if name not in FOREIGN}


def of_checkpoint(config: Config, besides: Collection[str] = ()) -> Sources:
    """What a checkpoint says, but for what the call says."""
    values = {**{name: getattr(config, name) for name in TEXT_IDS}, **known(config.generation)}
    values = {name: value for name, value in values.items() if name not in besides}
    return Sources().over(CHECKPOINT, _inside(values, config.vocab_size))


def _inside(values: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """A checkpoint's values without ids at or above its vocabulary, often a family's defaults; they never come."""
    found, outside = dict(values), []
    for name in (*SINGLE_IDS, *IDS_OF_TOKENS):
        ids = values.get(name)
        several = ids if isinstance(ids, list | tuple) else [ids]
        wrong = [i for i in several if isinstance(i, int) and i >= vocabulary]
        if wrong:
            found[name] = None if several[0] is ids else [i for i in several if i not in wrong]
            outside.append(f"{name} {', '.join(map(str, wrong))}")
    if any(not words.startswith("bos") for words in outside):  # that is for texts that begin with nothing else
        warnings.warn(
            f"ids of the checkpoint outside its vocabulary of {vocabulary} count as none: {'; '.join(outside)}",
            stacklevel=2,
        )
    return found


def without_idle(said: Sources) -> dict[str, Any]:
    """The values, without those that a file has for a way of searching that is not in use and that do not fit."""
    values = dict(said.values)
    sampling, beams = (read(name, values.get(name)) for name in ("do_sample", "num_beams"))
    idle: tuple[str, ...] = () if sampling else SAMPLING_ONLY
    idle += BEAMS_ONLY if beams == 1 else ()
    idle += ("max_length",) if values.get("max_new_tokens") is not None else ()
    unused = [name for name in idle if said.by_a_file(name) and not _fits(name, values[name])]
    if beams == 1:  # a call that asks for fewer beams need not speak of groups
        before = [name for name in GROUPS_ONLY if said.before_the_call(name)]
        unused += [name for name in before if said.by_a_file(name) or _fits(name, values[name])]
    # Contrastive search is for the likeliest token out of several.
    if said.by_a_file("penalty_alpha") and (
        sampling or beams > 1 or values.get("top_k", DEFAULTS["top_k"]) in (None, 0, 1)
    ):
        unused += ["penalty_alpha"]
    return {name: value for name, value in values.items() if name not in unused}


def _fits(name: str, value: Any) -> bool:
    try:
        read(name, value)
    except OptionError:
        return False
    return True
