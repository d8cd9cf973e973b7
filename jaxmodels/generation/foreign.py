"""Options of `generate` in the words of transformers and others: refused with what to write here, or so it is anyway.

None is ever taken and then ignored: a value that asks for what is so here anyway (`use_cache=True`) passes, any other
is an error. What a *file* says in these names was for another library, and says nothing here.
"""

from collections.abc import Collection, Mapping
from typing import Any

from jaxmodels.generation.options import MethodError
from jaxmodels.names import Foreign, refuse_foreign
from jaxmodels.wording import brief

# Options of decoding methods that are for later: the method, and values at which they change nothing.
LATER = {
    "penalty_alpha": Foreign("contrastive search", (None, 0, 0.0)),
    "force_words_ids": Foreign("constrained beam search", (None, [])),
    "constraints": Foreign("constrained beam search", (None, [])),
    "assistant_model": Foreign("assisted generation"),
    "prompt_lookup_num_tokens": Foreign("assisted generation"),
}
# The same of transformers after 4.37.
YOUNGER = {
    "assistant_early_exit": Foreign("assisted generation"),
    "dola_layers": Foreign("decoding by contrasting layers"),
    "watermarking_config": Foreign("watermarking"),
    "token_healing": Foreign("token healing", (None, False)),
}
_OFF: tuple[Any, ...] = (None, False)
_CACHE = "the cache is always of a fixed size, and compiled; cache_dtype='int8' makes it smaller"
_ASSISTED = "it is for assisted generation, which is not here yet; leave it out"
_COMPILED = "the loop is always compiled, once for each bucket of sizes; see warmup and explain_recompiles"
_WORKED_OUT = "generate works it out from input_ids and attention_mask; leave it out"
_HEADS = "no head is masked while generating; jaxmodels.prune_heads takes heads out for good"
_ENCODER_DECODER = "it is for encoder-decoder models, and this is none"
_DOCUMENTS = "it is for RAG models, and this is none"
_DECODER_ONLY = "it is for guidance of a decoder-only model, and this is none"
_GLOBAL = "it is for LED, and this is none"
_REPETITION = "repetition_penalty is what there is of its kind"

