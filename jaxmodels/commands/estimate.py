"""Estimate memory, FLOPs and time of a program per device of a TPU slice, without a TPU.

Compiles the program for the slice: a training step (AdamW, with moments in the dtype of the parameters), a forward pass
(--program forward), or a call of generate (--program generate --new-tokens 128). A device is a chip, or half a chip of
a tpu7x. No weights are needed: only config.json is read. Example: estimate MODEL --topology v5e:16x16 --mesh
data=16,model=16 --batch 512 --length 1024
"""

import argparse
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
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
from jaxmodels.commands.generate import GENERATING
from jaxmodels.download import read_json
from jaxmodels.estimate import Candidate, Estimate, Floor, Generation
from jaxmodels.estimate.sharding_search import RULES as SEARCH_RULES
from jaxmodels.generation import GenerationConfig
from jaxmodels.hub.checkpoint import checkpoint_folder
from jaxmodels.layers.remat import POLICIES
from jaxmodels.parameters import abstract
from jaxmodels.sharding import Rules
from jaxmodels.tensor_files.atomic_save import FolderSnapshot
from jaxmodels.training.batches import check_batch_size

HELP = "estimate memory, FLOPs and time per device of a TPU slice, without a TPU"
LOSSES = ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSeq2SeqLM")
TRAINABLE = tuple({cls: None for name in LOSSES for cls in AUTO[name].values()})
RULES = ("DP", "FSDP", "FSDP_TP")
FLOATS = ("float32", "bfloat16", "float16")
# Options that a search finds.
SEARCHED = ("mesh", "rules", "remat", "microbatches")
# Options that only some programs have.
PROGRAMS_BY_OPTION = {
    "target_length": ("train", "forward"),
    "unroll": ("train", "forward"),
    "remat": ("train",),
    "microbatches": ("train",),
    "prng": ("train",),
    "search": ("train",),
    "new_tokens": ("generate",),
    "beams": ("generate",),
    "cache_dtype": ("generate",),
}
SIZES = ("batch", "length", "slices", "microbatches", "search", "target_length", "global_tokens", "new_tokens", "beams")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("model", help="folder, config.json or Hub id; weights are not needed")
    parser.add_argument(
        "--program",
        choices=("train", "forward", "generate"),
        default="train",
        help="program to compile (default: train)",
    )
    parser.add_argument(
        "--topology",
        required=True,
        help=f"TPU slice, such as v5e:16x16, v5p:2x2x1 or v5e:1x1; types: {', '.join(KINDS)}",
    )
    parser.add_argument("--slices", type=int, default=1, help="number of slices, which the first mesh axes span")
    parser.add_argument("--mesh", help="mesh axes and sizes over all devices, such as data=16,model=16")
    parser.add_argument(
        "--search",
        nargs="?",
        const=12,
        type=int,
        metavar="N",
        help="train: find --mesh, --rules, --remat and --microbatches: rank all by arithmetic, compile the best (at "
        "most N, default: %(const)s), and print those that fit, the fastest first",
    )
    parser.add_argument("--batch", type=int, required=True, help="global batch size")
    parser.add_argument(
        "--length",
        type=int,
        required=True,
        help="sequence length in tokens (of the encoder; of RAG: of a context, a document with the question)",
    )
    parser.add_argument(
        "--target-length", type=int, help="train, forward: length of labels or decoder inputs (default: LENGTH)"
    )
    parser.add_argument("--new-tokens", type=int, help="generate: number of tokens to generate per sequence")
    parser.add_argument("--beams", type=int, help="generate: number of beams (default: no beam search)")
    parser.add_argument(
        "--cache-dtype", choices=(*FLOATS, "int8"), help="generate: dtype of the KV cache (default: DTYPE)"
    )
    parser.add_argument("--global-tokens", type=int, help="LED: maximum number of global tokens (default: none)")
    parser.add_argument(
        "--rules",
        help=f"sharding rules: one of {', '.join(RULES)}, optionally with changes, + between mesh axes: "
        "FSDP,batch=data+fsdp,embed=fsdp (default: FSDP_TP)",
    )
    parser.add_argument(
        "--class", dest="cls", metavar="CLASS", help="model class or auto class (default: from the config)"
    )
    parser.add_argument(
        "--dtype", choices=FLOATS, default="bfloat16", help="dtype of the computation (default: %(default)s)"
    )
    parser.add_argument(
        "--param-dtype", choices=FLOATS, help="dtype of the parameters (default: float32 for train, else DTYPE)"
    )
    parser.add_argument("--microbatches", type=int, help="train: parts of the batch, one after the other (default: 1)")
    parser.add_argument(
        "--remat",
        nargs="?",
        const="nothing",
        choices=tuple(POLICIES),
        help="train: rematerialise the layers in the backward pass, all of them or but for what the policy keeps",
    )
    parser.add_argument(
        "--unroll", action="store_true", help="train, forward: unroll the layers (compiles for minutes)"
    )
    parser.add_argument(
        "--prng",
        choices=("threefry2x32", "rbg"),
        help="train: random number generator of dropout (default: that of a run, threefry2x32). rbg compiles faster, "
        "but every device makes the bits of the whole batch",
    )


