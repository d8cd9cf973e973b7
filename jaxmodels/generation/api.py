"""`generate` and `warmup`: the arguments of a call, checked before anything is traced, and the call itself."""

import contextlib
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxmodels.architectures.base import Model
from jaxmodels.architectures.calls import parameters
from jaxmodels.generation.beams import BeamSearch
from jaxmodels.generation.callbacks import HostCallback, PrefixFunction, Streamer
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.encoder_decoder import EncoderDecoderPrompts
from jaxmodels.generation.loop import OUTPUT_OPTIONS, DecodingProgram, num_compiled
from jaxmodels.generation.options import GenerateOptions, ModelInputs, OptionsExceptLength
from jaxmodels.generation.output import GenerateOutput, make_output
from jaxmodels.generation.processors import as_pytree, make_processors
from jaxmodels.generation.prompts import DecoderOnlyPrompts, Generative, PreparedPrompts
from jaxmodels.generation.rag import RagTokenPrompts
from jaxmodels.generation.rag_sequence import generate_rag_sequence
from jaxmodels.generation.sampling import Warpers, as_keys, expand_keys
from jaxmodels.generation.search import Criterion, GreedyOrSample, Processor, Search, SearchConfig, bucket
from jaxmodels.generation.stopping import Decodes
from jaxmodels.generation.traced import INSIDE, exact, is_traced, reject_host_functions, reject_traced
from jaxmodels.layers.cache import check_cache_dtype
from jaxmodels.messages import brief

# The class that processes the inputs of a model, by its `generation_mode`; RAG-sequence runs several searches.
PROMPTS: dict[str, Any] = {
    "decoder_only": DecoderOnlyPrompts,
    "encoder_decoder": EncoderDecoderPrompts,
    "rag_token": RagTokenPrompts,
}


# The keywords that hold arrays, which may be traced.
ARRAYS = ModelInputs.__annotations__.keys() - {"max_global_tokens", "n_docs", "do_deduplication"}


class WarmupOptions(OptionsExceptLength, ModelInputs, total=False):
    """The keywords of `warmup` beyond its parameters: options and arguments of `generate`."""

    generation_config: GenerationConfig | Mapping[str, Any] | None
    key: jax.Array | None
    streamer: Streamer | None
    logits_processor: Sequence[Processor]
    stopping_criteria: Sequence[Criterion]
    prefix_allowed_tokens_fn: PrefixFunction | None
    tokenizer: Decodes | None
    cache_dtype: DTypeLike | None


