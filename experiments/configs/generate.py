"""Batch generation for a file of prompts. Options that are None default to the generation config of the checkpoint.

model.path and input are required. See `jm.GenerationConfig` for the meaning of the options.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.input = ""
    # path: folder or Hub id. cls: class of the model, if it differs from the one in the config. changes: overrides for
    # fields of the config, such as is_decoder for RoBERTa.
    config.model = ConfigDict({"path": "", "cls": placeholder(str), "changes": ConfigDict()})
    config.dtype = "float32"
    # Dtype of the KV cache: None for `dtype`, or bfloat16, or int8.
    config.cache_dtype = placeholder(str)

    # Prompts per batch. Each batch is padded to its longest prompt; prompts of similar length are batched together.
    # Options that inspect the tokens of a prompt (repetition_penalty, no_repeat_ngram_size, min_length, ...) would also
    # see the padding: with one of these, a decoder-only model gets batches of prompts of the same length.
    config.batch_size = 16
    config.seed = 0  # for do_sample
    config.distributed = False

    config.generate = ConfigDict(
        {
            "max_new_tokens": 64,
            "max_length": placeholder(int),
            "min_length": placeholder(int),
            "min_new_tokens": placeholder(int),
            "stop_strings": placeholder(tuple),
            # Sampling.
            "do_sample": placeholder(bool),
            "temperature": placeholder(float),
            "top_k": placeholder(int),
            "top_p": placeholder(float),
            "min_p": placeholder(float),
            "typical_p": placeholder(float),
            "epsilon_cutoff": placeholder(float),
            "eta_cutoff": placeholder(float),
            "num_return_sequences": placeholder(int),
            # Beam search. early_stopping: True, False or "never".
            "num_beams": placeholder(int),
            "num_beam_groups": placeholder(int),
            "diversity_penalty": placeholder(float),
            "length_penalty": placeholder(float),
            "early_stopping": placeholder(object),
            # Constraints. Sequences of ids: ((1, 2), (3,)); biases: (((1, 2), -5.0), ...); forced: ((1, 50), ...).
            "repetition_penalty": placeholder(float),
            "encoder_repetition_penalty": placeholder(float),
            "no_repeat_ngram_size": placeholder(int),
            "encoder_no_repeat_ngram_size": placeholder(int),
            "bad_words_ids": placeholder(tuple),
            "sequence_bias": placeholder(tuple),
            "guidance_scale": placeholder(float),
            "renormalize_logits": placeholder(bool),
            "remove_invalid_values": placeholder(bool),
            "forced_bos_token_id": placeholder(int),
            "forced_eos_token_id": placeholder(object),
            "forced_decoder_ids": placeholder(tuple),
            "exponential_decay_length_penalty": placeholder(tuple),
            "suppress_tokens": placeholder(tuple),
            "begin_suppress_tokens": placeholder(tuple),
            # Token ids: one or several, () for none.
            "eos_token_id": placeholder(object),
            "pad_token_id": placeholder(int),
            "bos_token_id": placeholder(int),
            "decoder_start_token_id": placeholder(int),
        }
    )
    return config
