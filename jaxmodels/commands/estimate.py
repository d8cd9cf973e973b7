"""`python -m jaxmodels estimate MODEL --topology v5e:16x16 --mesh data=16,model=16 --batch 512 --length 1024`.

What a program will need of each device of a TPU slice, found by compiling it for that slice: a training step (AdamW,
moments in the parameters' type), a forward pass (`--program forward`), or a call of generate (`--program generate
--new-tokens 128`). A device is a chip, or half a chip of a tpu7x. No TPU is needed and no weights: of MODEL only the
config.json is read.
"""

import argparse
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from jaxmodels import estimate, sharding
from jaxmodels.architectures import AUTO, config_class, model_class
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.led import LEDForConditionalGeneration
from jaxmodels.architectures.rag import RagTokenForGeneration
from jaxmodels.chips import KINDS, slice_of
from jaxmodels.commands.estimate_rows import lines
from jaxmodels.commands.generate import GENERATING
from jaxmodels.download import read_json
from jaxmodels.generation import GenerationConfig
from jaxmodels.hub.checkpoint import checkpoint_folder
from jaxmodels.sharding import Rules
from jaxmodels.tensor_files.atomic_save import FolderSnapshot
from jaxmodels.training.batches import check_rows

HELP = "say what a training step, a forward pass or a generation will need of each device of a TPU slice, without a TPU"
LOSSES = ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM")
TRAINED = tuple({cls: None for name in LOSSES for cls in AUTO[name].values()})
TABLES = ("DP", "FSDP", "FSDP_TP")
FLOATS = ("float32", "bfloat16", "float16")
# Options that not every program has, by the programs that have them.
OWN = {
    "target_length": ("train", "forward"),
    "unroll": ("train", "forward"),
    "remat": ("train",),
    "prng": ("train",),
    "new_tokens": ("generate",),
    "beams": ("generate",),
    "cache_dtype": ("generate",),
}
SIZES = ("batch", "length", "target_length", "global_tokens", "new_tokens", "beams")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder, config.json or Hub id; weights are not needed")
    parser.add_argument("--program", choices=("train", "forward", "generate"), default="train", help="default: train")
    parser.add_argument(
        "--topology", required=True, help=f"chips, of {', '.join(KINDS)}: v5e:16x16, v5p:2x2x1, v5e:1x1"
    )
    parser.add_argument("--mesh", required=True, help="axes and their sizes, all devices together: data=16,model=16")
    parser.add_argument("--batch", type=int, required=True, help="examples of a step, on all devices together")
    parser.add_argument(
        "--length", type=int, required=True,
        help="tokens of an example (of an encoder: that it reads; of a RAG: of a document with its question)",
    )  # fmt: skip
    parser.add_argument(
        "--target-length", type=int, help="train, forward: tokens of the labels, or of the decoder; default: LENGTH"
    )
    parser.add_argument("--new-tokens", type=int, help="generate: tokens of each text")
    parser.add_argument("--beams", type=int, help="generate: of a beam search (default: none)")
    parser.add_argument("--cache-dtype", choices=(*FLOATS, "int8"), help="generate: of keys and values; default: DTYPE")
    parser.add_argument(
        "--global-tokens", type=int, help="LED: room for so many global tokens; default: there are none"
    )
    parser.add_argument(
        "--rules",
        default="FSDP_TP",
        help=f"{', '.join(TABLES)}, and changes of it, + between axes: FSDP,batch=data+fsdp,embed=fsdp "
        "(default: %(default)s)",
    )
    parser.add_argument("--class", dest="cls", metavar="CLASS", help="class or auto class; default: the config's own")
    parser.add_argument("--dtype", choices=FLOATS, default="bfloat16", help="to compute in (default: %(default)s)")
    parser.add_argument("--param-dtype", choices=FLOATS, help="of the parameters; default: train: float32, else DTYPE")
    parser.add_argument("--remat", action="store_true", help="train: recompute the layers in the backward pass")
    parser.add_argument("--unroll", action="store_true", help="train, forward: unroll the layers, which takes minutes")
    parser.add_argument("--prng", choices=("threefry2x32", "rbg"), help="train: of dropout (default: rbg)")


def run(arguments: argparse.Namespace) -> None:
    """Compiles, and prints the table."""
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError("the compiler for TPUs is in the package libtpu, which is not here: pip install libtpu")
    function, given, options = asked(arguments)
    try:
        found = function(*given, **options)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        line = str(error).strip().splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise ValueError(
            f"the program does not fit the devices: {line} Try more chips, a smaller --batch, rules that split more of "
            f"the parameters, or {'--remat' if arguments.program == 'train' else 'a --param-dtype of fewer bytes'}"
        ) from error
    print("\n".join(lines(given[0], found)))


def asked(arguments: argparse.Namespace) -> tuple[Callable[..., Any], tuple, dict[str, Any]]:
    """The function of the library for --program and what it is called with: the model first, and options by name.

    Raises:
      ValueError: options that do not fit together, or not the model.
    """
    _check_options(arguments)
    model = _model(arguments)
    slice_of(arguments.topology)
    axes, rules = _axes(arguments.mesh), _rules(arguments.rules)
    _check(_mesh(arguments.topology, axes), rules, arguments.batch)
    sizes = {"batch": arguments.batch, "length": arguments.length}
    options: dict[str, Any] = {"topology": arguments.topology, "axes": axes, "rules": rules, **sizes}
    if arguments.program == "generate":
        return estimate.generate, (model,), options | _options(arguments, model)
    options["further"] = _further(arguments, model)
    if arguments.program == "forward":
        return estimate.forward, (model,), options
    return estimate.train_step, (model, optax.adamw(1e-4)), options | {"prng": arguments.prng or "rbg"}


