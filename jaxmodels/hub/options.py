"""Options of `load` in the words of transformers' `from_pretrained`: translated, or refused with the word used here.

None is ever taken and then ignored. A value that asks for what is so here anyway (`low_cpu_mem_usage=True`) passes.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxmodels.architectures import MODELS
from jaxmodels.architectures.base import IMPLEMENTATIONS, float_type
from jaxmodels.config import GENERATION_KEYS
from jaxmodels.download import HUB_OPTIONS
from jaxmodels.messages import Unsupported, reject_unsupported

# Their attention, and the implementation here that is what the name promises: all weights in the open, or the best that
# the device has for the call, which for long texts never holds all of them.
ATTENTION = {"eager": "xla", "sdpa": "auto", "flash_attention_2": "auto"}
TRANSLATED = ("torch_dtype", "attn_implementation", "gradient_checkpointing")

_PLACES = "parameters go onto devices by mesh= and rules=, without them onto the first device"
_QUANTIZED = "parameters are floats of param_dtype=; a cache of 8 bits is generate's cache_dtype='int8'"
_KINDS = (
    "a folder's kind of file is found: model.safetensors, else pytorch_model.bin, else flax_model.msgpack; those of "
    "TensorFlow are not read"
)
_IN_MEMORY = "load reads a folder; parameters that are here already go to model.apply({'params': params}, ...)"
_FLAX = "load always gives (model, params)"
_PARTS = "adapters are not read; merge them into the weights before (peft's merge_and_unload) and load those"
_OFF: tuple[Any, ...] = (None, False)

# Of transformers 4.37 to 4.57, PyTorch's and Flax's classes and the auto classes.
FOREIGN = {
    "use_cache": Unsupported("a cache is used when one is passed: cache=model.init_cache(batch, length)"),
    "device_map": Unsupported(_PLACES),
    "device_mesh": Unsupported(_PLACES),
    "device": Unsupported(_PLACES),
    "tp_plan": Unsupported(_PLACES),
    "tp_size": Unsupported(_PLACES),
    "distributed_config": Unsupported(_PLACES),
    "max_memory": Unsupported(_PLACES),
    "offload_folder": Unsupported(_PLACES),
    "offload_state_dict": Unsupported(_PLACES, _OFF),
    "offload_buffers": Unsupported(_PLACES, _OFF),
    "low_cpu_mem_usage": Unsupported("tensors are read one at a time, always; leave it out", (None, True)),
    "_fast_init": Unsupported("only what the file lacks is initialised, always; leave it out", (None, True)),
    "quantization_config": Unsupported(_QUANTIZED),
    "load_in_8bit": Unsupported(_QUANTIZED, _OFF),
    "load_in_4bit": Unsupported(_QUANTIZED, _OFF),
    "from_pt": Unsupported(_KINDS, _OFF),
    "from_flax": Unsupported(_KINDS, _OFF),
    "from_tf": Unsupported(_KINDS, _OFF),
    "use_safetensors": Unsupported(_KINDS),
    "gguf_file": Unsupported(_KINDS),
    "variant": Unsupported("only files of the plain names are read; rename them (to model.safetensors)"),
    "weights_only": Unsupported("of a pickle nothing but tensors is ever read; leave it out", (None, True)),
    "state_dict": Unsupported(_IN_MEMORY),
    "params": Unsupported(_IN_MEMORY),
    "config": Unsupported("the folder's config.json counts; give changes of it by name, e.g. num_labels=5"),
    "generation_config": Unsupported("give it, or its settings by name, to generate"),
    "key_mapping": Unsupported("rename the tensors in the file"),
    "output_loading_info": Unsupported("what the file lacked and what was left over is said in warnings", _OFF),
    "trust_remote_code": Unsupported("code of a repository is never run", _OFF),
    "code_revision": Unsupported("code of a repository is never run"),
    "adapter_name": Unsupported(_PARTS),
    "adapter_kwargs": Unsupported(_PARTS),
    "use_kernels": Unsupported("attention= names the kernel", _OFF),
    "use_flash_attention_2": Unsupported("attention='auto' takes the kernel that the device has", _OFF),
    "_do_init": Unsupported(_FLAX, _OFF),
    "input_shape": Unsupported("nothing depends on the shape of an input; leave it out"),
    "seed": Unsupported("key=jax.random.key(seed) initialises what the file lacks"),
    "use_auth_token": Unsupported("it is called token="),
    "resume_download": Unsupported("downloads are always resumed; force_download=True begins anew", (None, True)),
    "proxies": Unsupported("set HTTPS_PROXY in the environment"),
    "mirror": Unsupported("set HF_ENDPOINT in the environment"),
    "user_agent": Unsupported("set HF_HUB_USER_AGENT_ORIGIN in the environment"),
    "use_remat": Unsupported("it is called remat="),
}  # fmt: skip


def refuse_foreign_options(options: dict[str, Any], own: Iterable[str], what: str = "load has no option") -> None:
    """Takes the options of FOREIGN out, those that ask for what is so here anyway.

    Args:
      own: names of the function's own options, for one that is nearly so called. What is no such name at all is left
        to the config, whose key it may be.
      what: the beginning of the message.

    Raises:
      TypeError: one that asks for something else, with what to write; a misspelt name.
    """
    names = [*own, *TRANSLATED, *HUB_OPTIONS]
    near = [name for name in options.keys() - {*names, *FOREIGN} if _is_near(name, names)]
    found = {name: options[name] for name in near}
    found |= {name: options.pop(name) for name in options.keys() & FOREIGN.keys()}
    reject_unsupported(what, found, names, FOREIGN)


def _is_near(name: str, names: list[str]) -> bool:
    return bool(difflib.get_close_matches(name, [*names, *FOREIGN], cutoff=0.8)) and not _is_key(name)


def translated(options: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Takes torch_dtype, attn_implementation and gradient_checkpointing out of the options: the same in our words.

    Args:
      given: dtype, param_dtype, attention and remat as the call has them; None where it says nothing.

    Raises:
      ValueError: an unknown implementation, or one that contradicts what else is given.
    """
    found = dict(given)

    def put(theirs: str, value: Any, *ours: str) -> None:
        for name in ours:
            if found[name] is not None and not _same(name, found[name], value):
                raise ValueError(
                    f"{theirs} sets {name} to {value!r}, and {name}={found[name]!r} is given; leave one out"
                )
            found[name] = value

    if (kind := options.pop("torch_dtype", None)) is not None:
        put("torch_dtype", kind, "dtype", "param_dtype")
    if (name := options.pop("attn_implementation", None)) is not None:
        if not isinstance(name, str) or name not in ATTENTION:
            raise ValueError(
                f"attn_implementation is one of {', '.join(ATTENTION)}, or attention= one of "
                f"{', '.join(IMPLEMENTATIONS)}; got {name!r}"
            )
        put("attn_implementation", ATTENTION[name], "attention")
    if (switch := options.pop("gradient_checkpointing", None)) is not None:
        put("gradient_checkpointing", switch, "remat")
    return found


def _same(name: str, ours: Any, theirs: Any) -> bool:
    if not name.endswith("dtype") or "auto" in (ours, theirs):
        return ours == theirs
    return float_type(name, ours) == float_type(name, theirs)


def _is_key(name: str) -> bool:
    """Of a config or an attribute of a model, of whatever family."""
    classes = [each for model in MODELS.values() for each in (model, model.config_class)]
    aliases = {alias for model in MODELS.values() for alias in model.config_class.aliases}
    return name in {field.name for each in classes for field in dataclasses.fields(each)} | aliases | GENERATION_KEYS
