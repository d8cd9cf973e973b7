"""Options of transformers' `from_pretrained` in calls of `load`: translated, or rejected with the equivalent here.

No option is silently ignored. A value that requests what happens anyway (`low_cpu_mem_usage=True`) is accepted.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxmodels.architectures import MODELS
from jaxmodels.architectures.base import IMPLEMENTATIONS, float_type
from jaxmodels.config import GENERATION_KEYS
from jaxmodels.layers.remat import Remat
from jaxmodels.messages import Unsupported, reject_unsupported

# attn_implementation -> attention. "eager" promises the full attention weights; the others promise the best
# implementation for the device, which does not materialise the weights of long sequences.
ATTENTION_NAMES = {"eager": "xla", "sdpa": "auto", "flash_attention_2": "auto"}

_PLACEMENT = "parameters are placed on devices by mesh= and rules=, by default on the first device"
_QUANTIZED = "parameters are floats of param_dtype=; an 8-bit cache is generate's cache_dtype='int8'"
_FORMATS = (
    "the format is detected: model.safetensors, else pytorch_model.bin, else flax_model.msgpack; TensorFlow's formats "
    "are not supported"
)
_IN_MEMORY = "load reads a folder; pass parameters in memory to model.apply({'params': params}, ...)"
_FLAX = "load always returns (model, params)"
_ADAPTERS = "load the base model without it, then params = jm.load_adapter(folder, model, params) merges an adapter"
_OFF: tuple[Any, ...] = (None, False)

# Of transformers 4.37 to 4.57: PyTorch's, Flax's and the auto classes.
UNSUPPORTED = {
    "use_cache": Unsupported("a cache is used if one is passed: cache=model.init_cache(batch, length)"),
    "device_map": Unsupported(_PLACEMENT),
    "device_mesh": Unsupported(_PLACEMENT),
    "device": Unsupported(_PLACEMENT),
    "tp_plan": Unsupported(_PLACEMENT),
    "tp_size": Unsupported(_PLACEMENT),
    "distributed_config": Unsupported(_PLACEMENT),
    "max_memory": Unsupported(_PLACEMENT),
    "offload_folder": Unsupported(_PLACEMENT),
    "offload_state_dict": Unsupported(_PLACEMENT, _OFF),
    "offload_buffers": Unsupported(_PLACEMENT, _OFF),
    "low_cpu_mem_usage": Unsupported("tensors are always read one at a time; leave it out", (None, True)),
    "_fast_init": Unsupported("only missing parameters are initialised; leave it out", (None, True)),
    "quantization_config": Unsupported(_QUANTIZED),
    "load_in_8bit": Unsupported(_QUANTIZED, _OFF),
    "load_in_4bit": Unsupported(_QUANTIZED, _OFF),
    "from_pt": Unsupported(_FORMATS, _OFF),
    "from_flax": Unsupported(_FORMATS, _OFF),
    "from_tf": Unsupported(_FORMATS, _OFF),
    "use_safetensors": Unsupported(_FORMATS),
    "gguf_file": Unsupported(_FORMATS),
    "variant": Unsupported("only the standard file names are read; rename the files (to model.safetensors)"),
    "weights_only": Unsupported("only tensors are ever read from a pickle; leave it out", (None, True)),
    "state_dict": Unsupported(_IN_MEMORY),
    "params": Unsupported(_IN_MEMORY),
    "config": Unsupported("the folder's config.json is used; pass changes of it by name, e.g. num_labels=5"),
    "generation_config": Unsupported("pass it, or its settings by name, to generate"),
    "key_mapping": Unsupported("rename the tensors in the file"),
    "output_loading_info": Unsupported("missing and unused tensors are reported as warnings", _OFF),
    "trust_remote_code": Unsupported("code of a repository is never run", _OFF),
    "code_revision": Unsupported("code of a repository is never run"),
    "adapter_name": Unsupported(_ADAPTERS),
    "adapter_kwargs": Unsupported(_ADAPTERS),
    "use_kernels": Unsupported("attention= selects the kernel", _OFF),
    "use_flash_attention_2": Unsupported("attention='auto' selects the best kernel for the device", _OFF),
    "_do_init": Unsupported(_FLAX, _OFF),
    "input_shape": Unsupported("parameters do not depend on the shape of the input; leave it out"),
    "seed": Unsupported("missing parameters are initialised from key=jax.random.key(seed)"),
    "use_auth_token": Unsupported("it is called token="),
    "resume_download": Unsupported("downloads are always resumed; force_download=True restarts", (None, True)),
    "proxies": Unsupported("set HTTPS_PROXY in the environment"),
    "mirror": Unsupported("set HF_ENDPOINT in the environment"),
    "user_agent": Unsupported("set HF_HUB_USER_AGENT_ORIGIN in the environment"),
    "use_remat": Unsupported("it is called remat="),
}


def reject_unsupported_options(
    options: dict[str, Any], parameters: Iterable[str], what: str = "load has no option"
) -> None:
    """Removes options of `UNSUPPORTED` with a neutral value.

    Args:
      options: further keywords of a call; modified.
      parameters: parameters of the function, to detect misspelt ones. A name that resembles none of them is left to
        the config, whose key it may be.
      what: beginning of the message.

    Raises:
      TypeError: an option of `UNSUPPORTED` with another value, or a misspelt parameter; with what to write instead.
    """
    names = list(parameters)
    rejected = {name: options[name] for name in options.keys() - {*names, *UNSUPPORTED} if _is_misspelt(name, names)}
    rejected |= {name: options.pop(name) for name in options.keys() & UNSUPPORTED.keys()}
    reject_unsupported(what, rejected, names, UNSUPPORTED)


def _is_misspelt(name: str, names: list[str]) -> bool:
    return bool(difflib.get_close_matches(name, [*names, *UNSUPPORTED], cutoff=0.8)) and not _is_config_key(name)


class LoadOptions(NamedTuple):
    """Options of `load` that do not affect the values of the parameters; None is the default.

    Attributes:
      dtype, param_dtype: dtypes of the computation and of the parameters, "auto" for the file's.
      attention: attention implementation.
      remat: what the backward pass recomputes; see `Model`.
    """

    dtype: Any = None
    param_dtype: Any = None
    attention: str | None = None
    remat: Remat | None = None

    def merge(
        self, *, torch_dtype: Any, attn_implementation: str | None, gradient_checkpointing: bool | None
    ) -> "LoadOptions":
        """Returns these options with those of transformers translated.

        Raises:
          ValueError: an unknown attention implementation, or two options that contradict each other.
        """
        options = self
        if torch_dtype is not None:
            options = options._set("torch_dtype", torch_dtype, "dtype", "param_dtype")
        if (name := attn_implementation) is not None:
            if not isinstance(name, str) or name not in ATTENTION_NAMES:
                raise ValueError(
                    f"attn_implementation must be one of {', '.join(ATTENTION_NAMES)}, or attention= one of "
                    f"{', '.join(IMPLEMENTATIONS)}; got {name!r}"
                )
            options = options._set("attn_implementation", ATTENTION_NAMES[name], "attention")
        if gradient_checkpointing is not None:
            options = options._set("gradient_checkpointing", gradient_checkpointing, "remat")
        return options

    def _set(self, source: str, value: Any, *names: str) -> "LoadOptions":
        for name in names:
            current = getattr(self, name)
            if current is not None and not _is_same(name, current, value):
                raise ValueError(
                    f"{source} sets {name} to {value!r}, which contradicts {name}={current!r}; leave one out"
                )
        return self._replace(**dict.fromkeys(names, value))


def _is_same(name: str, first: Any, second: Any) -> bool:
    if not name.endswith("dtype") or "auto" in (first, second):
        return first == second
    return float_type(name, first) == float_type(name, second)


def _is_config_key(name: str) -> bool:
    """Whether the name is a key of some config, or an attribute of some model."""
    models = MODELS.values()
    fields = {field.name for model in models for field in dataclasses.fields(model)}
    keys = {field.name for model in models for field in dataclasses.fields(model.config_class)}
    aliases = {alias for model in models for alias in model.config_class.aliases}
    return name in fields | keys | aliases | GENERATION_KEYS