def _check_options(arguments: argparse.Namespace) -> None:
    for name, programs in OWN.items():
        if getattr(arguments, name) and arguments.program not in programs:
            raise ValueError(
                f"{_flag(name)} is for --program {' or '.join(programs)}, and this is {arguments.program}; leave it out"
            )
    for name in SIZES:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"{_flag(name)} is at least 1, got {value}")
    if arguments.program == "generate" and arguments.new_tokens is None:
        raise ValueError("--program generate needs --new-tokens, how many each text gets")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _model(arguments: argparse.Namespace) -> Model:
    values = read_json(_config_file(arguments.model))
    config = config_class(values, arguments.cls).from_dict(values)
    cls = model_class(arguments.cls, config)
    able = {"train": TRAINED, "forward": (Model,), "generate": (*GENERATING, RagTokenForGeneration)}[arguments.program]
    if not issubclass(cls, able):
        names = ", ".join(each.__name__ for each in able)
        lack = "has no loss of a language model" if arguments.program == "train" else "does not generate in one program"
        raise ValueError(f"{cls.__name__} {lack}; give --class, one of {names}")
    stored = arguments.param_dtype or ("float32" if arguments.program == "train" else arguments.dtype)
    choices = {"dtype": jnp.dtype(arguments.dtype), "param_dtype": jnp.dtype(stored)}
    choices |= {"remat": arguments.remat, "unroll": arguments.unroll}
    if arguments.global_tokens is not None:
        if cls is not LEDForConditionalGeneration:
            raise ValueError(f"--global-tokens is for LED, and this is a {cls.__name__}")
        choices["max_global_tokens"] = arguments.global_tokens
    if arguments.target_length is not None and not config.is_encoder_decoder:
        raise ValueError(f"--target-length is for encoder-decoders, and this is a {cls.__name__}")
    return cls(config, **choices)


def _config_file(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    if Path(name).is_dir():
        return FolderSnapshot(checkpoint_folder(name)) / "config.json"
    try:
        return Path(huggingface_hub.hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is no folder or file here, and as a Hub id its config.json could not be had ({error}); give a "
            "folder with config.json, the file itself, or a Hub id that can be reached"
        ) from error


def _further(arguments: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Shapes of the inputs beside input_ids, and of labels of another length."""
    batch, length, shapes = arguments.batch, arguments.length, dict[str, Any]()
    target = arguments.target_length or length
    if arguments.program == "forward" and model.config.is_encoder_decoder:
        shapes["decoder_input_ids"] = (batch, target)
    elif arguments.target_length is not None:
        shapes["labels"] = (batch, target)
    if arguments.global_tokens is not None:
        shapes["global_attention_mask"] = (batch, length)
    return shapes | _documents(arguments, model)


def _documents(arguments: argparse.Namespace, model: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """What a RAG reads: for every question so many documents as the config has."""
    if model.config.model_type != "rag":
        return {}
    count = model.config.n_docs
    shape = (arguments.batch * count, arguments.length)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    scores = jax.ShapeDtypeStruct((arguments.batch, count), jnp.float32)
    return {"context_input_ids": ids, "context_attention_mask": ids, "doc_scores": scores}


def _options(arguments: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Of `estimate.generate`."""
    options: dict[str, Any] = {"new_tokens": arguments.new_tokens, "num_beams": arguments.beams or 1}
    settings = GenerationConfig.from_model_config(model.config)
    if settings.pad_token_id is None and settings.eos_token_id:
        options["pad_token_id"] = settings.eos_token_id[0]
    if arguments.cache_dtype is not None:
        options["cache_dtype"] = arguments.cache_dtype
    if arguments.global_tokens is not None:
        options["global_attention_mask"] = np.zeros((arguments.batch, arguments.length), np.int32)
    documents = _documents(arguments, model)
    return options | {name: np.zeros(each.shape, each.dtype) for name, each in documents.items()}


def _axes(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and size.isdigit() and int(size) for name, _, size in pairs):
        raise ValueError(f"--mesh is AXIS=SIZE,AXIS=SIZE such as data=16,model=16; got {text!r}")
    if len({name for name, *_ in pairs}) < len(pairs):
        raise ValueError(f"--mesh names each axis once; got {text!r}")
    return {name: int(size) for name, _, size in pairs}


def _rules(text: str) -> Rules:
    name, *changes = text.split(",")
    if name not in TABLES:
        raise ValueError(f"--rules begins with one of {', '.join(TABLES)}; got {text!r}")
    rules = dict(getattr(sharding, name))
    for change in changes:
        axis, _, target = change.partition("=")
        if axis not in sharding.NAMES or not all(target.split("+")):
            raise ValueError(f"--rules changes NAME=MESH_AXIS, a name of {', '.join(sharding.NAMES)}; got {change!r}")
        rules[axis] = None if target == "none" else tuple(target.split("+"))
    return rules


def _mesh(topology: str, axes: Mapping[str, int]) -> Mesh:
    try:
        return estimate.topology_mesh(topology, axes)
    except JaxRuntimeError as error:
        raise ValueError(f"the TPU compiler knows no slice {topology!r}: {error}") from error


def _check(mesh: Mesh, rules: Rules, batch: int) -> None:
    named = [axis for value in rules.values() for axis in ((value,) if isinstance(value, str) else value or ())]
    if unknown := sorted(set(named) - set(mesh.shape)):
        raise ValueError(f"--rules split over the mesh axis {unknown[0]!r}, which --mesh lacks; add {unknown[0]}=1")
    check_rows({"input_ids": jax.ShapeDtypeStruct((batch, 1), jnp.int32)}, 1, mesh, rules)
