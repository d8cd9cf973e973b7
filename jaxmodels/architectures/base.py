"""The base of all models: a config, the options of the run, checked calls, and heads over a base model."""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.calls import check_call, check_rngs
from jaxmodels.config import Config
from jaxmodels.convert import Table
from jaxmodels.layers.cache import Cache
from jaxmodels.layers.explicit import with_automatic_axes
from jaxmodels.layers.remat import Remat, check_remat
from jaxmodels.messages import brief, unknown_name
from jaxmodels.outputs import Output
from pallas_kernels import IMPLEMENTATIONS, decoding_platform

# Attributes of the reference's classes, PyTorch's and Flax's, and what to write here.
UNSUPPORTED = {
    "torch_dtype": "dtype= is of the computation, param_dtype= of the parameters",
    "attn_implementation": "it is called attention=",
    "gradient_checkpointing": "it is called remat=",
    "seed": "parameters are made by jm.init(model, jax.random.key(seed))",
    "input_shape": "nothing depends on the shape of an input; leave it out",
    "_do_init": "parameters are made by jm.init(model, key); leave it out",
    "params": "a model holds no parameters: model.apply({'params': params}, ...)",
}
_FLAX = {"parent", "name"}
# Parts of `setup`: plain methods, because `nn.tabulate` shows the first method of a module that Flax has wrapped.
_SETUP = {"layer", "setup_head", "token_table"}

OutputT = TypeVar("OutputT", bound=Output)
FieldsT = TypeVar("FieldsT", bound=Output)


def float_type(name: str, kind: Any) -> jnp.dtype:
    """The type that is meant: "bfloat16", jnp.bfloat16, a dtype of numpy or torch.

    Raises:
      ValueError: no type, or none of floats.
    """
    try:
        found = jnp.dtype(str(kind).removeprefix("torch.") if str(kind).startswith("torch.") else kind)
    except (TypeError, ValueError, LookupError):
        found = None
    if kind is None or found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"{name} is a floating type such as 'bfloat16', got {brief(kind)}")
    if found.itemsize > 4 and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(f"{name}={found} needs jax.config.update('jax_enable_x64', True); without it give 'float32'")
    return found


class RunOptions(NamedTuple):
    """What a run chooses and a checkpoint does not know, as the parts of a model get it; see `Model`."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    attention: str = "auto"
    remat: Remat = False
    unroll: bool = False

    @property
    def dtypes(self) -> dict[str, Any]:
        """Of the computation and of the parameters, as keyword arguments of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def keywords(self) -> dict[str, Any]:
        """All of them, as keyword arguments of a model."""
        return self._asdict()


