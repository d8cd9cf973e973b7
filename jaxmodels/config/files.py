"""config.json and generation_config.json: reading and writing both files, and keys that are not fields of a config."""

import json
from pathlib import Path
from typing import Any

from jaxmodels.download import read_json
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, read_snapshot

CONFIG_FILES = CONFIG, GENERATION = ("config.json", "generation_config.json")

# Token ids that generation uses: fields of config.json, which generation_config.json can override.
SPECIAL_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")

# Generation settings that older checkpoints have in config.json, with the defaults of the reference's configs.
OLD_SETTINGS = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
# All generation settings that config.json may contain: the reference reads every field of its GenerationConfig.
GENERATION_KEYS = frozenset(
    [
        *OLD_SETTINGS,
        "max_new_tokens",
        "min_new_tokens",
        "max_time",
        "penalty_alpha",
        "epsilon_cutoff",
        "eta_cutoff",
        "encoder_repetition_penalty",
        "force_words_ids",
        "renormalize_logits",
        "constraints",
        "forced_decoder_ids",
        "sequence_bias",
        "guidance_scale",
        "low_memory",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "prompt_lookup_num_tokens",
        "generation_kwargs",
    ]
)

_KERNEL = "the attention kernel is chosen by attention=, of the model or of jm.load"
_ORIGIN = "a record of the file's origin"
_TORCH = "an option of the PyTorch library"
_TRAINING = "a record of the training script"
_UNREAD = "not read by this architecture"
# Keys without effect -> the reason, which says what to write instead if there is something. Accepted in files without
# a warning, rejected in calls.
NO_EFFECT = {
    "_name_or_path": _ORIGIN,
    "name_or_path": _ORIGIN,
    "_commit_hash": _ORIGIN,
    "transformers_version": "a record of the version that wrote the file",
    "auto_map": "remote code is never run",
    "torchscript": _TORCH,
    "use_bfloat16": f"{_TORCH}; dtypes are chosen by dtype= and param_dtype=, of the model or of jm.load",
    "xla_device": _TORCH,
    "tf_legacy_loss": "an option of the TensorFlow library",
    "_attn_implementation": _KERNEL,
    "_attn_implementation_autoset": _KERNEL,
    "_attn_implementation_internal": _KERNEL,
    "attn_implementation": _KERNEL,
    "gradient_checkpointing": "layers are recomputed with remat=True, of the model or of jm.load",
    "use_cache": "a cache is used if one is passed: cache=model.init_cache(batch, length); jm.generate creates its own",
    "output_past": "an older name of use_cache: a cache is used if one is passed",
    "_num_labels": "an older name of num_labels that the reference does not read",
    "eos_token_ids": "an older name of eos_token_id that the reference does not read",
    "task_specific_params": _TRAINING,
    "finetuning_task": _TRAINING,
    "tokenizer_class": "read by load_tokenizer, not by the model",
    "sep_token_id": _UNREAD,
    "cross_attention_hidden_size": _UNREAD,
    "tie_encoder_decoder": f"{_UNREAD}; encoder and decoder have separate weights",
}


def read_configs(folder: Path | FolderSnapshot) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Reads config.json and generation_config.json.

    Returns:
      The contents of both files; None for a missing generation_config.json.

    Raises:
      FileNotFoundError: there is no config.json.
      ValueError: a file does not contain a JSON object.
    """
    return read_snapshot(folder, _read)


def _read(folder: FolderSnapshot) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} has no {CONFIG}; it contains {', '.join(folder.names()[:20]) or 'nothing'}")
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else None
    return read_json(folder / CONFIG), generation


def write_configs(folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> None:
    """Writes both files; without generation settings only config.json, and an existing generation_config.json goes."""
    with atomic_save(folder, "config") as staging:
        for name, contents in ((CONFIG, config), (GENERATION, generation)):
            if contents:
                (staging / name).write_text(to_json(contents), encoding="utf-8")


def to_json(values: dict[str, Any]) -> str:
    """Formats a JSON object as the reference does: indented, with sorted keys."""
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
