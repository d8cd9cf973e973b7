"""The decoding loop: a compiled loop over a model's decoding step and a search strategy, and the program that runs it.

The loop depends on neither the model nor the search strategy: `Prompts` runs the model, `Search` selects the tokens.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation import callbacks
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.search import Search, SearchState, Text
from jaxmodels.generation.stopping import CHUNK_SIZE, Decodes, StopStrings, TimeLimit
from jaxmodels.layers.platform import prepare_decode_params
from jaxmodels.layers.stack import unstack_layers, unstacked_views
from pallas_kernels import vary_alike

# Options of a call that request an output of every step.
OUTPUT_OPTIONS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
# Those that a model captures beside its logits: option -> field of the model's output.
CAPTURES = {"output_attentions": "attentions", "output_hidden_states": "hidden_states"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepOutput:
    """Output of one step of a model.

    Attributes:
      logits: float32 [B,K,V] after the newest token of each beam; [B,1,V] after a prompt.
      state: the model's state for the next step.
      captures: name -> array, the requested outputs beside the logits.
    """

    logits: jax.Array
    state: Any
    captures: dict[str, jax.Array]


class Prompts(Protocol):
    """The inputs of a call and the model that processes them; a pytree.

    Attributes:
      prefix: int32 [B,P], the first tokens of the sequences, right-aligned.
      prefix_length: int32 scalar, how many of these columns are the caller's.
      num_real: int32 scalar, sequences that do not only pad the batch.
    """

    @property
    def prefix(self) -> jax.Array: ...

    @property
    def prefix_length(self) -> jax.Array: ...

    @property
    def num_real(self) -> jax.Array: ...

    def decoder_params(self, params: dict) -> dict:
        """The parameters of the model that runs in the loop, out of all parameters."""

    def prefill(
        self, params: dict, decoder_params: dict, *, capacity: int, num_beams: int, requested: Sequence[str]
    ) -> StepOutput:
        """Processes the inputs.

        Args:
          decoder_params: with the layers unstacked.
          capacity: tokens to reserve cache slots for, in each of `num_beams` beams.
          requested: the OUTPUT_OPTIONS that are on.
        """

    def decode(
        self, decoder_params: dict, tokens: jax.Array, state: Any, search: SearchState, *, requested: Sequence[str]
    ) -> StepOutput:
        """Processes one token per beam, int32 [B,K]. The kernels of decoder_params may be transposed for this."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoopState:
    """State of the decoding loop, from which `resume` continues.

    Attributes:
      search: state of the search.
      model: state of the model.
      prefill: name -> array, what was captured while the prompt was processed.
      records: name -> [capacity, ...], what was captured in each later step, and the scores and logits of every token.
    """

    search: SearchState
    model: Any
    prefill: dict[str, jax.Array]
    records: dict[str, jax.Array]


@partial(jax.jit, static_argnames=("capacity", "requested"))
def start(
    params: dict,
    decoder_params: dict | None,
    prompts: Prompts,
    search: Search,
    stream: jax.Array | None,
    target: jax.Array,
    *,
    capacity: int,
    requested: tuple[str, ...],
) -> LoopState:
    """Processes the prompts and generates until every sequence has ended or has `target` new tokens.

    Args:
      decoder_params: with the layers unstacked, where that costs no copy outside of a program; or None.
      stream: number of the streamer's `HostCallback`, or None.
      target: int32 scalar.
      capacity: columns to reserve for generated tokens.
      requested: the OUTPUT_OPTIONS that are on.
    """
    unstacked = _unstacked(params, prompts) if decoder_params is None else decoder_params
    num_beams = search.num_beams
    with jax.named_scope("prefill"):
        read = prompts.prefill(params, unstacked, capacity=capacity, num_beams=num_beams, requested=requested)
    B, _, V = read.logits.shape
    prefix = jnp.repeat(prompts.prefix, num_beams, axis=0)
    text = Text.from_prefix(prefix, prompts.prefix_length, capacity, search.config.pad_id)
    logits = jnp.broadcast_to(read.logits, (B, num_beams, V))
    state, selection = search.advance(search.init(text, prompts.num_real), logits)
    if stream is not None:
        state = _emit(stream, state)
    records = {}
    for option, values in (("output_scores", selection.scores), ("output_logits", selection.logits)):
        if option in requested:
            name = option.removeprefix("output_")
            records[name] = _record(jnp.zeros((capacity, *values.shape)), 0, values)
    if any(name in requested for name in CAPTURES):
        tokens = state.tokens.reshape(B, num_beams)
        shapes = jax.eval_shape(
            lambda: prompts.decode(unstacked, tokens, read.state, state, requested=requested).captures
        )
        records |= {name: jnp.zeros((capacity, *a.shape), a.dtype) for name, a in shapes.items()}
    loop_state = LoopState(state, read.state, read.captures, records)
    with jax.named_scope("decode"):
        transposed = prepare_decode_params(unstacked, rows=state.tokens.size, steps=capacity)
    return _loop(transposed, prompts, search, stream, loop_state, target, requested)


