"""What `generate` is asked for: Hugging Face's option names, merged by the documented priority and checked.

Reference: transformers/generation/configuration_utils.py (docs/parity.md, N2, N10, N13, N14).
"""

import dataclasses
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

from jaxmodels.config import TEXT_IDS, Config
from jaxmodels.download import HUB_OPTIONS, local_folder, read_json
from jaxmodels.generation.foreign import refuse_later, refuse_others
from jaxmodels.generation.options import (
    DEFAULTS,
    IDS_OF_TOKENS,
    NAMES,
    OFF_UNLESS_SAMPLED,
    SINGLE_IDS,
    OptionError,
    Options,
    read,
)
from jaxmodels.generation.sources import (
    BEAMS_ONLY,
    CALL,
    SAMPLING_ONLY,
    Sources,
    asked,
    known,
    of_checkpoint,
    told_by,
    without_idle,
)
from jaxmodels.messages import brief
from jaxmodels.tensor_files.atomic_save import atomic_save, read_snapshot

FILE = "generation_config.json"


@dataclasses.dataclass(frozen=True, init=False)
class GenerationConfig(Options):
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

    def __init__(self, **options: Any):
        """Lists become tuples, one id a tuple of one, None the default, or for `top_k` off."""
        refuse_others("GenerationConfig has no option", options, NAMES, TypeError)
        refuse_later(options)
        for name, default in DEFAULTS.items():
            object.__setattr__(self, name, read(name, options[name]) if name in options else default)
        # A negative eos id marks "none" in some checkpoints.
        object.__setattr__(self, "eos_token_id", tuple(i for i in self.eos_token_id if i >= 0))
        self._check_together()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what a generation_config.json holds; keys that nobody knows are named in a warning.

        What it says of a way of searching that it does not ask for, such as a temperature without do_sample, may have
        any value.

        Raises:
          ValueError: a value out of range, or options that contradict each other.
          NotImplementedError: a decoding method that is not here.
          TypeError: no mapping.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"GenerationConfig.from_dict takes a dict of options, got {brief(values)}")
        return cls._of(Sources().over("the dict", known(values)))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, config_file_name: str = FILE, subfolder: str | None = None, **options: Any
    ) -> Self:
        """From the generation_config.json of a folder or of a Hub repository.

        Args:
          name: folder, or Hub id like "openai-community/gpt2". subfolder: folder inside it that is meant.
          config_file_name: another name of the file.
          options: of the Hub (revision, token, cache_dir, local_files_only, force_download), or settings by name,
            which take the place of the file's.

        Raises:
          FileNotFoundError: no such folder, repository or file. TypeError: an option of neither kind.
          ValueError: the file holds no JSON object, or a value out of range; see `from_dict`, too.
        """
        hub = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
        refuse_others("GenerationConfig.from_pretrained has no option", options, NAMES, TypeError)
        folder = local_folder(name, [config_file_name], subfolder=subfolder, **hub)
        path, values = read_snapshot(folder, lambda saved: _read_settings(saved / config_file_name))
        return cls._of(Sources().over(str(path), known(values)).over(CALL, options))

    @classmethod
    def from_model_config(cls, config: Config) -> Self:
        """The generation settings of a loaded model (see `hub.load`); ids that they leave open are the model's.

        Ids of the checkpoint outside its own vocabulary count as none, with a warning.
        """
        return cls._of(of_checkpoint(config), config.vocab_size)

    @classmethod
    def merge(cls, config: Config, given: Any, call: Mapping[str, Any]) -> Self:
        """The call's values over `given`, or over the checkpoint's; only what comes of it is checked.

        Args:
          given: GenerationConfig, dict of its options, or another library's object of that kind.

        Raises:
          ValueError: an unknown option, a value out of range, or options that contradict each other; it says where the
            value stands that is wrong.
          NotImplementedError: a decoding method that is not here.
          TypeError: `given` is something else.
        """
        merged = cls._of(asked(config, given, call), config.vocab_size)
        if merged.max_new_tokens is not None and call.get("max_length") is not None:
            warnings.warn("both max_new_tokens and max_length were given; max_new_tokens wins", stacklevel=4)
        merged._warn_of_idle(call)
        return merged

    @classmethod
    def _of(cls, said: Sources, vocabulary: int | None = None) -> Self:
        try:
            config = cls(**without_idle(said))
            if vocabulary is not None:
                config.check_vocabulary(vocabulary)
        except (OptionError, NotImplementedError) as error:
            raise told_by(said, error) from None
        return config

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
        with atomic_save(Path(folder), "generation config") as staging:
            (staging / FILE).write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

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
            warnings.warn(
                f"no pad_token_id: rows are filled with the eos id {self.eos_token_id[0]}; pass pad_token_id= for "
                "another, or give it to jm.load",
                stacklevel=4,
            )
            return self.eos_token_id[0]
        return 0  # never used: without an eos id no row ends early

    def check_vocabulary(self, vocabulary: int) -> None:
        """Raises ValueError for an id that is none, and for bad words that leave nothing to say."""
        ids: dict[str, tuple] = {name: getattr(self, name) for name in IDS_OF_TOKENS}
        ids |= {name: (getattr(self, name),) for name in SINGLE_IDS}
        ids["forced_decoder_ids"] = tuple(token for _, token in self.forced_decoder_ids)
        ids["bad_words_ids"] = tuple(i for word in self.bad_words_ids for i in word)
        ids["sequence_bias"] = tuple(i for sequence, _ in self.sequence_bias for i in sequence)
        for name, values in ids.items():
            # A negative one marks "none" in some checkpoints; as a fill value it is as good as any.
            low = -(2**31) if name in TEXT_IDS else 0
            if wrong := [i for i in values if i is not None and not low <= i < vocabulary]:
                raise OptionError(f"{name} holds {wrong[0]}, outside the vocabulary of {vocabulary}", name)
        banned = {word[0] for word in self.bad_words_ids if len(word) == 1} - set(self.eos_token_id)
        if len(banned | set(self.suppress_tokens)) >= vocabulary:
            raise OptionError(
                "bad_words_ids and suppress_tokens ban every token of the vocabulary; leave some",
                *("bad_words_ids", "suppress_tokens"),
            )

    def _check_together(self) -> None:
        if self.do_sample:
            for name, off in OFF_UNLESS_SAMPLED.items():
                if getattr(self, name) == off:
                    raise OptionError(
                        f"{name} is above 0 with do_sample=True, got {off!r}; for the likeliest token, do_sample=False",
                        *(name, "do_sample"),
                    )
        groups = ("num_beam_groups", "num_beams", "diversity_penalty")
        if self.num_beam_groups > 1 or self.diversity_penalty != 0.0:
            if self.do_sample:
                raise OptionError(
                    "beam groups do not sample: do_sample=False, or num_beam_groups=1 and diversity_penalty=0.0",
                    *(*groups, "do_sample"),
                )
            if self.num_beams % self.num_beam_groups or self.num_beam_groups > self.num_beams:
                raise OptionError(
                    f"num_beams is a multiple of num_beam_groups, got {self.num_beams} and {self.num_beam_groups}",
                    *groups,
                )
            if self.diversity_penalty == 0.0 or self.num_beam_groups == 1:
                raise OptionError(
                    "beam groups need diversity_penalty above 0, or they would all be the same, and it needs "
                    f"num_beam_groups above 1; got {self.diversity_penalty!r} and {self.num_beam_groups}",
                    *groups,
                )
        if self.num_return_sequences > 1:
            if self.num_beams == 1 and not self.do_sample:
                raise OptionError(
                    f"num_return_sequences={self.num_return_sequences} needs do_sample=True or beams: greedy decoding "
                    "has one answer",
                    *("num_return_sequences", "num_beams", "do_sample"),
                )
            if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
                raise OptionError(
                    f"num_return_sequences={self.num_return_sequences} is more than num_beams={self.num_beams} gives",
                    *("num_return_sequences", "num_beams"),
                )
        if self.num_beams > 1 and self.stop_strings:
            raise OptionError(
                "stop_strings end rows, and beams have none until the end: num_beams=1 with them",
                *("stop_strings", "num_beams"),
            )

    def _warn_of_idle(self, call: Mapping[str, Any]) -> None:
        idle: tuple[str, ...] = () if self.do_sample else SAMPLING_ONLY
        idle += BEAMS_ONLY if self.num_beams == 1 else ()
        named = [name for name in idle if call.get(name) is not None]
        named = [name for name in named if getattr(self, name) not in (DEFAULTS[name], OFF_UNLESS_SAMPLED.get(name))]
        if named:
            warnings.warn(
                f"{', '.join(named)}: without effect, because do_sample={self.do_sample} and "
                f"num_beams={self.num_beams}",
                stacklevel=5,
            )


def _read_settings(path: Path) -> tuple[Path, dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}; settings that stand in a config.json are those of "
            "GenerationConfig.from_model_config(model.config)"
        )
    return path, read_json(path)