# Of transformers 4.37 to 4.57, PyTorch's `generate` and Flax's, their GenerationConfig, and what models take beside.
FOREIGN = {
    "inputs": Foreign("it is called input_ids"),
    "inputs_embeds": Foreign("texts begin with ids: input_ids"),
    "decoder_inputs_embeds": Foreign("texts begin with ids: decoder_input_ids"),
    "prng_key": Foreign("it is called key="),
    "seed": Foreign("it is called key=, of jax.random.key(seed)"),
    "trace": Foreign("the loop is always compiled; debug with jax.disable_jit()", (None, True)),
    "use_cache": Foreign("a cache is always used; leave it out", (None, True)),
    "cache_implementation": Foreign(_CACHE, (None, "static")),
    "cache_config": Foreign(_CACHE),
    "past_key_values": Foreign("prompts are read from their first token; give the whole text as input_ids"),
    "cache": Foreign("prompts are read from their first token; give the whole text as input_ids"),
    "return_legacy_cache": Foreign("the cache is not returned", _OFF),
    "prefill_chunk_size": Foreign("prompts are read at once; leave it out"),
    "low_memory": Foreign("it is for contrastive search, which is not here yet; leave it out", _OFF),
    "compile_config": Foreign(_COMPILED),
    "disable_compile": Foreign(_COMPILED, _OFF),
    "num_assistant_tokens": Foreign(_ASSISTED, (None, 5, 20)),
    "num_assistant_tokens_schedule": Foreign(_ASSISTED, (None, "heuristic", "constant")),
    "assistant_confidence_threshold": Foreign(_ASSISTED, (None, 0.4)),
    "assistant_lookbehind": Foreign(_ASSISTED, (None, 10)),
    "target_lookbehind": Foreign(_ASSISTED, (None, 10)),
    "assistant_tokenizer": Foreign(_ASSISTED),
    "max_matching_ngram_size": Foreign(_ASSISTED),
    "is_assistant": Foreign(_ASSISTED, _OFF),
    "generation_kwargs": Foreign("give its options by name", (None, {})),
    "return_dict_in_generate": Foreign(
        "the result is always a GenerateOutput; the ids alone are its .sequences", (None, True)
    ),
    "return_dict": Foreign("the result is always a GenerateOutput; the ids alone are its .sequences", (None, True)),
    "synced_gpus": Foreign("processes of a run that share a mesh go together always; leave it out", _OFF),
    "use_model_defaults": Foreign(
        "generation_config= takes the place of the checkpoint's settings; give some by name to change only these", _OFF
    ),
    "custom_generate": Foreign("code of a repository is never run; logits_processor= takes functions"),
    "trust_remote_code": Foreign("code of a repository is never run", _OFF),
    "logits_warper": Foreign("give it in logits_processor="),
    "position_ids": Foreign(_WORKED_OUT),
    "decoder_position_ids": Foreign(_WORKED_OUT),
    "cache_position": Foreign(_WORKED_OUT),
    "logits_to_keep": Foreign(_WORKED_OUT),
    "num_logits_to_keep": Foreign(_WORKED_OUT),
    "token_type_ids": Foreign("texts are continued without token types; leave it out"),
    "decoder_attention_mask": Foreign("decoder_input_ids are real in all columns; leave it out"),
    "encoder_hidden_states": Foreign("it is called encoder_outputs=, of an encoder-decoder"),
    "encoder_attention_mask": Foreign("it is called attention_mask="),
    "head_mask": Foreign(_HEADS),
    "decoder_head_mask": Foreign(_HEADS),
    "cross_attn_head_mask": Foreign(_HEADS),
    "labels": Foreign("a loss is of the model's own call: model.apply(..., labels=labels)"),
    "mask": Foreign("it is called attention_mask="),
    "rngs": Foreign("it is called key="),
    "dropout_rng": Foreign("nothing is dropped while generating; the key of sampling is key="),
    "train": Foreign("nothing is dropped while generating; leave it out", _OFF),
    "deterministic": Foreign("nothing is dropped while generating; leave it out", (None, True)),
    "dtype": Foreign("types are attributes of the model: model.clone(dtype=...); of the cache it is cache_dtype="),
    "torch_dtype": Foreign("types are attributes of the model: model.clone(dtype=...)"),
    "device": Foreign("it runs where the parameters are"),
    "decoder_input_ids": Foreign(_ENCODER_DECODER),
    "encoder_outputs": Foreign(_ENCODER_DECODER),
    "negative_prompt_ids": Foreign(_DECODER_ONLY),
    "negative_prompt_attention_mask": Foreign(_DECODER_ONLY),
    "global_attention_mask": Foreign(_GLOBAL),
    "max_global_tokens": Foreign(_GLOBAL),
    "context_input_ids": Foreign(_DOCUMENTS),
    "context_attention_mask": Foreign(_DOCUMENTS),
    "doc_scores": Foreign(_DOCUMENTS),
    "retriever": Foreign(_DOCUMENTS),
    "n_docs": Foreign(_DOCUMENTS),
    "do_deduplication": Foreign("it is for RagSequenceForGeneration, and this is none"),
    "max_tokens": Foreign("it is called max_new_tokens="),
    "n": Foreign("it is called num_return_sequences="),
    "stop": Foreign("it is called stop_strings="),
    "stop_token_ids": Foreign("it is called eos_token_id="),
    "logit_bias": Foreign("it is called sequence_bias="),
    "presence_penalty": Foreign(_REPETITION),
    "frequency_penalty": Foreign(_REPETITION),
}  # fmt: skip
# Notes of what wrote a file, or of where an object came from.
METADATA = frozenset(["_from_model_config", "_commit_hash", "_original_object_hash", "transformers_version"])


def refuse_others(what: str, options: Mapping[str, Any], known: Collection[str], kind: type[Exception]) -> None:
    """`names.refuse_foreign` of these options; decoding methods that are for later pass here."""
    now = {name: value for name, value in options.items() if name not in LATER and name not in YOUNGER}
    refuse_foreign(what, now, known, FOREIGN, kind)


def refuse_later(options: Mapping[str, Any]) -> None:
    """Raises MethodError where an option asks for a decoding method that is not here."""
    for name, value in options.items():
        found = LATER.get(name) or YOUNGER.get(name)
        if found is not None and not found.asks_for_nothing(value):
            raise MethodError(f"{found.instead} ({name}={brief(value)}) is not here yet; leave {name} out", name)