@partial(jax.jit, static_argnames=("requested",), donate_argnames=("state",))
def resume(
    params: dict,
    decoder_params: dict | None,
    prompts: Prompts,
    search: Search,
    stream: jax.Array | None,
    state: LoopState,
    target: jax.Array,
    *,
    requested: tuple[str, ...],
) -> LoopState:
    """Continues from the state that `start` or this function returned; the arguments are those of `start`."""
    if decoder_params is None:
        decoder_params = _unstacked(params, prompts)
    # Often for a few steps only, so the kernels are not transposed.
    return _loop(decoder_params, prompts, search, stream, state, target, requested)


def _unstacked(params: dict, prompts: Prompts) -> dict:
    """The parameters of the decoder with the layers unstacked, copied once.

    Otherwise XLA copies every layer twice, for the prompt and for the loop, which read it in different shapes.
    """
    return jax.lax.optimization_barrier(unstack_layers(prompts.decoder_params(params)))


def _loop(
    decoder_params: dict,
    prompts: Prompts,
    search: Search,
    stream: jax.Array | None,
    state: LoopState,
    target: jax.Array,
    requested: tuple[str, ...],
) -> LoopState:
    target = jnp.minimum(target, search.config.max_new_tokens)

    def unfinished(state: LoopState) -> jax.Array:
        return (state.search.text.generated < target) & ~state.search.finished

    def step(state: LoopState) -> LoopState:
        tokens = state.search.tokens.reshape(-1, search.num_beams)
        output = prompts.decode(decoder_params, tokens, state.model, state.search, requested=requested)
        index = state.search.text.generated
        new, selection = search.advance(state.search, output.logits)
        values = {"scores": selection.scores, "logits": selection.logits, **output.captures}
        records = {name: _record(array, index, values[name]) for name, array in state.records.items()}
        if stream is not None:
            new = _emit(stream, new)
        return LoopState(new, output.state, state.prefill, records)

    # Under a caller's shard_map a carry keeps its type, and what is new in it does not vary yet.
    state, *_ = vary_alike((state, decoder_params, prompts, search))
    with jax.named_scope("decode"):
        return jax.lax.while_loop(unfinished, step, state)