def generate(
    model: Model,
    params: dict,
    input_ids: ArrayLike | None = None,
    *,
    attention_mask: ArrayLike | None = None,
    generation_config: GenerationConfig | Mapping[str, Any] | None = None,
    key: jax.Array | None = None,
    streamer: Streamer | None = None,
    logits_processor: Sequence[Processor] | None = (),
    stopping_criteria: Sequence[Criterion] | None = (),
    prefix_allowed_tokens_fn: PrefixFunction | None = None,
    tokenizer: Decodes | None = None,
    cache_dtype: DTypeLike | None = None,
    **options: Unpack[GenerateOptions],
) -> GenerateOutput:
    """Continues prompts, or generates the output of an encoder-decoder, by greedy decoding, sampling or beam search.

    Prompt, batch and output sizes are padded to buckets, so another size in the same bucket does not recompile;
    temperature, penalties, lengths, ids and all other numbers of the options are traced. `explain_recompiles` says why
    a call compiled, and `warmup` compiles ahead of the first call.

    The call can also be part of a program of the caller's, under `jax.jit`, `jax.vmap`, `jax.lax.scan` and
    `jax.shard_map`, with the same ids. There parameters, arrays and key may be traced; options are Python values.
    Nothing is padded to a bucket, and the output is not cut (see `GenerateOutput`); ids and masks whose values cannot
    be read are not checked, and all columns of a prompt count as tokens for the positions of the model. Traced
    decoder_input_ids include the start id. Of a gradient the ids are constants; scores have none.

    Args:
      model: with a language modelling head, from `jm.load`.
      params: parameters of the model.
      input_ids: int [B,T]: prompts, padded on the left; or the encoder's input. None: the bos id alone, or the input
        that `encoder_outputs` belong to.
      attention_mask: [B,T], 0 at padding. None: the pad id marks padding, unless it is an eos id.
      generation_config: replaces the checkpoint's generation settings: a GenerationConfig, a dict of options, or an
        object of transformers, whose options are read by name.
      key: for do_sample. One key, into which the index of each sequence is folded; or keys [B], one for each prompt, so
        that a draw does not depend on the position in the batch either (nor, under shard_map, on the device). Keys of
        any implementation; those of the hardware (rbg) draw for one sequence after the other.
      streamer: called with the new ids of every step, numpy int32 [B], while the loop runs. An exception ends the loop
        and is raised here. Not with beams.
      logits_processor: functions (text, scores float32 [N,V]) -> scores of the same shape and dtype, which run inside
        the compiled loop after the built-in ones; see `Text` for the first argument. Arrays of a registered pytree are
        traced; a plain function compiles anew. The batch includes padding.
      stopping_criteria: functions (text, scores) -> bool [N] or scalar, sequences that end; beams end once all do.
      prefix_allowed_tokens_fn: (example, ids so far) -> ids that may come next; called on the host in every step.
      tokenizer: decodes the sequences for stop_strings. A stop string must end in the generated text; it is compared
        before spaces are cleaned up.
      cache_dtype: dtype of the KV cache: None for that of the model, or bfloat16, or int8 (with a scale per token and
        head).
      options: options of `GenerationConfig`, which override the settings; the result is validated. Decoder-only models
        also take negative_prompt_ids and negative_prompt_attention_mask [B,U], for guidance. Encoder-decoders take
        decoder_input_ids [B,T], the prefix of the output; encoder_outputs, the output of `encode` for input_ids; and
        further inputs of the encoder (LED: global_attention_mask, max_global_tokens). RAG models take a retriever and
        n_docs, or context_input_ids, context_attention_mask and doc_scores; RAG-sequence do_deduplication.

    Returns:
      A `GenerateOutput`.

    Raises:
      ValueError: an unknown option or one of another library (with what to pass instead), a value out of range, options
        that contradict each other, an empty prompt, or more tokens than the model has positions; all before anything
        compiles; inside a traced function, what runs on the host: streamer, prefix_allowed_tokens_fn, max_time,
        stop_strings, a retriever on the host.
      TypeError: an argument of another type, a model without a language modelling head, or a traced option.
      NotImplementedError: a decoding method that is not implemented.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> tok = jm.load_tokenizer("openai-community/gpt2")
      >>> tok.pad_token, tok.padding_side = tok.eos_token, "left"
      >>> batch = tok(["The meaning of life is", "JAX is"], padding=True)
      >>> result = jm.generate(
      ...     model, params, **batch, max_new_tokens=8, do_sample=True, top_p=0.9, key=jax.random.key(0)
      ... )
      >>> len(tok.batch_decode(result.sequences, skip_special_tokens=True))
      2
    """
    generative = check_model(model, params)
    traced = is_traced(params, input_ids, attention_mask, key, logits_processor, stopping_criteria, *options.values())
    static = {name: value for name, value in options.items() if name not in ARRAYS}
    reject_traced({"generation_config": generation_config, "cache_dtype": cache_dtype, **static})
    arguments = CallArguments(
        generation_config=generation_config,
        key=key,
        streamer=streamer,
        logits_processor=() if logits_processor is None else logits_processor,
        stopping_criteria=() if stopping_criteria is None else stopping_criteria,
        prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
        tokenizer=tokenizer,
        cache_dtype=cache_dtype,
    )
    if generative.generation_mode == "rag_sequence":
        return _generate_rag_sequence(generative, params, input_ids, attention_mask, options, arguments, traced)
    return prepare_call(generative, params, input_ids, attention_mask, options, arguments, traced).run()


def warmup(
    model: Model,
    params: dict,
    *,
    prompt_lengths: Sequence[int],
    batch_sizes: Sequence[int] = (1,),
    max_new_tokens: int,
    **options: Unpack[WarmupOptions],
) -> int:
    """Compiles what `generate` will need for these sizes and options, by generating a token or two.

    Args:
      model, params: see `generate`.
      prompt_lengths, batch_sizes: one of each bucket is enough.
      max_new_tokens: the largest that will be used.
      options: options and arguments of the calls; numbers do not matter, only which options are on.

    Returns:
      How many programs were compiled.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> programs = jm.warmup(model, params, prompt_lengths=[8], max_new_tokens=4)
    """
    generative = check_model(model, params)
    options_of_call: dict[str, Any] = dict(options)
    if is_traced(params, *options.values()):
        raise TypeError(f"warmup compiles the programs of later calls; it was called {INSIDE}: call it outside")
    names = options.keys() & {field.name for field in dataclasses.fields(CallArguments)}
    arguments = CallArguments(**{name: options_of_call.pop(name) for name in names})
    options_of_call["max_new_tokens"] = max_new_tokens
    before = num_compiled()
    for batch in batch_sizes:
        for length in prompt_lengths:
            ids = jnp.zeros((batch, length), jnp.int32)
            prepare_call(generative, params, ids, jnp.ones_like(ids), options_of_call, arguments).run(warmup=True)
    return num_compiled() - before