def run(arguments: argparse.Namespace) -> None:
    """Compiles the program and prints the table."""
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError("the TPU compiler is in the package libtpu, which is not installed: pip install libtpu")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several estimates may run at a time
    function, positional, options = estimate_call(arguments)
    try:
        found = function(*positional, **options)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        line = str(error).strip().splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise ValueError(
            f"the program does not fit the devices: {line} Try more chips, a smaller --batch, rules that shard more of "
            f"the parameters, or {'--remat' if arguments.program == 'train' else 'a smaller --param-dtype'}"
        ) from error
    lines = format_search(found) if arguments.search else format_table(positional[0], found)
    print("\n".join(lines))
    if options.get("prng") == "rbg":
        print(
            "warning: rbg is not split over devices, so every device makes the random bits of the whole batch; the "
            "memory is that of a run with this generator. A run takes threefry2x32 unless jax_default_prng_impl is set."
        )


def estimate_call(arguments: argparse.Namespace) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Returns the function of `jaxmodels.estimate` for --program, its positional and its keyword arguments.

    Raises:
      ValueError: options that are inconsistent, or do not apply to the model.
    """
    _check_options(arguments)
    model = _model(arguments)
    slice_of(arguments.topology)
    if arguments.search:
        where = {"topology": arguments.topology, "slices": arguments.slices, "limit": arguments.search}
        program = {"batch": arguments.batch, "length": arguments.length, "further": _further_shapes(arguments, model)}
        return estimate.search, (model, optax.adamw(1e-4)), {**where, **program, "prng": arguments.prng}
    axes, rules = _axes(arguments.mesh), _rules(arguments.rules or "FSDP_TP")
    _check_batch(_mesh(arguments.topology, axes, arguments.slices), rules, arguments.batch, arguments.microbatches or 1)
    sizes = {"batch": arguments.batch, "length": arguments.length}
    options: dict[str, Any] = {"topology": arguments.topology, "slices": arguments.slices, "axes": axes, "rules": rules}
    options |= sizes
    if arguments.program == "generate":
        return estimate.generate, (model,), options | _generate_options(arguments, model)
    options["further"] = _further_shapes(arguments, model)
    if arguments.program == "forward":
        return estimate.forward, (model,), options
    options |= {"microbatches": arguments.microbatches or 1, "prng": arguments.prng}
    return estimate.train_step, (model, optax.adamw(1e-4)), options


def _check_options(arguments: argparse.Namespace) -> None:
    for name, programs in PROGRAMS_BY_OPTION.items():
        if getattr(arguments, name) and arguments.program not in programs:
            raise ValueError(
                f"{_flag(name)} is for --program {' or '.join(programs)}, got {arguments.program}; leave it out"
            )
    for name in SIZES:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"{_flag(name)} must be at least 1, got {value}")
    found = [_flag(name) for name in SEARCHED if getattr(arguments, name)]
    if arguments.search and found:
        raise ValueError(f"--search finds {', '.join(map(_flag, SEARCHED))}; leave out {', '.join(found)}")
    if not arguments.search and not arguments.mesh:
        raise ValueError("--mesh is required, such as data=16,model=16; or --search, which finds one")
    if arguments.program == "generate" and arguments.new_tokens is None:
        raise ValueError("--program generate requires --new-tokens, the number of tokens to generate")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _model(arguments: argparse.Namespace) -> Model:
    values = read_json(_config_file(arguments.model))
    config = config_class(values, arguments.cls).from_dict(values)
    cls = model_class(arguments.cls, config)
    classes: dict[str, tuple[type[Model], ...]] = {
        "train": TRAINABLE,
        "forward": (Model,),
        "generate": (*GENERATING, RagTokenForGeneration),
    }
    allowed = classes[arguments.program]
    if not issubclass(cls, allowed):
        names = ", ".join(each.__name__ for each in allowed)
        reason = (
            "has no language modelling loss" if arguments.program == "train" else "does not generate in one program"
        )
        raise ValueError(f"{cls.__name__} {reason}; pass --class, one of {names}")
    stored = arguments.param_dtype or ("float32" if arguments.program == "train" else arguments.dtype)
    options: dict[str, Any] = {"dtype": jnp.dtype(arguments.dtype), "param_dtype": jnp.dtype(stored)}
    options |= {"remat": arguments.remat or False, "unroll": arguments.unroll}
    if arguments.global_tokens is not None:
        is_led = issubclass(cls, LEDForConditionalGeneration)
        if not is_led:
            raise ValueError(f"--global-tokens is for LED, got {cls.__name__}")
        options["max_global_tokens"] = arguments.global_tokens
    if arguments.target_length is not None and not config.is_encoder_decoder:
        raise ValueError(f"--target-length is for encoder-decoders, got {cls.__name__}")
    return cls(config, **options)


def _config_file(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    if Path(name).is_dir():
        return FolderSnapshot(checkpoint_folder(name)) / "config.json"
    try:
        return Path(huggingface_hub.hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is neither a folder nor a file, and the Hub does not provide its config.json ({error}); pass a "
            "folder with config.json, the file itself, or a reachable Hub id"
        ) from error


def _further_shapes(arguments: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Returns the shapes of inputs other than input_ids, and of labels with another length."""
    batch, length, shapes = arguments.batch, arguments.length, dict[str, Any]()
    target = arguments.target_length or length
    if arguments.program == "forward" and model.config.is_encoder_decoder:
        shapes["decoder_input_ids"] = (batch, target)
    elif arguments.target_length is not None:
        shapes["labels"] = (batch, target)
    if arguments.global_tokens is not None:
        shapes["global_attention_mask"] = (batch, length)
    return shapes | _document_shapes(arguments, model)


