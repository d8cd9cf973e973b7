"""Settings of `generate` from several sources, later ones over earlier ones, and the rejection of unsupported options.

Options of other libraries are never silently ignored: a value that asks for what this library does anyway
(`use_cache=True`) passes, any other one is an error that says what to pass instead. In a checkpoint's file, options of
other libraries have no meaning here and are skipped.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, Self

from jaxmodels.config import SPECIAL_TOKEN_IDS, Config
from jaxmodels.generation.options import (
    DEFAULTS,
    ID_LIST_OPTIONS,
    NAMES,
    SINGLE_ID_OPTIONS,
    MethodError,
    OptionError,
    Options,
    validate_option,
)
from jaxmodels.messages import Unsupported, brief, reject_unsupported

# Options of decoding methods that are not implemented: the method, and values that leave it disabled.
UNSUPPORTED_METHODS = {
    "penalty_alpha": Unsupported("contrastive search", (None, 0, 0.0)),
    "force_words_ids": Unsupported("constrained beam search", (None, [])),
    "constraints": Unsupported("constrained beam search", (None, [])),
    "assistant_model": Unsupported("assisted generation"),
    "prompt_lookup_num_tokens": Unsupported("assisted generation"),
}
# The same for methods that transformers added after 4.37.
NEWER_UNSUPPORTED_METHODS = {
    "assistant_early_exit": Unsupported("assisted generation"),
    "dola_layers": Unsupported("decoding by contrasting layers"),
    "watermarking_config": Unsupported("watermarking"),
    "token_healing": Unsupported("token healing", (None, False)),
}
_OFF: tuple[Any, ...] = (None, False)
_CACHE = "the cache always has a fixed size; cache_dtype='int8' makes it smaller"
_ASSISTED = "it is only for assisted generation, which is not implemented; leave it out"
_COMPILED = "the loop is always compiled, once per bucket of sizes; see warmup and explain_recompiles"
_WORKED_OUT = "generate derives it from input_ids and attention_mask; leave it out"
_HEADS = "heads cannot be masked during generation; jaxmodels.prune_heads removes heads permanently"
_ENCODER_DECODER = "it is only for encoder-decoder models"
_DOCUMENTS = "it is only for RAG models"
_DECODER_ONLY = "it is only for guidance of decoder-only models"
_GLOBAL = "it is only for LED"
_REPETITION = "only repetition_penalty is implemented"

# Options of transformers 4.37 to 4.57 (`generate` for PyTorch and Flax, GenerationConfig, arguments of models) and of
# vLLM and OpenAI: what to pass instead, and values that have no effect.
OTHER_LIBRARIES = {
    "inputs": Unsupported("it is called input_ids"),
    "inputs_embeds": Unsupported("prompts must be ids: input_ids="),
    "decoder_inputs_embeds": Unsupported("prompts must be ids: decoder_input_ids="),
    "prng_key": Unsupported("it is called key="),
    "seed": Unsupported("pass key=jax.random.key(seed)"),
    "trace": Unsupported("the loop is always compiled; debug with jax.disable_jit()", (None, True)),
    "use_cache": Unsupported("a cache is always used; leave it out", (None, True)),
    "cache_implementation": Unsupported(_CACHE, (None, "static")),
    "cache_config": Unsupported(_CACHE),
    "past_key_values": Unsupported("generation starts with an empty cache; pass the whole sequence as input_ids"),
    "cache": Unsupported("generation starts with an empty cache; pass the whole sequence as input_ids"),
    "return_legacy_cache": Unsupported("the cache is not returned", _OFF),
    "prefill_chunk_size": Unsupported("the prompt is always processed in one chunk; leave it out"),
    "low_memory": Unsupported("it is only for contrastive search, which is not implemented; leave it out", _OFF),
    "compile_config": Unsupported(_COMPILED),
    "disable_compile": Unsupported(_COMPILED, _OFF),
    "num_assistant_tokens": Unsupported(_ASSISTED, (None, 5, 20)),
    "num_assistant_tokens_schedule": Unsupported(_ASSISTED, (None, "heuristic", "constant")),
    "assistant_confidence_threshold": Unsupported(_ASSISTED, (None, 0.4)),
    "assistant_lookbehind": Unsupported(_ASSISTED, (None, 10)),
    "target_lookbehind": Unsupported(_ASSISTED, (None, 10)),
    "assistant_tokenizer": Unsupported(_ASSISTED),
    "max_matching_ngram_size": Unsupported(_ASSISTED),
    "is_assistant": Unsupported(_ASSISTED, _OFF),
    "generation_kwargs": Unsupported("pass its options by name", (None, {})),
    "return_dict_in_generate": Unsupported(
        "the result is always a GenerateOutput; the ids alone are its .sequences", (None, True)
    ),
    "return_dict": Unsupported("the result is always a GenerateOutput; the ids alone are its .sequences", (None, True)),
    "synced_gpus": Unsupported("processes that share a mesh are always synchronized; leave it out", _OFF),
    "use_model_defaults": Unsupported(
        "generation_config= replaces the checkpoint's settings; pass options by name to override single ones", _OFF
    ),
    "custom_generate": Unsupported("code of a repository is never executed; pass functions in logits_processor="),
    "trust_remote_code": Unsupported("code of a repository is never executed", _OFF),
    "logits_warper": Unsupported("pass it in logits_processor="),
    "position_ids": Unsupported(_WORKED_OUT),
    "segment_ids": Unsupported("each row of a prompt is one sequence; leave it out"),
    "decoder_position_ids": Unsupported(_WORKED_OUT),
    "cache_position": Unsupported(_WORKED_OUT),
    "logits_to_keep": Unsupported(_WORKED_OUT),
    "num_logits_to_keep": Unsupported(_WORKED_OUT),
    "token_type_ids": Unsupported("token types are not used in generation; leave it out"),
    "decoder_attention_mask": Unsupported("decoder_input_ids must not be padded; leave it out"),
    "encoder_hidden_states": Unsupported("it is called encoder_outputs="),
    "encoder_attention_mask": Unsupported("it is called attention_mask="),
    "head_mask": Unsupported(_HEADS),
    "decoder_head_mask": Unsupported(_HEADS),
    "cross_attn_head_mask": Unsupported(_HEADS),
    "labels": Unsupported("generate computes no loss; call model.apply(..., labels=labels)"),
    "mask": Unsupported("it is called attention_mask="),
    "rngs": Unsupported("it is called key="),
    "dropout_rng": Unsupported("generation uses no dropout; the sampling key is key="),
    "train": Unsupported("generation uses no dropout; leave it out", _OFF),
    "deterministic": Unsupported("generation uses no dropout; leave it out", (None, True)),
    "dtype": Unsupported("pass model.clone(dtype=...) for the model, or cache_dtype= for the cache"),
    "torch_dtype": Unsupported("the dtype is an attribute of the model: model.clone(dtype=...)"),
    "device": Unsupported("it runs on the devices of the parameters"),
    "decoder_input_ids": Unsupported(_ENCODER_DECODER),
    "encoder_outputs": Unsupported(_ENCODER_DECODER),
    "negative_prompt_ids": Unsupported(_DECODER_ONLY),
    "negative_prompt_attention_mask": Unsupported(_DECODER_ONLY),
    "global_attention_mask": Unsupported(_GLOBAL),
    "max_global_tokens": Unsupported(_GLOBAL),
    "context_input_ids": Unsupported(_DOCUMENTS),
    "context_attention_mask": Unsupported(_DOCUMENTS),
    "doc_scores": Unsupported(_DOCUMENTS),
    "retriever": Unsupported(_DOCUMENTS),
    "n_docs": Unsupported(_DOCUMENTS),
    "do_deduplication": Unsupported("it is only for RagSequenceForGeneration"),
    "max_tokens": Unsupported("it is called max_new_tokens="),
    "n": Unsupported("it is called num_return_sequences="),
    "stop": Unsupported("it is called stop_strings="),
    "stop_token_ids": Unsupported("it is called eos_token_id="),
    "logit_bias": Unsupported("it is called sequence_bias="),
    "presence_penalty": Unsupported(_REPETITION),
    "frequency_penalty": Unsupported(_REPETITION),
}  # fmt: skip
# Provenance that other libraries store with the settings.
METADATA = frozenset(["_from_model_config", "_commit_hash", "_original_object_hash", "transformers_version"])

# Sources, as error messages name them.
CHECKPOINT = "generation_config.json (or config.json)"
GENERATION_CONFIG = "generation_config="
CALL = "the call"

# Options that only have an effect together with another one; a call that sets them without it gets a warning.
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS_ONLY = ("early_stopping", "length_penalty")
GROUPS_ONLY = ("num_beam_groups", "diversity_penalty")


def reject_other_options(
    what: str, options: Mapping[str, Any], error_type: type[Exception], *, allow_methods: bool = False
) -> None:
    """Rejects what is neither an option of `generate` nor an option of another library with a neutral value.

    Args:
      what: beginning of the message, as in "generate has no option".
      error_type: of the exception.
      allow_methods: accept options of unsupported decoding methods, which are rejected later.

    Raises:
      error_type: see `messages.reject_unsupported`.
      MethodError: an option enables a decoding method that is not implemented.
    """
    others = {name: value for name, value in options.items() if name not in NAMES}
    if not others:
        return
    methods = UNSUPPORTED_METHODS | NEWER_UNSUPPORTED_METHODS
    unknown = {name: value for name, value in others.items() if name not in methods}
    reject_unsupported(what, unknown, NAMES, OTHER_LIBRARIES, error_type)
    for name, value in others.items():
        if name in methods and not methods[name].is_neutral(value) and not allow_methods:
            method = f"{methods[name].instead} ({name}={brief(value)})"
            raise MethodError(f"{method} is not implemented; leave {name} out", name)


@dataclasses.dataclass
class Settings:
    """Settings by name, not validated yet.

    Attributes:
      values: of the last source that has the setting.
      source: name -> which source that was.
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: dict[str, str] = dataclasses.field(default_factory=dict)

    def override(self, source: str, values: Mapping[str, Any]) -> Self:
        """Replaces values by those of another source."""
        self.values |= values
        self.source |= dict.fromkeys(values, source)
        return self

    def explain(self, error: OptionError | MethodError) -> Exception:
        """The error of an option; if its value does not come from the call, with the source and how to override it."""
        for name in error.names:
            if self.source.get(name, CALL) != CALL:
                message = f"{self.source[name]} has {name}={brief(self.values[name])}: {error}"
                if isinstance(error, NotImplementedError):
                    return NotImplementedError(f"{message}, or pass {name}=None")
                return ValueError(f"{message}; pass {name}= to override it")
        return error

    def option(self, name: str) -> Any:
        """The value of a single option, validated."""
        try:
            return validate_option(name, self.values.get(name))
        except OptionError as error:
            raise self.explain(error) from None

    def without_unused(self) -> dict[str, Any]:
        """The values, without those of inactive search methods that would be invalid or contradict the call."""
        values = dict(self.values)
        sampling, beams = (validate_option(name, values.get(name)) for name in ("do_sample", "num_beams"))
        from_file = {name for name, source in self.source.items() if source not in (CALL, GENERATION_CONFIG)}
        inactive: tuple[str, ...] = () if sampling else SAMPLING_ONLY
        inactive += BEAMS_ONLY if beams == 1 else ()
        inactive += ("max_length",) if values.get("max_new_tokens") is not None else ()
        unused = [name for name in inactive if name in from_file and not _is_valid(name, values[name])]
        if beams == 1:  # a call that reduces the beams need not mention groups
            before = [name for name in GROUPS_ONLY if self.source.get(name, CALL) != CALL]
            unused += [name for name in before if name in from_file or _is_valid(name, values[name])]
        # Contrastive search is greedy, and needs top_k above 1.
        if "penalty_alpha" in from_file and (
            sampling or beams > 1 or values.get("top_k", DEFAULTS["top_k"]) in (None, 0, 1)
        ):
            unused += ["penalty_alpha"]
        return {name: value for name, value in values.items() if name not in unused}


