"""What `generate` is asked for: Hugging Face's option names, merged by the documented priority and checked.

Reference: transformers/generation/configuration_utils.py (docs/parity.md, N2, N10, N13, N14).
"""

import dataclasses
import difflib
import json
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from jaxmodels.config import TEXT_IDS, Config
from jaxmodels.tensor_files.commit import staged
from jaxmodels.tensor_files.saved import SavedFolder

# Options of decoding methods that are for later, and the values at which they change nothing.
LATER: dict[str, tuple] = {
    "penalty_alpha": (None, 0.0),
    "force_words_ids": (None,),
    "constraints": (None,),
    "assistant_model": (None,),
    "prompt_lookup_num_tokens": (None,),
}
METHODS = {
    "penalty_alpha": "contrastive search",
    "force_words_ids": "constrained beam search",
    "constraints": "constrained beam search",
    "assistant_model": "assisted generation",
    "prompt_lookup_num_tokens": "assisted generation",
}

# Written into generation_config.json by the library, read by nobody here.
NOTES = frozenset(
    [
        "_from_model_config",
        "_commit_hash",
        "transformers_version",
        "return_dict_in_generate",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "low_memory",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "generation_kwargs",
    ]
)
# Said where they are given but change nothing, because of another option.
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS_ONLY = ("early_stopping", "length_penalty")


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """The options of `generate`.

    Attributes:
      max_new_tokens: tokens after the prompt. max_length: tokens with the prompt; max_new_tokens wins over it.
      min_length: tokens with the prompt before an eos id may come; min_new_tokens: the same without it.
      max_time: seconds after which no further stretch of the loop is started. stop_strings: what ends a row as soon
        as its text holds it; needs `tokenizer=` in the call.
      early_stopping: when a beam search is done with an example: True: as soon as there are num_beams finished
        candidates; False: when it is unlikely that better ones come; "never": when no better one can come.
      do_sample: sample instead of taking the likeliest token. num_beams: beams; 1 is no beam search.
      num_beam_groups, diversity_penalty: groups of beams that are kept apart (arXiv:1610.02424).
      temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: warpers of sampling, in this order;
        1.0, 0, 1.0, None, 1.0, 0.0 and 0.0 switch them off.
      repetition_penalty, encoder_repetition_penalty: see `penalties`. length_penalty: exponent of the length by which
        the score of a finished beam is divided.
      no_repeat_ngram_size, encoder_no_repeat_ngram_size: 0 switches them off.
      bad_words_ids: sequences that must not come. sequence_bias: {(ids): number added to the score}.
      guidance_scale: classifier-free guidance (arXiv:2306.17806); the unconditional text is the prompt's last token,
        or `negative_prompt_ids`.
      renormalize_logits: log-softmax after all processors. remove_invalid_values: NaN and infinities become numbers.
      forced_bos_token_id: what follows a beginning of one token. forced_eos_token_id: what the last token before the
        limit is, one id or several. forced_decoder_ids: ((length, id), ...), what comes at that length.
      exponential_decay_length_penalty: (start, factor): after so many new tokens eos ids gain score.
      suppress_tokens, begin_suppress_tokens: what never comes, and what does not come first.
      num_return_sequences: texts for each prompt.
      output_scores, output_logits, output_attentions, output_hidden_states: what to return of every step.
      eos_token_id: ids that end a row; empty: none does. pad_token_id: fills a row after its end; None: the first eos
        id. decoder_start_token_id: what an encoder-decoder's output begins with; None: bos_token_id.
    """

    max_new_tokens: int | None = None
    max_length: int = 20
    min_length: int = 0
    min_new_tokens: int | None = None
    max_time: float | None = None
    stop_strings: tuple[str, ...] = ()
    early_stopping: bool | Literal["never"] = False
    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = ()
    guidance_scale: float | None = None
    renormalize_logits: bool = False
    remove_invalid_values: bool = False
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    forced_decoder_ids: tuple[tuple[int, int | None], ...] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    num_return_sequences: int = 1
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self):
        """Lists become tuples, one id a tuple of one, None the default, or for `top_k` off."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is not None:
                value = 0 if field.name == "top_k" else field.default
            elif field.name in CONVERTERS:
                value = CONVERTERS[field.name](field.name, value)
            object.__setattr__(self, field.name, value)
        # A negative eos id marks "none" in some checkpoints.
        object.__setattr__(self, "eos_token_id", tuple(i for i in self.eos_token_id if i >= 0))
        self._check()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what a generation_config.json holds; keys that nobody knows are named in a warning.

        Raises:
          ValueError: a value out of range, or options that contradict each other.
          NotImplementedError: a decoding method that is not here.
        """
        known, unknown = _sorted(values)
        if unknown:
            warnings.warn(f"generation settings that mean nothing here: {', '.join(sorted(unknown))}", stacklevel=2)
        return cls(**known)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """From a folder's generation_config.json.

        Raises:
          FileNotFoundError: it has none. ValueError: it is no JSON object; see `from_dict`, too.
        """
        path = SavedFolder(folder) / "generation_config.json"
        try:
            values = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds a JSON object, got {type(values).__name__}")
        return cls.from_dict(values)

    @classmethod
    def from_model_config(cls, config: Config) -> Self:
        """The generation settings of a loaded model (see `hub.load`); ids that they leave open are the model's."""
        return cls.from_dict({**{name: getattr(config, name) for name in TEXT_IDS}, **config.generation})

    @classmethod
    def merge(cls, config: Config, given: Self | None, call: Mapping[str, Any]) -> Self:
        """The call's values over `given`, or over the checkpoint's.

        Raises:
          ValueError: an unknown option, a value out of range, or options that contradict each other.
          NotImplementedError: a decoding method that is not here.
        """
        known, unknown = _sorted(call)
        if unknown:
            names = {f.name for f in dataclasses.fields(cls)} | NOTES | LATER.keys()
            near = difflib.get_close_matches(unknown[0], names, n=1)
            raise ValueError(
                f"generate has no option {unknown[0]!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        base = cls.from_model_config(config) if given is None else given
        if given is not None:  # ids that it leaves open are the model's
            own = {name: getattr(config, name) for name in TEXT_IDS if getattr(given, name) in (None, ())}
            base = given.replace(**own)
        merged = base.replace(**known)
        if merged.max_new_tokens is not None and known.get("max_length") is not None:
            warnings.warn("both max_new_tokens and max_length were given; max_new_tokens wins", stacklevel=4)
        merged._warn_of_idle(known)
        return merged

    def replace(self, **values) -> Self:
        """Another configuration with these values."""
        return dataclasses.replace(self, **values)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as a generation_config.json holds it."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        for name in ("eos_token_id", "forced_eos_token_id"):
            if len(values.get(name, ())) == 1:
                values[name] = values[name][0]
        return json.loads(json.dumps(values))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes generation_config.json into the folder."""
        with staged(Path(folder), "generation config") as staging:
            text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
            (staging / "generation_config.json").write_text(text)

    def new_tokens(self, prompt: int, asked: Collection[str] = ()) -> int:
        """How many tokens may follow a prompt of that length.

        Args:
          asked: options that the call names. A minimum among them contradicts a lower maximum; one that a checkpoint
            brings along only gives a warning, and the maximum counts.

        Raises:
          ValueError: the prompt alone is as long as max_length, or fewer tokens may come than the call says must.
        """
        if self.max_new_tokens is not None:
            new = self.max_new_tokens
        elif prompt >= self.max_length:
            raise ValueError(
                f"the prompt has {prompt} tokens and max_length={self.max_length} counts it too: nothing is left to "
                f"generate; pass max_new_tokens"
            )
        else:
            new = self.max_length - prompt
        for name, least in (("min_length", self.min_length), ("min_new_tokens", prompt + (self.min_new_tokens or 0))):
            if least > prompt + new:
                words = f"{name} asks for {least} tokens with the prompt, and at most {prompt + new} may come"
                if name in asked:
                    raise ValueError(f"{words}; lower it or raise max_new_tokens")
                warnings.warn(f"{words}: these come; lower it or raise max_new_tokens", stacklevel=4)
        return new

    def fill_id(self) -> int:
        """What stands after the end of a row."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        if self.eos_token_id:
            warnings.warn(f"no pad_token_id: rows are filled with the eos id {self.eos_token_id[0]}", stacklevel=4)
            return self.eos_token_id[0]
        return 0  # never used: without an eos id no row ends early

    def check_vocabulary(self, vocabulary: int) -> None:
        """Raises ValueError for an id that is none, and for bad words that leave nothing to say."""
        ids: dict[str, tuple] = {name: getattr(self, name) for name in IDS_OF_TOKENS}
        ids |= {name: (getattr(self, name),) for name in ("forced_bos_token_id", "pad_token_id")}
        ids["forced_decoder_ids"] = tuple(token for _, token in self.forced_decoder_ids)
        ids["bad_words_ids"] = tuple(i for word in self.bad_words_ids for i in word)
        ids["sequence_bias"] = tuple(i for sequence, _ in self.sequence_bias for i in sequence)
        for name, values in ids.items():
            # A negative pad id marks "none" in some checkpoints; as a fill value it is as good as any.
            low = -(2**31) if name == "pad_token_id" else 0
            if wrong := [i for i in values if i is not None and not low <= i < vocabulary]:
                raise ValueError(f"{name} holds {wrong[0]}, outside the vocabulary of {vocabulary}")
        banned = {word[0] for word in self.bad_words_ids if len(word) == 1} - set(self.eos_token_id)
        if len(banned | set(self.suppress_tokens)) >= vocabulary:
            raise ValueError("bad_words_ids and suppress_tokens ban every token of the vocabulary; leave some")

    def _check(self) -> None:
        least = {
            "max_new_tokens": 1,
            "max_length": 1,
            "min_length": 0,
            "min_new_tokens": 0,
            "num_beams": 1,
            "num_beam_groups": 1,
            "top_k": 0,
            "no_repeat_ngram_size": 0,
            "encoder_no_repeat_ngram_size": 0,
            "num_return_sequences": 1,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise ValueError(f"{name} is an int of at least {low}, got {value!r}")
        if not self.temperature > 0.0:
            raise ValueError(
                f"temperature is above 0, got {self.temperature!r}; for the likeliest token, do_sample=False"
            )
        for name in ("top_p", "typical_p"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is in (0, 1], got {getattr(self, name)!r}")
        for name in ("epsilon_cutoff", "eta_cutoff"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is in [0, 1), got {getattr(self, name)!r}; 0 switches it off")
        if self.min_p is not None and not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p is in [0, 1], got {self.min_p!r}")
        for name in ("repetition_penalty", "encoder_repetition_penalty"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is above 0, got {getattr(self, name)!r}; 1.0 switches it off")
        if self.max_time is not None and not self.max_time > 0.0:
            raise ValueError(f"max_time is above 0 seconds, got {self.max_time!r}")
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f'early_stopping is True, False or "never", got {self.early_stopping!r}')
        if not all(self.bad_words_ids) or not all(sequence for sequence, _ in self.sequence_bias):
            raise ValueError("bad_words_ids and sequence_bias hold sequences of at least one id; one is empty")
        if not all(self.stop_strings):
            raise ValueError("stop_strings holds strings of at least one character; one is empty")
        self._check_together()

    def _check_together(self) -> None:
        if self.num_beam_groups > 1 or self.diversity_penalty != 0.0:
            if self.do_sample:
                raise ValueError("beam groups do not sample: do_sample=False, or num_beam_groups=1")
            if self.num_beams % self.num_beam_groups or self.num_beam_groups > self.num_beams:
                raise ValueError(
                    f"num_beams is a multiple of num_beam_groups, got {self.num_beams} and {self.num_beam_groups}"
                )
            if self.diversity_penalty <= 0.0 or self.num_beam_groups == 1:
                raise ValueError(
                    "beam groups need diversity_penalty above 0, or they would all be the same, and it needs "
                    f"num_beam_groups above 1; got {self.diversity_penalty!r} and {self.num_beam_groups}"
                )
        if self.num_return_sequences > 1:
            if self.num_beams == 1 and not self.do_sample:
                raise ValueError(
                    f"num_return_sequences={self.num_return_sequences} needs do_sample=True or beams: greedy decoding "
                    "has one answer"
                )
            if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
                raise ValueError(
                    f"num_return_sequences={self.num_return_sequences} is more than num_beams={self.num_beams} gives"
                )
        if self.num_beams > 1 and self.stop_strings:
            raise ValueError("stop_strings end rows, and beams have none until the end: num_beams=1 with them")

    def _warn_of_idle(self, call: Mapping[str, Any]) -> None:
        idle = [] if self.do_sample else [name for name in SAMPLING_ONLY if call.get(name) is not None]
        if self.num_beams == 1:
            idle += [name for name in BEAMS_ONLY if call.get(name) is not None]
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        idle = [name for name in idle if getattr(self, name) != defaults[name]]
        if idle:
            warnings.warn(
                f"{', '.join(idle)}: without effect, because do_sample={self.do_sample} and num_beams={self.num_beams}",
                stacklevel=5,
            )


def _sorted(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Those that are options, and the names of those that are nothing.

    Raises:
      NotImplementedError: an option of a decoding method that is not here.
    """
    names = {f.name for f in dataclasses.fields(GenerationConfig)}
    for name, value in values.items():
        if name in LATER and value not in LATER[name]:
            raise NotImplementedError(f"{METHODS[name]} ({name}={value!r}) is not here yet; leave {name} out")
    known = {name: value for name, value in values.items() if name in names}
    return known, [name for name in values if name not in names | NOTES | LATER.keys()]


def _ids(name: str, value) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise ValueError(f"{name} holds ids (ints), got {value!r}")
    return tuple(value)


def _strings(name: str, value) -> tuple[str, ...]:
    value = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} holds strings, got {value!r}")
    return value


def _words(name: str, value) -> tuple[tuple[int, ...], ...]:
    if any(isinstance(word, int | str) for word in value):
        raise ValueError(f"{name} is a list of lists of ids, got {value!r}")
    return tuple(_ids(name, tuple(map(int, word))) for word in value)


def _biases(name: str, value) -> tuple[tuple[tuple[int, ...], float], ...]:
    """From {ids: bias}, as the reference's documents have it, or [[ids, bias], ...], as JSON has."""
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((_ids(name, tuple(map(int, sequence))), float(bias)) for sequence, bias in pairs)


def _forced(name: str, value) -> tuple[tuple[int, int | None], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((int(length), None if token is None else int(token)) for length, token in pairs)


def _decay(name: str, value) -> tuple[int, float] | None:
    if value is None:
        return None
    start, factor = value
    return int(start), float(factor)


CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "stop_strings": _strings,
    "bad_words_ids": _words,
    "sequence_bias": _biases,
    "forced_decoder_ids": _forced,
    "exponential_decay_length_penalty": _decay,
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"), _ids),
}
IDS_OF_TOKENS = ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