def _document_shapes(arguments: argparse.Namespace, model: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a RAG model's contexts: the config's n_docs for every question."""
    if model.config.model_type != "rag":
        return {}
    count = model.config.n_docs
    shape = (arguments.batch * count, arguments.length)
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    scores = jax.ShapeDtypeStruct((arguments.batch, count), jnp.float32)
    return {"context_input_ids": ids, "context_attention_mask": ids, "doc_scores": scores}


def _generate_options(arguments: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Returns the options of `estimate.generate`."""
    options: dict[str, Any] = {"new_tokens": arguments.new_tokens, "num_beams": arguments.beams or 1}
    settings = GenerationConfig.from_model_config(model.config)
    if settings.pad_token_id is None and settings.eos_token_id:
        options["pad_token_id"] = settings.eos_token_id[0]
    if arguments.cache_dtype is not None:
        options["cache_dtype"] = arguments.cache_dtype
    if arguments.global_tokens is not None:
        options["global_attention_mask"] = np.zeros((arguments.batch, arguments.length), np.int32)
    documents = _document_shapes(arguments, model)
    return options | {name: np.zeros(each.shape, each.dtype) for name, each in documents.items()}


def _axes(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and size.isdigit() and int(size) for name, _, size in pairs):
        raise ValueError(f"--mesh must be AXIS=SIZE,AXIS=SIZE, such as data=16,model=16; got {text!r}")
    if len({name for name, *_ in pairs}) < len(pairs):
        raise ValueError(f"--mesh must name each axis once; got {text!r}")
    return {name: int(size) for name, _, size in pairs}


def _rules(text: str) -> Rules:
    name, *changes = text.split(",")
    if name not in RULES:
        raise ValueError(f"--rules must start with one of {', '.join(RULES)}; got {text!r}")
    rules = dict(getattr(sharding, name))
    for change in changes:
        axis, _, target = change.partition("=")
        if axis not in sharding.AXES or not all(target.split("+")):
            names = ", ".join(sharding.AXES)
            raise ValueError(f"changes in --rules must be NAME=MESH_AXIS, with a name of {names}; got {change!r}")
        rules[axis] = None if target == "none" else tuple(target.split("+"))
    return rules


def _mesh(topology: str, axes: Mapping[str, int], slices: int) -> Mesh:
    try:
        return estimate.topology_mesh(topology, axes, slices)
    except JaxRuntimeError as error:
        raise ValueError(f"the TPU compiler does not support the slice {topology!r}: {error}") from error


def _check_batch(mesh: Mesh, rules: Rules, batch: int, microbatches: int) -> None:
    used = [axis for value in rules.values() for axis in ((value,) if isinstance(value, str) else value or ())]
    if unknown := sorted(set(used) - set(mesh.shape)):
        raise ValueError(f"--rules use the mesh axis {unknown[0]!r}, which --mesh lacks; add {unknown[0]}=1")
    check_batch_size({"input_ids": jax.ShapeDtypeStruct((batch, 1), jnp.int32)}, microbatches, mesh, rules)


def format_table(model: Model, found: Estimate) -> list[str]:
    """Returns the printed lines: a table of a training step, a forward pass, or a call of `generate`."""
    table = _generation_table(found) if isinstance(found, Generation) else _step_table(found)
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract(model)))
    total, sent = found.device.memory * 2**30, found.collectives
    table = {
        "model": f"{type(model).__name__}, {count:,} parameters",
        "slice": f"{found.topology}, {found.devices} x {found.device.memory} GiB",
        "memory per device": f"{_format_bytes(found.memory)}, {found.memory / total:.1%} of it",
        **table,
        "collectives": ", ".join(
            f"{each.count} {name} ({_format_bytes(each.bytes)})" for name, each in sorted(sent.items())
        )
        or "none",
        "not in the floors": "collectives" + _precision_note(model),
    }
    return [f"{name:21} {value}" for name, value in table.items()]


