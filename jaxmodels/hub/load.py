"""Loading: tensors stream from the file, are rearranged, and land on their shards one parameter at a time."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxmodels.architectures import MODELS, model_class
from jaxmodels.architectures.base import Model, float_type
from jaxmodels.architectures.rag import RagConfig, RagModel, RagPreTrainedModel, RagSequenceForGeneration
from jaxmodels.config import Config
from jaxmodels.convert import Plan, WeightsError, assemble, plan
from jaxmodels.download import HUB_OPTIONS
from jaxmodels.hub.checkpoint import checkpoint_folder, read_config, with_own_head
from jaxmodels.hub.options import TRANSLATED, refuse_foreign_options, translated
from jaxmodels.messages import brief
from jaxmodels.parameters import abstract, check_key, flatten, initial, unflatten
from jaxmodels.sharding import Rules, check_placement, shardings
from jaxmodels.tensor_files import open_folder
from jaxmodels.tensor_files.atomic_save import read_snapshot


def load(
    name: str | Path,
    *,
    cls: type[Model] | str | None = None,
    dtype=None,
    param_dtype=None,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    attention: str | None = None,
    remat: bool | None = None,
    unroll: bool = False,
    subfolder: str | None = None,
    ignore_mismatched_sizes: bool = False,
    key: jax.Array | None = None,
    **options,
) -> tuple[Model, dict]:
    """A model and its parameters from a folder or a Hub id; torch is not needed.

    Reads model.safetensors, pytorch_model.bin (both formats) and flax_model.msgpack, single or sharded.

    Args:
      name: folder, or Hub id like "openai-community/gpt2".
      cls: class, class name or auto-class name; None takes the one that the config names. A head that the file lacks
        is initialised (with `key`) and named in one warning.
      dtype: type of the computation; None is float32, "auto" the type of the file.
      param_dtype: type of the parameters; None is float32, "auto" the type of the file.
      mesh, rules: put every parameter straight onto its shards; peak host memory stays at the largest parameter.
      attention, remat, unroll: see `Model`; None is "auto" and False.
      subfolder: of a folder or a Hub repository.
      ignore_mismatched_sizes: initialise parameters whose shape differs, with a warning.
      options: other values for keys of the config, e.g. num_labels=5; attributes of the class itself, e.g.
        add_pooling_layer=False; revision, token, cache_dir, local_files_only, force_download, for huggingface_hub; and
        in the words of transformers' from_pretrained torch_dtype (dtype and param_dtype), attn_implementation ("eager"
        is attention="xla"; "sdpa" and "flash_attention_2" are "auto") and gradient_checkpointing (remat). Its others
        are refused with what to write here.

    Raises:
      FileNotFoundError: no such folder or repository, or no weights in it.
      WeightsError: the file does not fit the model; three lists of names.
      TensorFileError: a damaged or hostile file.
      ValueError: a config of another family, an unknown key, a mesh that does not fit.
      TypeError: an option that is not one of this function, or of a wrong type.
    """
    refuse_foreign_options(options, _OWN)
    check_placement(mesh, rules)
    if key is not None:
        check_key("key", key)
    if not isinstance(ignore_mismatched_sizes, bool):
        raise TypeError(f"ignore_mismatched_sizes is True or False, got {brief(ignore_mismatched_sizes)}")
    chosen = translated(options, {"dtype": dtype, "param_dtype": param_dtype, "attention": attention, "remat": remat})
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    folder = checkpoint_folder(name, subfolder=subfolder, **hub)
    (config, choices), entries = read_snapshot(
        folder, lambda saved: (read_config(saved, cls, options), open_folder(saved))
    )
    if "tie_word_embeddings" not in options:
        config = with_own_head(config, entries)
    compute, stored = _dtypes(chosen["dtype"], chosen["param_dtype"], config, entries)
    choices |= {"attention": "auto" if chosen["attention"] is None else chosen["attention"], "unroll": unroll}
    choices["remat"] = False if chosen["remat"] is None else chosen["remat"]
    model = model_class(cls, config)(config, dtype=compute, param_dtype=stored, **choices)

    shapes = {path: leaf.shape for path, leaf in flatten(abstract(model)).items()}
    kept = kept_heads(model)
    found = plan(model.table, entries, shapes, kept, tied=config.tie_word_embeddings)
    fresh = _report(folder, model, found, ignore_mismatched_sizes)
    places = flatten(shardings(model, mesh, rules)) if mesh is not None else {}
    params = {}
    for path, (rule, layers) in found.sources.items():
        if path not in fresh:
            array = assemble(rule, layers, shapes[path], stored, kept)
            # Waits, so that the next host array is not made beside this one.
            params[path] = _place(array, places.get(path)).block_until_ready()
    if fresh:
        params |= _initialise(model, fresh, jax.random.key(0) if key is None else key, places)
    return model, unflatten({path: params[path] for path in shapes})


_OWN = tuple(name for name in inspect.signature(load).parameters if name != "options")


def kept_heads(model: Model) -> dict[int, list[int]]:
    """For each layer with pruned heads, those that are left: the files hold only these."""
    config = model.config
    return {
        layer: [h for h in range(config.num_attention_heads) if h not in gone]
        for layer, gone in config.pruned_heads.items()
        if gone
    }


def _dtypes(dtype, param_dtype, config: Config, entries) -> tuple[jnp.dtype, jnp.dtype]:
    """Of the computation and of the parameters."""

    def found(name: str, kind) -> jnp.dtype:
        if isinstance(kind, str) and kind == "auto":
            kind = config.torch_dtype or next((e.dtype for e in entries.values() if e.dtype.kind in "fV"), None)
        return float_type(name, jnp.float32 if kind is None else kind)

    compute, stored = found("dtype", dtype), found("param_dtype", param_dtype)
    if param_dtype is None and compute != stored:
        warnings.warn(
            f"dtype={compute.name} is the type of the computation; the parameters are float32. Up to version 0.1 they "
            f"followed dtype: param_dtype={dtype if isinstance(dtype, str) else compute.name!r} gives that, "
            "param_dtype='float32' what you have now, without this warning",
            FutureWarning,
            stacklevel=3,
        )
    return compute, stored


def _report(folder: Path, model: Model, found: Plan, ignore_mismatched: bool) -> list[str]:
    """Raises or warns; returns the paths that are to be initialised."""
    name = type(model).__name__
    bases = {rule.path for rule in model.table.rules}
    absent = [path for path in found.missing if model.table.short_path(path) in bases]
    mismatched = [] if ignore_mismatched else list(found.mismatched.values())
    if found.unknown or absent or mismatched:
        hint = "ignore_mismatched_sizes=True initialises these instead." if mismatched else ""
        raise WeightsError(f"{folder} ({name})", found.unknown, absent, mismatched, hint)
    fresh = [*found.missing, *found.mismatched]
    if told := [path for path in fresh if path not in model.table.silent]:
        warnings.warn(f"{name}: initialised, because {folder} lacks them: {', '.join(told)}; train them", stacklevel=3)
    if found.unused:
        warnings.warn(f"{name}: in {folder}, but unused by this class: {', '.join(found.unused)}", stacklevel=3)
    return fresh


def _place(array: np.ndarray, sharding) -> jax.Array:
    if sharding is None:
        return jax.device_put(array)  # on a CPU this is the same memory; jnp.asarray would copy
    # Each process hands over only what its own devices hold.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _initialise(model: Model, paths: list[str], key, places) -> dict[str, jax.Array]:
    def pick(key):
        flat = flatten(initial(model, key))
        return {path: flat[path] for path in paths}

    return jax.jit(pick, out_shardings={path: places[path] for path in paths} if places else None)(key)


# Choices that both parts share, so that they have no prefix.
_RUN = ("dtype", "param_dtype", "attention", "remat", "unroll", "mesh", "rules")
_SHARED = (*_RUN, "token", "cache_dir", "local_files_only", "force_download", "ignore_mismatched_sizes", "key")
_PREFIXES = {"question_encoder": "DPRQuestionEncoder", "generator": "AutoModelForSeq2SeqLM"}


def load_rag(
    question_encoder: str | Path,
    generator: str | Path,
    *,
    cls: type[Model] | str = RagSequenceForGeneration,
    **options,
) -> tuple[Model, dict]:
    """A RAG model and its parameters from a question encoder's folder or Hub id and a generator's (BART or T5).

    Reference: transformers/models/rag/modeling_rag.py, `from_pretrained_question_encoder_generator`.

    Args:
      cls: one of RAG's classes.
      options: those of `load` that concern both parts (dtype, mesh, token, ...); with the prefix `question_encoder_` or
        `generator_` those of one part (generator_revision, generator_max_position_embeddings, ...); all else are keys
        of the `RagConfig` (n_docs, ...).

    Raises:
      TypeError: a class that is not RAG's, a type or another choice of the run for one part alone; what `load` raises.
    """
    chosen = MODELS.get(cls) if isinstance(cls, str) else cls
    if not (isinstance(chosen, type) and issubclass(chosen, RagPreTrainedModel)):
        raise TypeError(f"cls is RagModel, RagSequenceForGeneration or RagTokenForGeneration, got {brief(cls)}")
    refuse_foreign_options(options, (*_SHARED, "cls"), "load_rag has no option")
    given = {name: options.pop(name, None) for name in ("dtype", "param_dtype", "attention", "remat")}
    common = translated(options, given) | {name: options.pop(name) for name in _SHARED if name in options}
    parts: dict[str, Any] = {}
    models: dict[str, Model] = {}
    for name, kind in _PREFIXES.items():
        source = question_encoder if name == "question_encoder" else generator
        prefix = f"{name}_"
        own = {key.removeprefix(prefix): options.pop(key) for key in list(options) if key.startswith(prefix)}
        for option in own:
            if option in (*_RUN, *TRANSLATED, "cls"):
                raise TypeError(f"load_rag has no option {prefix + option!r}: it is of the whole model, {option}=")
        models[name], parts[name] = load(source, cls=kind, **{**common, **own})
    runs = [{name: getattr(model, name) for name in _RUN[:5]} for model in models.values()]
    if runs[0] != runs[1]:
        raise ValueError(
            f"the files of the two parts hold {runs[0]['dtype']} and {runs[1]['dtype']}; give dtype= a name"
        )
    config = RagConfig(**{name: model.config for name, model in models.items()}, **options)
    return chosen(config, **runs[0]), parts if chosen is RagModel else {"rag": parts}
