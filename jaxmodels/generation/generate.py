"""`generate`: prefill, decoding loop and stopping in one compiled call."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.decoder_only import Continuation
from jaxmodels.generation.encoder_decoder import INPUTS, Reading
from jaxmodels.generation.options import Options
from jaxmodels.generation.sampling import Sampler
from jaxmodels.generation.streaming import Callback, stream


@dataclasses.dataclass(frozen=True)
class GenerateOutput:
    """sequences: int32 [B, prompt + generated], rows filled with the pad id after their end.

    The prompt is as given; of an encoder-decoder it is what the decoder started with.
    """

    sequences: jax.Array


def generate(
    model: nn.Module,
    params: dict,
    input_ids: jax.Array,
    *,
    attention_mask: jax.Array | None = None,
    key: jax.Array | None = None,
    streamer: Callback | None = None,
    **options,
) -> GenerateOutput:
    """Continues each prompt, or answers each input, greedily or by sampling.

    Prompt and output lengths are rounded up to buckets (by padding), so another length in the same bucket compiles
    nothing; temperature, top_k, top_p, the ids and the limit are traced.

    Args:
      input_ids: int [B,T]: prompts, the shorter ones padded on the left; or what an encoder-decoder reads.
      attention_mask: [B,T], 0 for padding. None: the pad id marks padding, if it is no eos id, else there is none.
      key: for do_sample.
      streamer: called with the new ids of every step, numpy int32 [B], while the loop runs; what it raises ends the
        loop and is raised here.
      options: Hugging Face's names, see `Options`: max_new_tokens, max_length, do_sample, temperature, top_k, top_p,
        eos_token_id (one or several), pad_token_id, forced_bos_token_id, forced_eos_token_id, decoder_start_token_id.
        Unset ones come from the checkpoint's generation settings. An encoder-decoder also takes decoder_input_ids
        [B,T], how its output begins; encoder_outputs, what `encode` made of input_ids already; and its encoder's own
        inputs (LED: global_attention_mask, max_global_tokens).

    Raises:
      ValueError: an unknown option, a value out of range, an empty prompt, or more tokens than the model has positions.
      NotImplementedError: an option of the reference that is not here yet.
    """
    config = model.config
    further = {}
    if config.is_encoder_decoder:
        further = {name: options.pop(name) for name in (*INPUTS, *model.encoding_options) if name in options}
    settings = Options.merge(config, options)
    prompts: Reading | Continuation
    if config.is_encoder_decoder:
        prompts = Reading(model, settings, input_ids, attention_mask, further)
    else:
        prompts = Continuation(model, settings, input_ids, attention_mask)
    beginning = prompts.beginning.shape[1]
    new = settings.new_tokens(beginning)
    if prompts.longest + new > model.max_tokens:
        raise ValueError(
            f"a prompt of {prompts.longest} tokens and {new} new ones are more than the {model.max_tokens} "
            f"positions of this model; cut the prompt or lower max_new_tokens"
        )
    ending = settings.ending(beginning, new)
    sampler = Sampler.make(settings, key, config.vocab_size)
    with stream(streamer) as number:
        number = None if number is None else jnp.int32(number)
        tokens, count = prompts.run(params, ending, sampler, number, bucket(new))
        count = int(count)
    return GenerateOutput(jnp.concatenate([jnp.asarray(prompts.beginning), tokens[:, :count]], axis=1))
