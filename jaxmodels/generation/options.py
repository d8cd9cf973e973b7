"""What `generate` was asked for: Hugging Face's option names, merged by the documented priority and checked.

Reference: transformers/generation/configuration_utils.py (PARITY N2, N10, N13, N14).
"""

import dataclasses
import difflib
import warnings
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from jaxmodels.config import Config
from jaxmodels.generation.loop import NONE, Ending

# Options of the reference that this loop does not have yet, and the values at which they change nothing.
NEUTRAL: dict[str, tuple] = {
    "min_length": (0, None),
    "min_new_tokens": (None,),
    "max_time": (None,),
    "stop_strings": (None,),
    "early_stopping": (False, None),
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "diversity_penalty": (0.0, None),
    "penalty_alpha": (None, 0.0),
    "num_return_sequences": (1, None),
    "typical_p": (1.0, None),
    "epsilon_cutoff": (0.0, None),
    "eta_cutoff": (0.0, None),
    "min_p": (None,),
    "repetition_penalty": (1.0, None),
    "encoder_repetition_penalty": (1.0, None),
    "length_penalty": (1.0, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "bad_words_ids": (None,),
    "force_words_ids": (None,),
    "constraints": (None,),
    "renormalize_logits": (False, None),
    "forced_decoder_ids": (None,),
    "remove_invalid_values": (False, None),
    "exponential_decay_length_penalty": (None,),
    "suppress_tokens": (None,),
    "begin_suppress_tokens": (None,),
    "sequence_bias": (None,),
    "guidance_scale": (None, 1.0),
    "prefix_allowed_tokens_fn": (None,),
    "logits_processor": (None,),
    "stopping_criteria": (None,),
    "output_scores": (False, None),
    "output_logits": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
}

# Written into generation_config.json by the library, read by nobody here.
NOTES = frozenset(
    [
        "_from_model_config",
        "transformers_version",
        "return_dict_in_generate",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "low_memory",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
    ]
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of one call.

    Attributes:
      max_new_tokens: tokens after the prompt.
      max_length: tokens with the prompt; max_new_tokens wins over it.
      do_sample: sample instead of taking the likeliest token.
      temperature, top_k, top_p: warpers of sampling, applied in this order; 1.0, 0 and 1.0 switch them off.
      eos_token_id: ids that end a row; empty: none does.
      pad_token_id: fills a row after its end; None: the first eos id.
      forced_bos_token_id: what follows a beginning of one token. forced_eos_token_id: what the last token before the
        limit is.
      decoder_start_token_id: what an encoder-decoder's output begins with; None: bos_token_id.
    """

    max_new_tokens: int | None = None
    max_length: int = 20
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    decoder_start_token_id: int | None = None
    bos_token_id: int | None = None

    @classmethod
    def merge(cls, config: Config, call: Mapping[str, Any]) -> Self:
        """The call's values, over generation_config.json's, over config.json's.

        Raises:
          ValueError: an unknown option, or a value out of range.
          NotImplementedError: an option of the reference that would change the result but is not here yet.
        """
        names = ("eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id")
        stored = {**{name: getattr(config, name) for name in names}, **config.generation}
        fields = {f.name for f in dataclasses.fields(cls)}
        known = fields | NEUTRAL.keys() | NOTES
        for name in call:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ValueError(f"generate has no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        for name, value in {**stored, **call}.items():
            if name in NEUTRAL and value not in NEUTRAL[name]:
                where = "" if name in call else " (from the checkpoint's generation settings; override it in the call)"
                raise NotImplementedError(f"generate does not support {name}={value!r} yet{where}")
        if call.get("max_new_tokens") is not None and call.get("max_length") is not None:
            warnings.warn("both max_new_tokens and max_length were given; max_new_tokens wins", stacklevel=4)
        values = {k: v for k, v in {**stored, **call}.items() if k in fields and v is not None}
        eos = values.get("eos_token_id", ())
        values["eos_token_id"] = (eos,) if isinstance(eos, int) else tuple(eos)
        options = cls(**values)
        options.check(config)
        return options

    def check(self, config: Config) -> None:
        vocabulary = config.vocab_size
        for name, low in (("max_new_tokens", 1), ("max_length", 1), ("top_k", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise ValueError(f"{name} is an int of at least {low}, got {value!r}")
        if not self.temperature > 0.0:
            raise ValueError(
                f"temperature is above 0, got {self.temperature!r}; for the likeliest token, do_sample=False"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is in (0, 1], got {self.top_p!r}")
        single = ("pad_token_id", "forced_bos_token_id", "forced_eos_token_id")
        for name, ids in (("eos_token_id", self.eos_token_id), *((name, (getattr(self, name),)) for name in single)):
            # A negative pad id marks "none" in some checkpoints; as a fill value it is as good as any.
            if any(i is not None and i >= vocabulary for i in ids):
                raise ValueError(f"{name}={ids} is outside the vocabulary of {vocabulary}")

    def new_tokens(self, prompt: int) -> int:
        """How many tokens may follow a prompt of that length.

        Raises:
          ValueError: the prompt alone is as long as max_length.
        """
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if prompt >= self.max_length:
            raise ValueError(
                f"the prompt has {prompt} tokens and max_length={self.max_length} counts it too: nothing is left to "
                f"generate; pass max_new_tokens"
            )
        return self.max_length - prompt

    def ending(self, beginning: int, new: int) -> Ending:
        """When to stop: after `new` tokens at most, which follow `beginning` ones."""

        def traced(token: int | None) -> jax.Array:
            return jnp.int32(NONE if token is None else token)

        return Ending(
            limit=jnp.int32(new),
            eos=jnp.array(self.eos_token_id, jnp.int32),
            pad=jnp.int32(self.fill_id()),
            forced_first=traced(self.forced_bos_token_id if beginning == 1 else None),
            forced_last=traced(self.forced_eos_token_id),
        )

    def fill_id(self) -> int:
        """What stands after the end of a row."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        if self.eos_token_id:
            warnings.warn(f"no pad_token_id: rows are filled with the eos id {self.eos_token_id[0]}", stacklevel=4)
            return self.eos_token_id[0]
        return 0  # never used: without an eos id no row ends early