def _record(array: jax.Array, index: int | jax.Array, value: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(array, value.astype(array.dtype), index, axis=0)


def _emit(stream: jax.Array, state: SearchState) -> SearchState:
    """Passes the newest tokens to the streamer, which may stop the search."""
    return dataclasses.replace(state, stop=state.stop | ~callbacks.emit(stream, state.tokens))


@dataclasses.dataclass(frozen=True)
class DecodingProgram:
    """The compiled loop of a call, with its arguments; see `start`.

    Attributes:
      traced: it is part of a program of the caller's (see `traced`).
    """

    params: dict
    prompts: Prompts
    search: Search
    stream: Any
    capacity: int
    requested: tuple[str, ...]
    traced: bool = False

    @cached_property
    def _decoder_params(self) -> dict | None:
        return None if self.traced else unstacked_views(self.prompts.decoder_params(self.params))

    def start_arguments(self, target: int) -> tuple[tuple, dict[str, Any]]:
        """The arguments of `start`: traced ones by position, static ones by name."""
        traced = (self.params, self._decoder_params, self.prompts, self.search, self.stream, jnp.int32(target))
        return traced, {"capacity": self.capacity, "requested": self.requested}

    def resume_arguments(self, state: LoopState, target: int) -> tuple[tuple, dict[str, Any]]:
        """The arguments of `resume`: traced ones by position, static ones by name."""
        arguments, static = self.start_arguments(target)
        return (*arguments[:-1], state, arguments[-1]), {"requested": static["requested"]}

    def trace(self, sharding: jax.sharding.Sharding) -> jax.stages.Traced:
        """Traces `start` for devices that need not be present.

        Args:
          sharding: of everything but the parameters, which may be `jax.ShapeDtypeStruct`s with their own.
        """
        host = (self.prompts, self.search, self.stream, np.int32(0))
        shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), host)
        return start.trace(self.params, None, *shapes, capacity=self.capacity, requested=self.requested)

    def run(
        self,
        config: GenerationConfig,
        max_new_tokens: int,
        tokenizer: Decodes | None,
        *,
        warmup: bool = False,
        chunk_size: int = CHUNK_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> tuple[LoopState, int]:
        """Runs the loop, in chunks if a stopping condition needs the host; or adds it to the caller's program.

        Args:
          warmup: run only far enough that everything is compiled.
          chunk_size: tokens between two checks for stop strings.
          clock: of max_time; returns seconds.

        Returns:
          The final state, and the number of generated columns; as part of another program, all that are reserved.
        """
        if self.traced:
            arguments, static = self.start_arguments(max_new_tokens)
            return start(*arguments, **static), self.capacity
        before = compile_counts()
        in_chunks = config.max_time is not None or bool(config.stop_strings)
        strings = None
        if config.stop_strings:
            assert tokenizer is not None
            strings = StopStrings(config.stop_strings, tokenizer, int(self.search.config.pad_id))
        if warmup or not in_chunks:
            arguments, static = self.start_arguments(1 if warmup else max_new_tokens)
            state = start(*arguments, **static)
            if in_chunks:
                arguments, static = self.resume_arguments(state, 2)
                state = resume(*arguments, **static)
        else:
            limit = None if config.max_time is None else TimeLimit(config.max_time, clock)
            # Streamed tokens cannot be withdrawn, so check for stop strings after each.
            state = self._run_in_chunks(max_new_tokens, limit, strings, 1 if self.stream is not None else chunk_size)
        record_compilations(before, {field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        search = jax.block_until_ready(state).search
        if strings is not None and not warmup:  # which may have ended before the last chunk
            return state, int(np.asarray(search.lengths)[: int(self.prompts.num_real)].max())
        return state, int(search.text.generated)

    def _run_in_chunks(
        self, max_new_tokens: int, limit: TimeLimit | None, strings: StopStrings | None, chunk_size: int
    ) -> LoopState:
        def next_target(generated: int) -> int:
            in_chunk = generated + chunk_size if strings else max_new_tokens
            return min(max_new_tokens, in_chunk, limit.next_target(generated) if limit else max_new_tokens)

        arguments, static = self.start_arguments(max(1, next_target(0)))
        state, generated = start(*arguments, **static), 0
        while True:
            if strings is not None:
                state = dataclasses.replace(state, search=strings.apply(state.search, generated))
            generated = int(state.search.text.generated)
            if generated >= max_new_tokens or bool(state.search.finished):
                return state
            target = next_target(generated)
            if target <= generated:
                return state
            arguments, static = self.resume_arguments(state, target)
            state = resume(*arguments, **static)


Signature = dict[str, str]

MAX_RECORDS = 1000
_FLAX_FIELDS = ("parent", "name")  # fields of every Flax module


@dataclasses.dataclass(frozen=True)
class Compilation:
    """Record of a compiled decoding loop.

    Attributes:
      signature: what it was compiled for: name -> shape and dtype of an array, or a static value.
      changes: differences from the most similar earlier signature; empty for the first.
    """

    signature: Signature
    changes: tuple[str, ...]


_compilations: collections.deque[Compilation] = collections.deque(maxlen=MAX_RECORDS)


def compile_counts() -> dict[str, int]:
    """How often each function of the decoding loop has been compiled in this process."""
    functions: dict[str, Any] = {"start": start, "resume": resume}
    return {name: function._cache_size() for name, function in functions.items()}


def num_compiled() -> int:
    """How many decoding loops have been compiled in this process."""
    return sum(compile_counts().values())


def record_compilations(before: dict[str, int], arguments: dict[str, Any]) -> None:
    """Records what these arguments compiled since `compile_counts` returned `before`."""
    for function in (name for name, count in compile_counts().items() if count > before[name]):
        signature = dict(_describe("function", function))
        for argument, value in arguments.items():
            signature |= _describe(argument, value)
        changes: list[str] = []
        if _compilations:
            changes = min((_changes(earlier.signature, signature) for earlier in _compilations), key=len)
            changes = changes or ["the same arguments: another device, mesh or JAX configuration"]
        _compilations.append(Compilation(signature, tuple(changes)))


def explain_recompiles() -> str:
    """For every decoding loop compiled in this process, the differences from the most similar earlier one.

    Values that do not appear are traced: changing them does not recompile. The last thousand records are kept.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> result = jm.generate(model, params, jnp.array([[5, 6, 7]]), max_new_tokens=4)
      >>> "program 1: the first" in jm.explain_recompiles()
      True
    """
    if not _compilations:
        return "no decoding loop has been compiled yet"
    lines = []
    for number, compilation in enumerate(_compilations, 1):
        lines.append(f"program {number}: " + ("; ".join(compilation.changes) or "the first"))
    return "\n".join(lines)


def _describe(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """What a program is compiled for: shape and dtype of arrays, other values by their repr."""
    if dataclasses.is_dataclass(value):
        yield name, type(value).__name__
        for field in dataclasses.fields(value):
            if field.name not in _FLAX_FIELDS:
                yield from _describe(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _describe(f"{name}[{key!r}]", part)
    elif isinstance(value, tuple | list):
        for number, part in enumerate(value):
            yield from _describe(f"{name}[{number}]", part)
    elif isinstance(value, jax.Array | np.ndarray | np.generic):
        yield name, str(jax.typeof(value))
    elif isinstance(value, jax.tree_util.Partial):
        yield name, repr(value.func)
    else:
        yield name, repr(value)


def _changes(old: Signature, new: Signature) -> list[str]:
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in (*new, *(name for name in old if name not in new))
        if old.get(name) != new.get(name)
    ]
