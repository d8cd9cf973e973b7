"""`generate` and `warmup`."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.generation import recompiles, thorough
from jaxmodels.generation.arguments import Extras, check_concrete, check_model
from jaxmodels.generation.call import Ready, call
from jaxmodels.generation.callbacks import PrefixFunction, Streamer
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.output import GenerateOutput
from jaxmodels.generation.processors import Processor
from jaxmodels.generation.search import Criterion
from jaxmodels.generation.stopping import Decodes


def generate(
    model: nn.Module,
    params: dict,
    input_ids: jax.Array | None = None,
    *,
    attention_mask: jax.Array | None = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    key: jax.Array | None = None,
    streamer: Streamer | None = None,
    logits_processor: Sequence[Processor] | None = (),
    stopping_criteria: Sequence[Criterion] | None = (),
    prefix_allowed_tokens_fn: PrefixFunction | None = None,
    tokenizer: Decodes | None = None,
    cache_dtype: Any = None,
    **options,
) -> GenerateOutput:
    """Continues each prompt, or answers each input: greedily, by sampling, by beam search.

    Prompt, batch and output sizes are rounded up to buckets (by padding), so another size in the same bucket compiles
    nothing; temperature, penalties, lengths, ids and all other numbers of the options are traced. `explain_recompiles`
    says what was new when something did compile, `warmup` compiles beforehand.

    Args:
      input_ids: int [B,T]: prompts, the shorter ones padded on the left; or what an encoder-decoder reads. None: the
        bos id alone, or what `encoder_outputs` were made of.
      attention_mask: [B,T], 0 for padding. None: the pad id marks padding, if it is no eos id, else there is none.
      generation_config: instead of the checkpoint's generation settings; or a dict of options, or an object of
        transformers, whose options are read by name.
      key: for do_sample. One key, into which the number of each row is folded; or keys [B], one for each prompt, so
        that what it draws does not depend on its place in the batch either. Of any implementation; those of the
        hardware (rbg) draw for one row after the other.
      streamer: called with the new ids of every step, numpy int32 [B], while the loop runs; what it raises ends the
        loop and is raised here. Not with beams.
      logits_processor: functions (text, scores float32 [N,V]) -> scores of the same kind, which run inside the compiled
        loop after the built-in ones; see `Text` for what they know. A registered pytree has its arrays traced; another
        plain function compiles anew. Rows that fill a bucket are there too.
      stopping_criteria: functions (text, scores) -> bool [N] or scalar, rows that end; beams end when all do.
      prefix_allowed_tokens_fn: (example, ids so far) -> ids that may come next; called on the host at every step.
      tokenizer: for stop_strings, which are looked for in its `decode` of the text, before clean-up of spaces, where
        they end in what is new.
      cache_dtype: of the keys and values that are kept: None for the model's, or bfloat16, or int8 (with a scale for
        every token and head).
      options: those of `GenerationConfig`, over the settings; what comes of both is checked. An encoder-decoder also
        takes decoder_input_ids [B,T], how its output begins; encoder_outputs, what `encode` made of input_ids already;
        and its encoder's own inputs (LED: global_attention_mask, max_global_tokens). A decoder-only model:
        negative_prompt_ids and negative_prompt_attention_mask [B,U], for guidance.

    Raises:
      ValueError: an unknown option or one of another library (with what to write here), a value out of range, options
        that contradict each other, an empty prompt, or more tokens than the model has positions; all before anything
        compiles.
      TypeError: an argument of another kind, a model that does not generate, or a traced one: the call compiles its own
        loop.
      NotImplementedError: a decoding method that is not here.
    """
    check_model(model, params)
    named = {"params": params, "input_ids": input_ids, "attention_mask": attention_mask, "key": key}
    check_concrete({**named, "logits_processor": logits_processor, "stopping_criteria": stopping_criteria, **options})
    extras = Extras(
        generation_config=generation_config,
        key=key,
        streamer=streamer,
        logits_processor=() if logits_processor is None else logits_processor,
        stopping_criteria=() if stopping_criteria is None else stopping_criteria,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        tokenizer=tokenizer,
        cache_dtype=cache_dtype,
    )
    if getattr(model, "marginal", None) == "sequence":
        return thorough.generate(model, params, input_ids, attention_mask, options, extras)
    return call(model, params, input_ids, attention_mask, options, extras, Ready.run)


def warmup(
    model: nn.Module,
    params: dict,
    *,
    prompt_lengths: Sequence[int],
    batch_sizes: Sequence[int] = (1,),
    max_new_tokens: int,
    **options,
) -> int:
    """Compiles what `generate` will need for these sizes and options, by runs of a token or two.

    Args:
      prompt_lengths, batch_sizes: one of each bucket is enough. max_new_tokens: the most that will be asked for.
      options: those that `generate` will get; their numbers do not matter, only which of them are on.

    Returns:
      How many programs were compiled.
    """
    check_model(model, params)
    check_concrete({"params": params, **options})
    names = {field.name for field in dataclasses.fields(Extras)}
    extras = Extras(**{name: options.pop(name) for name in names & options.keys()})
    before = recompiles.compiled()
    for batch in batch_sizes:
        for length in prompt_lengths:
            ids = jnp.zeros((batch, length), jnp.int32)
            asked = {"max_new_tokens": max_new_tokens, **options}
            call(model, params, ids, jnp.ones_like(ids), asked, extras, partial(Ready.run, warming=True))
    return recompiles.compiled() - before