class Model(nn.Module, Generic[OutputT]):
    """Base of all models: what `jm.load`, `jm.save` and `jm.init` take and return.

    A model with a head names its base model in `body`, and makes its head in `setup_head`.

    Attributes:
      config: what a checkpoint says of the model.
      dtype: of the computation. Softmax, the statistics of norms, logits and losses are float32 in any case.
      param_dtype: of the parameters that `jm.init` makes.
      attention: implementation of the attention function, a name of `pallas_kernels.attention` ("auto", "xla", ...).
      remat: True recomputes layers in the backward pass (the reference's gradient checkpointing). Or a policy: "dots"
        keeps the results of linear layers, "dots_and_attention" those of attention too, "offload" keeps both in host
        memory, a tuple of names ("qkv", "attention", ...) keeps those; see `jaxmodels.layers.remat`.
      unroll: unroll the loop over layers also where no cache is used.

    Class attributes:
      config_class, table: the family's config and weight table; a head has those of its body.
      body: the class of the base model, None for a base model itself.
      auto_classes: auto classes of the reference that mean this class for its family.
      encoding_options: arguments that an encoder takes beyond those of every call.
    """

    config_class: ClassVar[type[Config]]
    table: ClassVar[Table]
    body: ClassVar[type["Model"] | None] = None
    auto_classes: ClassVar[tuple[str, ...]] = ()
    encoding_options: ClassVar[tuple[str, ...]] = ()

    config: Config
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    attention: str = "auto"
    remat: Remat = False
    unroll: bool = False

    def __init_subclass__(cls, **options):
        # Before Flax makes a dataclass of it, which would take its signature for a missing docstring.
        cls.__doc__ = inspect.getdoc(cls)
        if (body := vars(cls).get("body")) is not None:
            for name in ("config_class", "table", "encoding_options"):
                if name not in vars(cls):
                    setattr(cls, name, getattr(body, name))
        for name in _SETUP & vars(cls).keys():
            nn.nowrap(vars(cls)[name])
        super().__init_subclass__(**options)

    def __new__(cls, *args, **attributes):
        names = {field.name for field in dataclasses.fields(cls)}
        for name in attributes:
            if name not in names:
                raise TypeError(unknown_name(f"{cls.__name__} has no attribute", name, names - _FLAX, UNSUPPORTED))
        return super().__new__(cls)

    def __post_init__(self):
        name = type(self).__name__
        if not isinstance(self.config, self.config_class):
            raise TypeError(f"{name} takes a {self.config_class.__name__}, got {type(self.config).__name__}")
        for attribute in ("dtype", "param_dtype"):
            float_type(attribute, getattr(self, attribute))
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(f"attention is one of {', '.join(IMPLEMENTATIONS)}, got {brief(self.attention)}")
        check_remat(self.remat)
        for attribute, kinds, expected in _simple_attributes(type(self)):
            value = getattr(self, attribute)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise TypeError(f"{attribute} is {expected}, got {brief(value)}")
        super().__post_init__()

    @overload  # type: ignore[override]  # Flax declares one union of all that it may return
    def apply(
        self, variables: Mapping[str, Any], *args: Any, method: Callable[..., Any] | str, **options: Any
    ) -> Any: ...

    @overload
    def apply(
        self,
        variables: Mapping[str, Any],
        *args: Any,
        mutable: bool | str | Sequence[str],
        method: Callable[..., Any] | str | None = ...,
        **options: Any,
    ) -> tuple[Any, Any]: ...

    @overload
    def apply(self, variables: Mapping[str, Any], *args: Any, **options: Any) -> OutputT: ...

    @nn.nowrap
    def apply(self, variables, *args, rngs=None, method=None, mutable=False, capture_intermediates=False, **options):
        """Flax's `apply`, which checks the arguments first (see `calls`).

        Returns:
          The class's output; with return_dict=False its tuple form, which type checkers do not know. With `method` what
          that returns; with `mutable` a pair of it and the changed collections.

        Raises:
          TypeError: an argument that the method does not take, by name or type, or a name in rngs that nothing reads.
          ValueError: a value that would be read as another one, such as an additive mask.
        """
        name = type(self).__name__
        if not isinstance(variables, Mapping) or ("params" not in variables and mutable is False):
            raise TypeError(f"{name}.apply takes {{'params': params}} first, got {_shown(variables)}")
        if rngs is not None:
            check_rngs(type(self), rngs, initialising="params" not in variables)
        self._check(method, args, options)
        flax = {"mutable": mutable, "capture_intermediates": capture_intermediates}
        run = functools.partial(super().apply, method=method, **flax)
        return with_automatic_axes(run, variables, args, {"rngs": rngs, **options})

    @nn.nowrap
    def init_with_output(self, rngs, *args, method=None, **options):
        """Flax's, with the arguments looked at first; `init` is made of it. `jm.init` needs no arguments."""
        flax = {name: options.pop(name) for name in ("mutable", "capture_intermediates") if name in options}
        check_rngs(type(self), rngs, initialising=True)
        self._check(method, args, options)
        return super().init_with_output(rngs, *args, method=method, **flax, **options)

    @nn.nowrap
    def _check(self, method, args: tuple, options: dict) -> None:
        """Of a function that is none of this class's methods nothing is known."""
        if not (method is None or isinstance(method, str) or callable(method)):
            raise TypeError(f"method is a name or a function, got {brief(method)}")
        chosen = "__call__" if method is None else getattr(method, "__name__", method)
        found = getattr(type(self), chosen, None) if isinstance(chosen, str) else None
        if isinstance(method, str) and found is None and not chosen.startswith("_"):
            methods = [each for each in ("encode", "decode", "retrieve") if hasattr(type(self), each)]
            raise TypeError(unknown_name(f"{type(self).__name__} has no method", method, ["__call__", *methods]))
        if inspect.isfunction(found) and (method is None or method in (chosen, found, getattr(self, chosen))):
            check_call(type(self), chosen, args, options)

    @classmethod
    def from_pretrained(cls, *_, **__):
        """The reference's name for `jm.load`, which gives a model and its parameters.

        Raises:
          TypeError: always.
        """
        raise TypeError(f"model, params = jm.load(name, cls={cls.__name__!r}) takes the place of from_pretrained")

    @property
    def options(self) -> RunOptions:
        """The options of the run, for the parts of the model."""
        return RunOptions(self.dtype, self.param_dtype, self.attention, self.remat, self.unroll)

    @property
    def choices(self) -> dict[str, Any]:
        """Former name of `options.keywords`."""
        warnings.warn("model.choices is called model.options.keywords", FutureWarning, stacklevel=2)
        return self.options.keywords

    @property
    def body_options(self) -> dict[str, Any]:
        """Keyword arguments of the base model beside the config."""
        return self.options._asdict()

    def setup(self):
        """Makes the base model, under the name that it has in checkpoints, and the head."""
        assert self.body is not None
        setattr(self, self.table.base, self.body(self.config, **self.body_options))
        self.setup_head()

    def setup_head(self) -> None:
        """Makes the modules of the head."""

    @property
    def base(self) -> Any:
        """The base model, within a call."""
        return getattr(self, self.table.base)

    def make_output(
        self, kind: type[FieldsT], return_dict: bool | None, captured: Output | None = None, **fields: Any
    ) -> FieldsT:
        """An output of that class, or its tuple form, as the call or else the config says.

        Args:
          captured: an output whose values fill the fields of the same names.
          fields: the other fields.
        """
        if captured is not None:
            names = kind.__dataclass_fields__.keys() & captured.__dataclass_fields__.keys()
            fields = {name: getattr(captured, name) for name in names} | fields
        out = kind(**fields)
        as_output = self.config.return_dict if return_dict is None else return_dict
        return out if as_output else out.to_tuple()  # type: ignore[return-value]  # the documented tuple form

    def output_flags(self, output_attentions: bool | None, output_hidden_states: bool | None) -> tuple[bool, bool]:
        """Both flags, from the call or else the config."""
        c = self.config
        return (
            c.output_attentions if output_attentions is None else output_attentions,
            c.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )

    @property
    def max_tokens(self) -> int:
        """The longest sequence (of an encoder-decoder: the longest output), in tokens."""
        return self.config.max_tokens

    @property
    def max_source_tokens(self) -> int:
        """The longest input of an encoder-decoder's encoder, in tokens."""
        return self.config.max_source_tokens

    def count_to_position(self, count: jax.Array) -> jax.Array:
        """Position ids of generation, from how many real tokens there are up to each (1-based); 0 marks padding
        (docs/parity.md, G9, R2)."""
        first, padding = self.config.position_range
        return jnp.where(count > 0, count - 1 + first, padding)

    @property
    def generation_mode(self) -> Literal["decoder_only", "encoder_decoder", "rag_token", "rag_sequence"]:
        """How `generate` decodes with this model; see `generation.prompts.Generative`."""
        return "encoder_decoder" if self.config.is_encoder_decoder else "decoder_only"

    @property
    def cache_sizes(self) -> dict[str, int]:
        """Sizes of this model's cache: layers, heads, head_dim.

        Raises:
          TypeError: a model that does not decode step by step.
        """
        sizes = self.config.cache_sizes
        if sizes is None:
            raise TypeError(f"{type(self).__name__} does not decode step by step, it has no cache")
        return sizes

    def init_cache(self, batch: int, length: int, dtype: Any = None) -> Cache:
        """An empty cache of `length` slots per (decoder) layer, in the layout that `attention` reads.

        Args:
          dtype: None for the compute dtype; another float, or int8 for 8 bits and a scale per token and head.

        Shape arithmetic only: no parameters are needed.
        """
        token_major = decoding_platform(self.attention) is not None
        return Cache.zeros(batch, length, dtype=dtype or self.dtype, token_major=token_major, **self.cache_sizes)

    def encoder_inputs(
        self, options: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray | jax.Array], tuple[tuple[str, Any], ...]]:
        """Further inputs of the encoder in a call of `generate`: arrays [B,S] (on the host, or traced), padded with 0,
        and static (name, value) pairs."""
        return {}, ()

    def encoder_attentions(self, attentions: Any, inputs: Mapping[str, jax.Array], batch: int, length: int) -> Any:
        """The encoder's attentions of the first examples and tokens, from those of padded inputs."""
        return attentions[:, :batch, :, :length, :length]

    def dummy_inputs(self) -> dict[str, jax.Array]:
        """The smallest inputs that reach every parameter, for initialization."""
        ids = jnp.zeros((1, self.config.chunk_size_feed_forward or 1), jnp.int32)
        return {"input_ids": ids} | ({"decoder_input_ids": ids} if self.config.is_encoder_decoder else {})


@functools.cache
def _simple_attributes(cls: type[Model]) -> list[tuple[str, tuple[type, ...], str]]:
    """Boolean and integer attributes: name, types, and their description."""
    known: dict[Any, tuple] = {bool: ((bool,), "True or False"), int | None: ((int, type(None)), "a number or None")}
    return [(field.name, *known[field.type]) for field in dataclasses.fields(cls) if field.type in known]


def _shown(variables: Any) -> str:
    if not isinstance(variables, Mapping):
        return f"{brief(variables)}"
    return f"a tree of {', '.join(map(str, list(variables)[:5])) or 'nothing'}; is it the parameters?"