@dataclasses.dataclass(frozen=True)
class CallArguments:
    """The arguments of a call beyond model, inputs and options; see `generate`.

    Raises:
      TypeError: an argument that is not a function, key or dtype where one is expected.
      ValueError: a dtype that a cache cannot have.
    """

    generation_config: Any = None
    key: jax.Array | None = None
    streamer: Streamer | None = None
    logits_processor: Sequence[Processor] = ()
    stopping_criteria: Sequence[Criterion] = ()
    prefix_allowed_tokens_fn: PrefixFunction | None = None
    tokenizer: Decodes | None = None
    cache_dtype: Any = None

    def __post_init__(self) -> None:
        for name in ("logits_processor", "stopping_criteria"):
            functions = getattr(self, name)
            if not isinstance(functions, list | tuple):
                raise TypeError(f"{name} must be a list of functions of (text, scores), got {brief(functions)}")
            for function in functions:
                if not callable(function):
                    raise TypeError(f"{name} must contain functions of (text, scores), got {brief(function)}")
                if type(function).__module__.startswith(("transformers.", "torch.")):
                    raise TypeError(
                        f"{name} must contain functions of JAX arrays (text, scores), which run inside the compiled "
                        f"loop; {type(function).__name__} is a PyTorch function"
                    )
            object.__setattr__(self, name, tuple(functions))
        for name, takes in (("streamer", "the new ids [B]"), ("prefix_allowed_tokens_fn", "(example, ids so far)")):
            function = getattr(self, name)
            if function is not None and not callable(function):
                hint = (
                    "; for one of transformers pass lambda ids: streamer.put(ids)" if hasattr(function, "put") else ""
                )
                raise TypeError(f"{name} must be a function of {takes}, got {type(function).__name__}{hint}")
        if self.key is not None:
            object.__setattr__(self, "key", as_keys(self.key))
        if self.tokenizer is not None and not callable(getattr(self.tokenizer, "decode", None)):
            raise TypeError(f"tokenizer must have a method `decode`, see load_tokenizer; got {brief(self.tokenizer)}")
        if self.cache_dtype is not None:
            try:
                dtype = jnp.dtype(self.cache_dtype)
            except TypeError:
                message = f"cache_dtype must be a dtype such as 'bfloat16' or 'int8', got {brief(self.cache_dtype)}"
                raise TypeError(message) from None
            check_cache_dtype(dtype)
            object.__setattr__(self, "cache_dtype", dtype)


def check_model(model: Any, params: Any) -> Generative:
    """Returns the model; raises TypeError if it cannot generate, or `params` are not parameters."""
    if not isinstance(model, Model):
        raise TypeError(f"generate takes a model and its parameters, as jm.load returns them; got {brief(model)}")
    model_class: Any = type(model)
    method = "decode" if model.config.is_encoder_decoder else "__call__"
    if not model.generation_mode.startswith("rag") and "logits_to_keep" not in parameters(model_class, method):
        raise TypeError(
            f"{type(model).__name__} has no language modelling head and cannot generate; load another class: "
            "jm.load(name, cls=...)"
        )
    if not isinstance(params, Mapping) or not params:
        raise TypeError(f"params must be the parameters of the model, as jm.load returns them, got {brief(params)}")
    if "params" in params:
        raise TypeError("params must be the parameters alone: variables['params']")
    generative: Any = model  # the checks above are what mypy cannot see
    return generative


@dataclasses.dataclass(frozen=True)
class PreparedCall:
    """A call of `generate` that is ready to run.

    Attributes:
      max_new_tokens: at most this many tokens are generated.
      callbacks: functions that the loop calls on the host.
    """

    program: DecodingProgram
    prompts: PreparedPrompts
    config: GenerationConfig
    max_new_tokens: int
    tokenizer: Decodes | None
    callbacks: tuple[HostCallback, ...]

    def run(self, *, warmup: bool = False, **timing: Any) -> GenerateOutput:
        """Runs the loop; see `DecodingProgram.run` for the arguments."""
        with contextlib.ExitStack() as stack:
            for callback in self.callbacks:
                stack.enter_context(callback)
            state, generated = self.program.run(
                self.config, self.max_new_tokens, self.tokenizer, warmup=warmup, **timing
            )
            return make_output(state, generated, self.prompts, self.program.search, self.config)


