"""`GenerationConfig`: the options of `generate`, merged from call, file and model config, and validated together.

Reference: transformers/generation/configuration_utils.py (docs/parity.md, N2, N10, N13, N14).
"""

import dataclasses
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self, Unpack

from jaxmodels.config import SPECIAL_TOKEN_IDS, Config
from jaxmodels.download import HUB_OPTIONS, local_folder, read_json
from jaxmodels.generation.merging import (
    BEAMS_ONLY,
    CALL,
    SAMPLING_ONLY,
    Settings,
    collect_settings,
    known_settings,
    reject_other_options,
)
from jaxmodels.generation.options import (
    DEFAULTS,
    ID_LIST_OPTIONS,
    OFF_UNLESS_SAMPLED,
    SINGLE_ID_OPTIONS,
    GenerationOptions,
    MethodError,
    OptionError,
    Options,
    validate_option,
)
from jaxmodels.messages import brief
from jaxmodels.tensor_files.atomic_save import atomic_save, read_snapshot

FILE = "generation_config.json"


@dataclasses.dataclass(frozen=True, init=False)
class GenerationConfig(Options):
    """The options of `generate`.

    Attributes:
      max_new_tokens: tokens after the prompt.
      max_length: tokens including the prompt; max_new_tokens takes precedence.
      min_length, min_new_tokens: tokens with and without the prompt before an eos id may be generated.
      max_time: seconds after which no further chunk of the loop is started.
      stop_strings: end a sequence as soon as its text contains one of them; needs `tokenizer=` in the call.
      early_stopping: when beam search finishes an example. True: as soon as there are num_beams finished candidates;
        False: when better ones are unlikely; "never": when no better one is possible.
      do_sample: sample instead of greedy decoding.
      num_beams: beams; 1 disables beam search.
      num_beam_groups, diversity_penalty: groups of beams that are kept diverse (arXiv:1610.02424).
      temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: logits warpers for sampling, applied in
        this order; 1.0, 0, 1.0, None, 1.0, 0.0 and 0.0 disable them.
      repetition_penalty, encoder_repetition_penalty: see `processors`.
      length_penalty: exponent of the length by which the score of a finished beam is divided.
      no_repeat_ngram_size, encoder_no_repeat_ngram_size: size of n-grams that must not be repeated; 0 disables them.
      bad_words_ids: sequences that must not be generated.
      sequence_bias: {(ids): number added to the score}.
      guidance_scale: classifier-free guidance (arXiv:2306.17806); the unconditional prompt is the last token of the
        prompt, or `negative_prompt_ids`.
      renormalize_logits: log-softmax after all processors.
      remove_invalid_values: replace NaN and infinities by finite numbers.
      forced_bos_token_id: the token that follows a prefix of one token.
      forced_eos_token_id: the last token before the limit, one id or several.
      forced_decoder_ids: ((length, id), ...), the token that is generated at this length.
      exponential_decay_length_penalty: (start, factor): after `start` new tokens the scores of eos ids increase.
      suppress_tokens, begin_suppress_tokens: tokens that are never generated, or not as the first one.
      num_return_sequences: sequences per prompt.
      output_scores, output_logits, output_attentions, output_hidden_states: what to return for every step.
      eos_token_id: ids that end a sequence; empty: none does.
      pad_token_id: fills a sequence after its end; None: the first eos id.
      bos_token_id: the prompt where the call has none.
      decoder_start_token_id: the first token of an encoder-decoder's output; None: bos_token_id.
    """

    def __init__(self, **options: Unpack[GenerationOptions]):
        """Lists become tuples and a single id a tuple of one. None is the default, or disables `top_k`."""
        reject_other_options("GenerationConfig has no option", options, TypeError)
        values: Mapping[str, Any] = options
        for name, default in DEFAULTS.items():
            object.__setattr__(self, name, validate_option(name, values[name]) if name in values else default)
        # Some checkpoints store a negative eos id for "none".
        object.__setattr__(self, "eos_token_id", tuple(i for i in self.eos_token_id if i >= 0))
        self._check_together()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From the contents of a generation_config.json; unknown keys are named in a warning.

        Options of a search method that is not enabled, such as a temperature without do_sample, may have any value.

        Raises:
          ValueError: a value out of range, or options that contradict each other.
          NotImplementedError: a decoding method that is not implemented.
          TypeError: `values` is not a mapping.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"GenerationConfig.from_dict expects a dict of options, got {brief(values)}")
        return cls._from_settings(Settings().override("the dict", known_settings(values)))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, config_file_name: str = FILE, subfolder: str | None = None, **options: Any
    ) -> Self:
        """From the generation_config.json of a folder or a Hub repository.

        Args:
          name: folder, or Hub id like "openai-community/gpt2".
          config_file_name: name of the file.
          subfolder: folder inside `name`.
          options: options of the Hub (revision, token, cache_dir, local_files_only, force_download), or settings by
            name, which override those of the file.

        Raises:
          FileNotFoundError: the folder, repository or file does not exist.
          TypeError: an unknown option.
          ValueError: the file contains no JSON object, or a value is out of range; see also `from_dict`.
        """
        hub = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
        reject_other_options("GenerationConfig.from_pretrained has no option", options, TypeError, allow_methods=True)
        folder = local_folder(name, [config_file_name], subfolder=subfolder, **hub)
        path, values = read_snapshot(folder, lambda saved: _read_settings(saved / config_file_name))
        return cls._from_settings(Settings().override(str(path), known_settings(values)).override(CALL, options))

    @classmethod
    def from_model_config(cls, config: Config) -> Self:
        """The generation settings of a loaded model (see `hub.load`); ids that they do not set are those of the model.

        Ids of the checkpoint outside its vocabulary are ignored, with a warning.
        """
        return cls._from_settings(collect_settings(config, None, {}), config.vocab_size)

    @classmethod
    def merge(cls, config: Config, generation_config: Any, call: Mapping[str, Any]) -> Self:
        """The options of a call over `generation_config`, or over the checkpoint's; only the result is validated.

        Args:
          config: of the model.
          generation_config: GenerationConfig, dict of options, or a similar object of another library; or None.
          call: options by name.

        Raises:
          ValueError: an unknown option, a value out of range, or options that contradict each other; the message names
            the source of the value.
          NotImplementedError: a decoding method that is not implemented.
          TypeError: `generation_config` is of another type.
        """
        merged = cls._from_settings(collect_settings(config, generation_config, call), config.vocab_size)
        if merged.max_new_tokens is not None and call.get("max_length") is not None:
            warnings.warn("max_length has no effect because max_new_tokens is set", stacklevel=4)
        unused: tuple[str, ...] = () if merged.do_sample else SAMPLING_ONLY
        unused += BEAMS_ONLY if merged.num_beams == 1 else ()
        named = [name for name in unused if call.get(name) is not None]
        named = [name for name in named if getattr(merged, name) not in (DEFAULTS[name], OFF_UNLESS_SAMPLED.get(name))]
        if named:
            warnings.warn(
                f"{', '.join(named)}: no effect because do_sample={merged.do_sample} and num_beams={merged.num_beams}",
                stacklevel=4,
            )
        return merged

    @classmethod
    def _from_settings(cls, settings: Settings, vocab_size: int | None = None) -> Self:
        try:
            config = cls(**settings.without_unused())
            if vocab_size is not None:
                config.check_vocabulary(vocab_size)
        except (OptionError, MethodError) as error:
            raise settings.explain(error) from None
        return config

    def replace(self, **values: Unpack[GenerationOptions]) -> Self:
        """A copy with other values."""
        changed: dict[str, Any] = dict(values)
        return dataclasses.replace(self, **changed)

    def to_dict(self) -> dict[str, Any]:
        """The options that differ from the defaults, as stored in a generation_config.json."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        for name in ("eos_token_id", "forced_eos_token_id"):
            if len(values.get(name, ())) == 1:
                values[name] = values[name][0]
        return json.loads(json.dumps(values))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes generation_config.json into a folder."""
        with atomic_save(Path(folder), "generation config") as staging:
            (staging / FILE).write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    def new_tokens(self, prompt: int, call: Collection[str] = ()) -> int:
        """The maximum number of tokens after a prompt.

        Args:
          prompt: length of the prompt.
          call: names of the options that the call sets. Among them a minimum above the maximum is an error; one from a
            checkpoint only gives a warning, and the maximum applies.

        Raises:
          ValueError: the prompt alone reaches max_length, or the call's minimum is above the maximum.
        """
        if self.max_new_tokens is not None:
            new = self.max_new_tokens
        elif prompt >= self.max_length:
            raise ValueError(
                f"the prompt has {prompt} tokens and max_length={self.max_length} includes it, which leaves no token "
                "to generate; pass max_new_tokens"
            )
        else:
            new = self.max_length - prompt
        for name, least in (("min_length", self.min_length), ("min_new_tokens", prompt + (self.min_new_tokens or 0))):
            if least > prompt + new:
                message = f"{name} requires {least} tokens including the prompt, but at most {prompt + new} are allowed"
                if name in call:
                    raise ValueError(f"{message}; lower it or raise max_new_tokens")
                warnings.warn(f"{message}: the maximum applies; lower it or raise max_new_tokens", stacklevel=4)
        return new

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises OptionError for an id outside the vocabulary, or bad words that ban every token."""
        ids: dict[str, tuple] = {name: getattr(self, name) for name in ID_LIST_OPTIONS}
        ids |= {name: (getattr(self, name),) for name in SINGLE_ID_OPTIONS}
        ids["forced_decoder_ids"] = tuple(token for _, token in self.forced_decoder_ids)
        ids["bad_words_ids"] = tuple(i for word in self.bad_words_ids for i in word)
        ids["sequence_bias"] = tuple(i for sequence, _ in self.sequence_bias for i in sequence)
        for name, values in ids.items():
            # Some checkpoints store a negative id for "none"; as a padding value it is valid.
            low = -(2**31) if name in SPECIAL_TOKEN_IDS else 0
            if wrong := [i for i in values if i is not None and not low <= i < vocab_size]:
                raise OptionError(f"{name} contains {wrong[0]}, outside the vocabulary of {vocab_size}", name)
        banned = {word[0] for word in self.bad_words_ids if len(word) == 1} - set(self.eos_token_id)
        if len(banned | set(self.suppress_tokens)) >= vocab_size:
            raise OptionError(
                "bad_words_ids and suppress_tokens ban every token of the vocabulary; allow some",
                *("bad_words_ids", "suppress_tokens"),
            )

    def _check_together(self) -> None:
        """Raises OptionError for options that contradict each other."""
        if self.do_sample:
            for name, off in OFF_UNLESS_SAMPLED.items():
                if getattr(self, name) == off:
                    raise OptionError(
                        f"{name} must be above 0 with do_sample=True, got {off!r}; for greedy decoding pass "
                        "do_sample=False",
                        *(name, "do_sample"),
                    )
        groups = ("num_beam_groups", "num_beams", "diversity_penalty")
        if self.num_beam_groups > 1 or self.diversity_penalty != 0.0:
            if self.do_sample:
                raise OptionError(
                    "beam groups cannot be sampled; pass do_sample=False, or num_beam_groups=1 and "
                    "diversity_penalty=0.0",
                    *(*groups, "do_sample"),
                )
            if self.num_beams % self.num_beam_groups or self.num_beam_groups > self.num_beams:
                raise OptionError(
                    f"num_beams must be a multiple of num_beam_groups, got {self.num_beams} and {self.num_beam_groups}",
                    *groups,
                )
            if self.diversity_penalty == 0.0 or self.num_beam_groups == 1:
                raise OptionError(
                    "beam groups need diversity_penalty above 0, or all groups would be equal, and diversity_penalty "
                    f"needs num_beam_groups above 1; got {self.diversity_penalty!r} and {self.num_beam_groups}",
                    *groups,
                )
        if self.num_return_sequences > 1:
            if self.num_beams == 1 and not self.do_sample:
                raise OptionError(
                    f"num_return_sequences={self.num_return_sequences} needs do_sample=True or beams: greedy decoding "
                    "returns one sequence",
                    *("num_return_sequences", "num_beams", "do_sample"),
                )
            if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
                raise OptionError(
                    f"num_return_sequences={self.num_return_sequences} must be at most num_beams={self.num_beams}",
                    *("num_return_sequences", "num_beams"),
                )
        if self.num_beams > 1 and self.stop_strings:
            raise OptionError(
                "stop_strings cannot be used with beams; pass num_beams=1",
                *("stop_strings", "num_beams"),
            )


def _read_settings(path: Path) -> tuple[Path, dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; settings in a config.json are read by "
            "GenerationConfig.from_model_config(model.config)"
        )
    return path, read_json(path)
