"""One call of the loop: options and prompts checked, search and processors chosen, result collected."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax.numpy as jnp

from jaxmodels.generation import decoder_only, encoder_decoder, rag_token
from jaxmodels.generation.arguments import Extras, check_concrete
from jaxmodels.generation.beams import BeamSearch
from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.callbacks import Streamer, registered
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.keys import spread
from jaxmodels.generation.output import GenerateOutput
from jaxmodels.generation.processors import as_pytree, processors
from jaxmodels.generation.program import Program
from jaxmodels.generation.prompts import Called
from jaxmodels.generation.results import collected
from jaxmodels.generation.search import Search, Terms
from jaxmodels.generation.single import Single
from jaxmodels.generation.stopping import Decodes
from jaxmodels.generation.warpers import Warpers

T = TypeVar("T")
ASKED = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


@dataclasses.dataclass(frozen=True)
class Ready:
    """A call that only needs to run; new: tokens that it may generate."""

    program: Program
    called: Called
    config: GenerationConfig
    new: int
    tokenizer: Decodes | None

    def run(self, *, warming: bool = False, **looks) -> GenerateOutput:
        """warming: only so far that all of it has been compiled. looks: the stretch and the clock of `Program.run`."""
        carry, generated = self.program.run(self.config, self.new, self.tokenizer, warming=warming, **looks)
        return collected(carry, generated, self.called, self.program.search, self.config)


def call(
    model: nn.Module,
    params: dict,
    input_ids,
    attention_mask,
    options: Mapping[str, Any],
    extras: Extras,
    use: Callable[[Ready], T],
) -> T:
    """One search over prompts or inputs; use: what to do with it."""
    family: Any = encoder_decoder if model.config.is_encoder_decoder else decoder_only
    if getattr(model, "marginal", None) == "token":
        family = rag_token
    names = (*family.INPUTS, *getattr(model, "encoding_options", ()))
    further = {name: options[name] for name in names if name in options}
    options = {name: value for name, value in options.items() if name not in names}
    config = GenerationConfig.merge(model.config, extras.generation_config, options)
    _check_call(config, extras)
    called = family.prepare(model, params, config, input_ids, attention_mask, further, extras.cache_dtype)
    check_concrete({"all that it makes": called.prompts.given})
    beginning = called.beginning.shape[1]
    new = config.new_tokens(beginning, options)
    if called.longest + new > model.max_tokens:
        raise ValueError(
            f"a prompt of {called.longest} tokens and {new} new ones are more than the {model.max_tokens} "
            f"positions of this model; cut the prompt or lower max_new_tokens"
        )
    allowed = registered(extras.prefix_allowed_tokens_fn)
    with _streaming(extras.streamer, len(called.beginning)) as stream, allowed as prefix:
        terms = Terms(
            eos=jnp.array(config.eos_token_id, jnp.int32),
            pad=jnp.int32(config.fill_id()),
            limit=jnp.int32(new),
            processors=processors(
                config,
                vocabulary=model.config.vocab_size,
                source=called.source,
                beginning=beginning,
                new=new,
                examples=len(called.beginning),
                prefix_function=prefix,
                custom=extras.logits_processor,
            ),
            criteria=tuple(as_pytree(criterion) for criterion in extras.stopping_criteria),
        )
        search = _search(config, terms, _keys(extras.key, config, called), model.config.vocab_size)
        asked = tuple(name for name in ASKED if getattr(config, name))
        program = Program(params, called.prompts, search, stream, bucket(new), asked)
        return use(Ready(program, called, config, new, extras.tokenizer))


def _search(config: GenerationConfig, terms: Terms, key, vocabulary: int) -> Search:
    warpers = Warpers.of(config, vocabulary) if config.do_sample else None
    if config.num_beams == 1:
        return Single(terms, key, warpers)
    return BeamSearch(
        terms,
        jnp.float32(config.length_penalty),
        key,
        warpers,
        width=config.num_beams,
        groups=config.num_beam_groups,
        early_stopping=config.early_stopping,
    )


def _keys(key, config: GenerationConfig, called: Called):
    """None, one key, or one for each row of the loop (of a beam search: for each example)."""
    if not config.do_sample:
        return None
    copies = config.num_return_sequences if config.num_beams == 1 else 1
    return spread(key, len(called.beginning) // copies, copies, len(called.prompts.beginning))


def _check_call(config: GenerationConfig, extras: Extras) -> None:
    if config.do_sample and extras.key is None:
        raise ValueError("do_sample=True needs key=jax.random.key(...): the same key gives the same text")
    if extras.streamer is not None and config.num_beams > 1:
        raise ValueError("a streamer needs num_beams=1: what beams begin with may not be what they end with")
    if config.stop_strings and extras.tokenizer is None:
        raise ValueError("stop_strings needs tokenizer=, to read the text")


def _streaming(streamer: Streamer | None, rows: int):
    """The streamer gets the caller's rows, not those that fill a bucket."""
    function: Callable | None = None if streamer is None else lambda tokens: streamer(tokens[:rows])
    return registered(function)