def _is_valid(name: str, value: Any) -> bool:
    try:
        validate_option(name, value)
    except OptionError:
        return False
    return True


def collect_settings(config: Config, generation_config: Any, call: Mapping[str, Any]) -> Settings:
    """The options of a call over `generation_config`, or over the checkpoint's settings; see `GenerationConfig.merge`.

    Raises:
      ValueError: an unknown option. NotImplementedError: a decoding method that is not implemented.
      TypeError: see `_read_generation_config`.
    """
    reject_other_options("generate has no option", call, ValueError)
    settings, ids = Settings(), {name: getattr(config, name) for name in SPECIAL_TOKEN_IDS}
    if generation_config is None:
        values = {**ids, **known_settings(config.generation)}
    else:
        replacement = _read_generation_config(generation_config)
        settings.override(GENERATION_CONFIG, replacement)
        # Ids that it does not set are those of the model.
        values = {name: value for name, value in ids.items() if replacement.get(name) in (None, (), [])}
    values = {name: value for name, value in values.items() if name not in call}
    settings.override(CHECKPOINT, _drop_ids_outside(values, config.vocab_size))
    return settings.override(CALL, {name: value for name, value in call.items() if name not in OTHER_LIBRARIES})


def known_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file that have a meaning here; warns of names that no library has."""
    unknown = [
        name
        for name, value in values.items()
        if name not in NAMES | UNSUPPORTED_METHODS.keys() | METADATA | OTHER_LIBRARIES.keys()
        and not (name in NEWER_UNSUPPORTED_METHODS and NEWER_UNSUPPORTED_METHODS[name].is_neutral(value))
    ]
    if unknown:
        warnings.warn(f"unknown generation settings are ignored: {', '.join(sorted(unknown))}", stacklevel=2)
    return {name: value for name, value in values.items() if name in NAMES or name in UNSUPPORTED_METHODS}


def _read_generation_config(generation_config: Any) -> dict[str, Any]:
    """The settings of a call's `generation_config`, by name.

    Raises:
      TypeError: not a GenerationConfig, dict or similar object of another library; or an unknown setting.
    """
    if isinstance(generation_config, Options):
        return {name: getattr(generation_config, name) for name in NAMES}
    to_dict = getattr(generation_config, "to_diff_dict", getattr(generation_config, "to_dict", None))
    if isinstance(generation_config, Mapping):
        values = dict(generation_config)
    elif callable(to_dict) and not isinstance(generation_config, type):
        values = dict(to_dict())
    else:
        raise TypeError(
            "generation_config must be a GenerationConfig, a dict of options, or another library's object with "
            f"to_dict; got {brief(generation_config)}; for a folder pass GenerationConfig.from_pretrained(folder)"
        )
    # By default such objects have return_dict_in_generate=False; here a GenerateOutput is always returned.
    values = {name: value for name, value in values.items() if name not in METADATA | {"return_dict_in_generate"}}
    reject_other_options("generation_config= has no option", values, TypeError, allow_methods=True)
    return {name: value for name, value in values.items() if name not in OTHER_LIBRARIES}


def _drop_ids_outside(values: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """A checkpoint's settings without ids outside its vocabulary: these are often defaults of the model type."""
    found, dropped = dict(values), []
    for name in (*SINGLE_ID_OPTIONS, *ID_LIST_OPTIONS):
        value = values.get(name)
        ids = value if isinstance(value, list | tuple) else [value]
        outside = [i for i in ids if isinstance(i, int) and i >= vocab_size]
        if outside:
            found[name] = None if ids[0] is value else [i for i in ids if i not in outside]
            dropped.append(f"{name} {', '.join(map(str, outside))}")
    if any(not each.startswith("bos") for each in dropped):  # bos is only needed without a prompt
        warnings.warn(
            f"ids of the checkpoint outside its vocabulary of {vocab_size} are ignored: {'; '.join(dropped)}",
            stacklevel=2,
        )
    return found