def prepare_call(
    model: Generative,
    params: dict,
    input_ids: Any,
    attention_mask: Any,
    options: Mapping[str, Any],
    arguments: CallArguments,
    traced: bool = False,
) -> PreparedCall:
    """Prepares one search: merges the options, checks and pads the inputs, chooses search strategy and processors.

    Args:
      traced: the call is inside a traced function.

    Raises:
      ValueError, TypeError, NotImplementedError: see `generate`.
    """
    prompts_class = PROMPTS[model.generation_mode]
    names = (*prompts_class.INPUTS, *model.encoding_options)
    inputs = {name: options[name] for name in names if name in options}
    options = {name: value for name, value in options.items() if name not in names}
    config = GenerationConfig.merge(model.config, arguments.generation_config, options)
    if config.do_sample and arguments.key is None:
        raise ValueError("do_sample=True needs key=jax.random.key(...); the same key gives the same sequences")
    if arguments.streamer is not None and config.num_beams > 1:
        raise ValueError("a streamer needs num_beams=1: the tokens of a beam may be replaced in later steps")
    if config.stop_strings and arguments.tokenizer is None:
        raise ValueError("stop_strings need tokenizer= to decode the sequences")
    if traced:
        reject_host_functions(
            streamer=arguments.streamer,
            prefix_allowed_tokens_fn=arguments.prefix_allowed_tokens_fn,
            max_time=config.max_time,
            stop_strings=config.stop_strings,
        )
    round_up = exact if traced else bucket
    prepared = prompts_class.prepare(
        model, params, config, input_ids, attention_mask, inputs, arguments.cache_dtype, round_up
    )
    batch, prefix_length = prepared.prefix.shape
    max_new_tokens = config.new_tokens(prefix_length, options)
    if prepared.max_prefix_tokens + max_new_tokens > model.max_tokens:
        raise ValueError(
            f"a prompt of {prepared.max_prefix_tokens} tokens and {max_new_tokens} new ones are more than "
            f"the {model.max_tokens} positions of this model; shorten the prompt or lower max_new_tokens"
        )
    pad_id = config.pad_token_id
    if pad_id is None and config.eos_token_id:
        pad_id = config.eos_token_id[0]
        warnings.warn(
            f"pad_token_id is not set: sequences are padded with the eos id {pad_id}; pass pad_token_id= here or to "
            "jm.load",
            stacklevel=3,
        )
    stream = prefix_function = None
    if (streamer := arguments.streamer) is not None:
        stream = HostCallback(lambda tokens: streamer(tokens[:batch]))  # without the padding of the batch
    if arguments.prefix_allowed_tokens_fn is not None:
        prefix_function = HostCallback(arguments.prefix_allowed_tokens_fn)
    search_config = SearchConfig(
        eos_ids=jnp.array(config.eos_token_id, jnp.int32),
        pad_id=jnp.int32(0 if pad_id is None else pad_id),  # without an eos id no sequence is padded
        max_new_tokens=jnp.int32(max_new_tokens),
        processors=make_processors(
            config,
            vocab_size=model.config.vocab_size,
            source=prepared.source,
            prefix_length=prefix_length,
            max_new_tokens=max_new_tokens,
            num_real=batch,
            prefix_function=None if prefix_function is None else prefix_function.number,
            custom=arguments.logits_processor,
        ),
        criteria=tuple(as_pytree(criterion) for criterion in arguments.stopping_criteria),
    )
    keys = warpers = None
    if config.do_sample:
        copies = config.num_return_sequences if config.num_beams == 1 else 1
        keys = expand_keys(arguments.key, batch // copies, copies, len(prepared.prompts.prefix))
        warpers = Warpers.from_config(config, model.config.vocab_size)
    search: Search = GreedyOrSample(search_config, keys, warpers)
    if config.num_beams > 1:
        search = BeamSearch(
            search_config,
            jnp.float32(config.length_penalty),
            keys,
            warpers,
            num_beams=config.num_beams,
            num_groups=config.num_beam_groups,
            early_stopping=config.early_stopping,
        )
    requested = tuple(name for name in OUTPUT_OPTIONS if getattr(config, name))
    stream_number = None if stream is None else stream.number
    capacity = round_up(max_new_tokens)
    program = DecodingProgram(params, prepared.prompts, search, stream_number, capacity, requested, traced)
    callbacks = tuple(callback for callback in (stream, prefix_function) if callback is not None)
    return PreparedCall(program, prepared, config, max_new_tokens, arguments.tokenizer, callbacks)


def _generate_rag_sequence(
    model: Any,
    params: dict,
    input_ids: Any,
    attention_mask: Any,
    options: Mapping[str, Any],
    arguments: CallArguments,
    traced: bool,
) -> GenerateOutput:
    if arguments.streamer is not None:
        raise ValueError("RAG-sequence cannot stream: a sequence is selected once all candidates are complete")

    def run_generator(generator: Generative, params: dict, ids: Any, mask: Any, options: Any) -> GenerateOutput:
        return prepare_call(generator, params, ids, mask, options, arguments, traced).run()

    return generate_rag_sequence(
        model,
        params,
        input_ids,
        attention_mask,
        options,
        arguments.generation_config,
        run_generator,
        exact if traced else bucket,
    )
