"""Options of `generate` in the words of transformers and others: refused with what to write here, or so it is anyway.

None is ever taken and then ignored: a value that asks for what is so here anyway (`use_cache=True`) passes, any other
is an error. What a *file* says in these names was for another library, and says nothing here.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxmodels.generation.options import MethodError, shown
from jaxmodels.names import no_such


class Elsewhere(NamedTuple):
    """What to write here, and the values that need not be written because it is so anyway."""

    words: str
    settled: tuple[Any, ...] = (None,)


# Options of decoding methods that are for later: the method, and values at which they change nothing.
LATER = {
    "penalty_alpha": Elsewhere("contrastive search", (None, 0, 0.0)),
    "force_words_ids": Elsewhere("constrained beam search", (None, [])),
    "constraints": Elsewhere("constrained beam search", (None, [])),
    "assistant_model": Elsewhere("assisted generation"),
    "prompt_lookup_num_tokens": Elsewhere("assisted generation"),
}
# The same of transformers after 4.37.
YOUNGER = {
    "assistant_early_exit": Elsewhere("assisted generation"),
    "dola_layers": Elsewhere("decoding by contrasting layers"),
    "watermarking_config": Elsewhere("watermarking"),
    "token_healing": Elsewhere("token healing", (None, False)),
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
ELSEWHERE = {
    "inputs": Elsewhere("it is called input_ids"),
    "inputs_embeds": Elsewhere("texts begin with ids: input_ids"),
    "decoder_inputs_embeds": Elsewhere("texts begin with ids: decoder_input_ids"),
    "prng_key": Elsewhere("it is called key="),
    "seed": Elsewhere("it is called key=, of jax.random.key(seed)"),
    "trace": Elsewhere("the loop is always compiled; debug with jax.disable_jit()", (None, True)),
    "use_cache": Elsewhere("a cache is always used; leave it out", (None, True)),
    "cache_implementation": Elsewhere(_CACHE, (None, "static")),
    "cache_config": Elsewhere(_CACHE),
    "past_key_values": Elsewhere("prompts are read from their first token; give the whole text as input_ids"),
    "cache": Elsewhere("prompts are read from their first token; give the whole text as input_ids"),
    "return_legacy_cache": Elsewhere("the cache is not returned", _OFF),
    "prefill_chunk_size": Elsewhere("prompts are read at once; leave it out"),
    "low_memory": Elsewhere("it is for contrastive search, which is not here yet; leave it out", _OFF),
    "compile_config": Elsewhere(_COMPILED),
    "disable_compile": Elsewhere(_COMPILED, _OFF),
    "num_assistant_tokens": Elsewhere(_ASSISTED, (None, 5, 20)),
    "num_assistant_tokens_schedule": Elsewhere(_ASSISTED, (None, "heuristic", "constant")),
    "assistant_confidence_threshold": Elsewhere(_ASSISTED, (None, 0.4)),
    "assistant_lookbehind": Elsewhere(_ASSISTED, (None, 10)),
    "target_lookbehind": Elsewhere(_ASSISTED, (None, 10)),
    "assistant_tokenizer": Elsewhere(_ASSISTED),
    "max_matching_ngram_size": Elsewhere(_ASSISTED),
    "is_assistant": Elsewhere(_ASSISTED, _OFF),
    "generation_kwargs": Elsewhere("give its options by name", (None, {})),
    "return_dict_in_generate": Elsewhere(
        "the result is always a GenerateOutput; the ids alone are its .sequences", (None, True)
    ),
    "return_dict": Elsewhere("the result is always a GenerateOutput; the ids alone are its .sequences", (None, True)),
    "synced_gpus": Elsewhere("processes of a run that share a mesh go together always; leave it out", _OFF),
    "use_model_defaults": Elsewhere(
        "generation_config= takes the place of the checkpoint's settings; give some by name to change only these", _OFF
    ),
    "custom_generate": Elsewhere("code of a repository is never run; logits_processor= takes functions"),
    "trust_remote_code": Elsewhere("code of a repository is never run", _OFF),
    "logits_warper": Elsewhere("give it in logits_processor="),
    "position_ids": Elsewhere(_WORKED_OUT),
    "decoder_position_ids": Elsewhere(_WORKED_OUT),
    "cache_position": Elsewhere(_WORKED_OUT),
    "logits_to_keep": Elsewhere(_WORKED_OUT),
    "num_logits_to_keep": Elsewhere(_WORKED_OUT),
    "token_type_ids": Elsewhere("texts are continued without token types; leave it out"),
    "decoder_attention_mask": Elsewhere("decoder_input_ids are real in all columns; leave it out"),
    "encoder_hidden_states": Elsewhere("it is called encoder_outputs=, of an encoder-decoder"),
    "encoder_attention_mask": Elsewhere("it is called attention_mask="),
    "head_mask": Elsewhere(_HEADS),
    "decoder_head_mask": Elsewhere(_HEADS),
    "cross_attn_head_mask": Elsewhere(_HEADS),
    "labels": Elsewhere("a loss is of the model's own call: model.apply(..., labels=labels)"),
    "mask": Elsewhere("it is called attention_mask="),
    "rngs": Elsewhere("it is called key="),
    "dropout_rng": Elsewhere("nothing is dropped while generating; the key of sampling is key="),
    "train": Elsewhere("nothing is dropped while generating; leave it out", _OFF),
    "deterministic": Elsewhere("nothing is dropped while generating; leave it out", (None, True)),
    "dtype": Elsewhere("types are attributes of the model: model.clone(dtype=...); of the cache it is cache_dtype="),
    "torch_dtype": Elsewhere("types are attributes of the model: model.clone(dtype=...)"),
    "device": Elsewhere("it runs where the parameters are"),
    "decoder_input_ids": Elsewhere(_ENCODER_DECODER),
    "encoder_outputs": Elsewhere(_ENCODER_DECODER),
    "negative_prompt_ids": Elsewhere(_DECODER_ONLY),
    "negative_prompt_attention_mask": Elsewhere(_DECODER_ONLY),
    "global_attention_mask": Elsewhere(_GLOBAL),
    "max_global_tokens": Elsewhere(_GLOBAL),
    "context_input_ids": Elsewhere(_DOCUMENTS),
    "context_attention_mask": Elsewhere(_DOCUMENTS),
    "doc_scores": Elsewhere(_DOCUMENTS),
    "retriever": Elsewhere(_DOCUMENTS),
    "n_docs": Elsewhere(_DOCUMENTS),
    "do_deduplication": Elsewhere("it is for RagSequenceForGeneration, and this is none"),
    "max_tokens": Elsewhere("it is called max_new_tokens="),
    "n": Elsewhere("it is called num_return_sequences="),
    "stop": Elsewhere("it is called stop_strings="),
    "stop_token_ids": Elsewhere("it is called eos_token_id="),
    "logit_bias": Elsewhere("it is called sequence_bias="),
    "presence_penalty": Elsewhere(_REPETITION),
    "frequency_penalty": Elsewhere(_REPETITION),
}  # fmt: skip
# Notes of what wrote a file, or of where an object came from.
METADATA = frozenset(["_from_model_config", "_commit_hash", "_original_object_hash", "transformers_version"])


def is_settled(value: Any, settled: Iterable[Any]) -> bool:
    """Whether a value asks for what is so anyway; True is not 1 here."""
    value = value.item() if isinstance(value, np.generic) else value
    return any(type(value) is type(one) and value == one for one in settled)


def refuse_elsewhere(what: str, options: Mapping[str, Any], known: Collection[str], kind: type[Exception]) -> None:
    """Raises where an option is of another library, and asks for something else than is so anyway, or of none.

    Args:
      what: whose option, as the beginning of a sentence: "generate has no option". kind: of the exception.
      known: the names that are options. Those of decoding methods that are for later pass here.
    """
    for name, value in options.items():
        if name in known or name in LATER or name in YOUNGER:
            continue
        if name not in ELSEWHERE:
            raise kind(no_such(what, name, known, {other: found.words for other, found in ELSEWHERE.items()}))
        if not is_settled(value, ELSEWHERE[name].settled):
            raise kind(f"{what} {name!r} (got {shown(value)}): {ELSEWHERE[name].words}")


def refuse_later(options: Mapping[str, Any]) -> None:
    """Raises MethodError where an option asks for a decoding method that is not here."""
    for name, value in options.items():
        found = LATER.get(name) or YOUNGER.get(name)
        if found is not None and not is_settled(value, found.settled):
            raise MethodError(f"{found.words} ({name}={shown(value)}) is not here yet; leave {name} out", name)