def format_search(found: Sequence[Candidate]) -> list[str]:
    """Returns the printed lines: compiled candidates that fit, the options of the first, and how many there were."""
    fitting = [each for each in found if each.compiled]
    failed = sum(each.error is not None for each in found)
    lines = [f"{'mesh':32} {'remat':20} microbatches     memory    FLOPs  network"]
    for each in fitting:
        mesh, policy = _mesh_option(each), "no" if each.remat is False else str(each.remat)
        lines.append(
            f"{mesh:32} {policy:20} {each.microbatches:12} {_format_bytes(round(each.memory)):>10} "
            f"{_format_time(each.compute):>8} {_format_time(each.network):>8}"
        )
    rules = f"--rules FSDP_TP,{','.join(f'{name}={_joined(value)}' for name, value in _changed_rules().items())}"
    lines += [
        f"compiled: {len(fitting) + failed} of {len(found)} candidates, of which {failed} did not fit; the order is by "
        "the sum of FLOPs at peak and network at its bandwidth",
    ]
    if fitting:
        best = fitting[0]
        remat = f" --remat {best.remat}" if best.remat else ""
        lines.append(f"the first: --mesh {_mesh_option(best)} {rules}{remat} --microbatches {best.microbatches}")
    return lines


def _mesh_option(candidate: Candidate) -> str:
    return ",".join(f"{name}={size}" for name, size in candidate.axes.items())


def _changed_rules() -> dict[str, Any]:
    return {name: value for name, value in SEARCH_RULES.items() if value != sharding.FSDP_TP[name]}


def _joined(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else "+".join(value)


def _step_table(found: Estimate) -> dict[str, str]:
    # Only a training step donates its state.
    floor, inputs = found.floor, "state and batch" if found.reused else "parameters, inputs"
    return {
        f"  {inputs}": _format_bytes(found.arguments),
        "  results": _format_bytes(found.results - found.reused),
        "  temporary": _format_bytes(found.temporaries),
        "FLOPs per device": f"{found.flops:.3g}: {_format_time(floor.compute)} at peak",
        "bytes per device": f"{_format_bytes(found.moved)} read or written at least: {_format_time(floor.memory)}",
        "step-time floor": _format_floor(floor),
    }


def _generation_table(found: Generation) -> dict[str, str]:
    throughput = found.rows * found.new_tokens / found.seconds
    return {
        "  parameters, inputs": _format_bytes(found.arguments),
        "  cache": _format_bytes(found.cache),
        "  other results": _format_bytes(found.results - found.reused - found.cache),
        "  temporary": _format_bytes(found.temporaries),
        "FLOPs per device": f"{found.flops:.3g} per call, {found.token_flops:.3g} per further token of each sequence",
        "first-token floor": _format_floor(found.first),
        "next-token floor": f"{_format_floor(found.token)}: {_format_bytes(found.weights)} of weights, "
        f"{_format_bytes(found.cache)} of cache",
        "call floor": f"{_format_time(found.seconds)}, {throughput:,.0f} tokens/s "
        f"({found.rows} sequences of {found.new_tokens} new tokens)",
    }


def _precision_note(model: Model) -> str:
    """Returns what the floors assume for a compute dtype other than bfloat16."""
    name = jnp.dtype(model.dtype).name
    return "" if name == "bfloat16" else f', and that at the matmul precision "highest" {name} takes six times as long'


def _format_floor(floor: Floor) -> str:
    return f"{_format_time(floor.seconds)} ({floor.limit})"


def _format_time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _format_bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.2f} MiB"
