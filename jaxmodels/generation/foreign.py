"""Options of `generate` in the words of transformers and others: refused with what to write here, or so it is anyway.

None is ever taken and then ignored: a value that asks for what is so here anyway (`use_cache=True`) passes, any other
is an error. What a *file* says in these names was for another library, and says nothing here.
"""

from collections.abc import Collection, Mapping
from typing import Any

from jaxmodels.generation.options import MethodError
from jaxmodels.messages import Unsupported, brief, reject_unsupported

# Options of decoding methods that are for later: the method, and values at which they change nothing.
LATER = {
    "penalty_alpha": Unsupported("contrastive search", (None, 0, 0.0)),
    "force_words_ids": Unsupported("constrained beam search", (None, [])),
    "constraints": Unsupported("constrained beam search", (None, [])),
    "assistant_model": Unsupported("assisted generation"),
    "prompt_lookup_num_tokens": Unsupported("assisted generation"),
}
# The same of transformers after 4.37.
YOUNGER = {
    "assistant_early_exit": Unsupported("assisted generation"),
    "dola_layers": Unsupported("decoding by contrasting layers"),
    "watermarking_config": Unsupported("watermarking"),
    "token_healing": Unsupported("token healing", (None, False)),
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
    "inputs": Unsupported("it is called input_ids"),
    "inputs_embeds": Unsupported("texts begin with ids: input_ids"),
    "decoder_inputs_embeds": Unsupported("texts begin with ids: decoder_input_ids"),
    "prng_key": Unsupported("it is called key="),
    "seed": Unsupported("it is called key=, of jax.random.key(seed)"),
    "trace": Unsupported("the loop is always compiled; debug with jax.disable_jit()", (None, True)),
    "use_cache": Unsupported("a cache is always used; leave it out", (None, True)),
    "cache_implementation": Unsupported(_CACHE, (None, "static")),
    "cache_config": Unsupported(_CACHE),
    "past_key_values": Unsupported("prompts are read from their first token; give the whole text as input_ids"),
    "cache": Unsupported("prompts are read from their first token; give the whole text as input_ids"),
    "return_legacy_cache": Unsupported("the cache is not returned", _OFF),
    "prefill_chunk_size": Unsupported("prompts are read at once; leave it out"),
    "low_memory": Unsupported("it is for contrastive search, which is not here yet; leave it out", _OFF),
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
    "generation_kwargs": Unsupported("give its options by name", (None, {})),
    "return_dict_in_generate": Unsupported(
        "the result is always a GenerateOutput; the ids alone are its .sequences", (None, True)
    ),
    "return_dict": Unsupported("the result is always a GenerateOutput; the ids alone are its .sequences", (None, True)),
    "synced_gpus": Unsupported("processes of a run that share a mesh go together always; leave it out", _OFF),
    "use_model_defaults": Unsupported(
        "generation_config= takes the place of the checkpoint's settings; give some by name to change only these", _OFF
    ),
    "custom_generate": Unsupported("code of a repository is never run; logits_processor= takes functions"),
    "trust_remote_code": Unsupported("code of a repository is never run", _OFF),
    "logits_warper": Unsupported("give it in logits_processor="),
    "position_ids": Unsupported(_WORKED_OUT),
    "decoder_position_ids": Unsupported(_WORKED_OUT),
    "cache_position": Unsupported(_WORKED_OUT),
    "logits_to_keep": Unsupported(_WORKED_OUT),
    "num_logits_to_keep": Unsupported(_WORKED_OUT),
    "token_type_ids": Unsupported("texts are continued without token types; leave it out"),
    "decoder_attention_mask": Unsupported("decoder_input_ids are real in all columns; leave it out"),
    "encoder_hidden_states": Unsupported("it is called encoder_outputs=, of an encoder-decoder"),
    "encoder_attention_mask": Unsupported("it is called attention_mask="),
    "head_mask": Unsupported(_HEADS),
    "decoder_head_mask": Unsupported(_HEADS),
    "cross_attn_head_mask": Unsupported(_HEADS),
    "labels": Unsupported("a loss is of the model's own call: model.apply(..., labels=labels)"),
    "mask": Unsupported("it is called attention_mask="),
    "rngs": Unsupported("it is called key="),
    "dropout_rng": Unsupported("nothing is dropped while generating; the key of sampling is key="),
    "train": Unsupported("nothing is dropped while generating; leave it out", _OFF),
    "deterministic": Unsupported("nothing is dropped while generating; leave it out", (None, True)),
    "dtype": Unsupported("types are attributes of the model: model.clone(dtype=...); of the cache it is cache_dtype="),
    "torch_dtype": Unsupported("types are attributes of the model: model.clone(dtype=...)"),
    "device": Unsupported("it runs where the parameters are"),
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
    "do_deduplication": Unsupported("it is for RagSequenceForGeneration, and this is none"),
    "max_tokens": Unsupported("it is called max_new_tokens="),
    "n": Unsupported("it is called num_return_sequences="),
    "stop": Unsupported("it is called stop_strings="),
    "stop_token_ids": Unsupported("it is called eos_token_id="),
    "logit_bias": Unsupported("it is called sequence_bias="),
    "presence_penalty": Unsupported(_REPETITION),
    "frequency_penalty": Unsupported(_REPETITION),
}  # fmt: skip
# Notes of what wrote a file, or of where an object came from.
METADATA = frozenset(["_from_model_config", "_commit_hash", "_original_object_hash", "transformers_version"])


def refuse_others(what: str, options: Mapping[str, Any], known: Collection[str], kind: type[Exception]) -> None:
    """`names.refuse_foreign` of these options; decoding methods that are for later pass here."""
    now = {name: value for name, value in options.items() if name not in LATER and name not in YOUNGER}
    reject_unsupported(what, now, known, FOREIGN, kind)


def refuse_later(options: Mapping[str, Any]) -> None:
    """Raises MethodError where an option asks for a decoding method that is not here."""
    for name, value in options.items():
        found = LATER.get(name) or YOUNGER.get(name)
        if found is not None and not found.asks_for_nothing(value):
            raise MethodError(f"{found.instead} ({name}={brief(value)}) is not here yet; leave {name} out", name)
