"""Loading: tensors are read, converted and placed on their devices one parameter at a time."""

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike

from jaxmodels.architectures import MODELS, model_class
from jaxmodels.architectures.base import Model, float_type
from jaxmodels.architectures.rag import RagConfig, RagModel, RagPreTrainedModel, RagSequenceForGeneration
from jaxmodels.config import Config, ConfigValue
from jaxmodels.convert import LoadPlan, WeightsError, assemble, plan_loading
from jaxmodels.download import HubToken
from jaxmodels.hub.checkpoint import checkpoint_folder, read_config, untie_separate_head
from jaxmodels.hub.options import LoadOptions, reject_unsupported_options
from jaxmodels.layers.remat import Remat
from jaxmodels.messages import brief
from jaxmodels.parameters import abstract, check_key, flatten, initial, unflatten
from jaxmodels.sharding import Rules, check_placement, shardings
from jaxmodels.tensor_files import TensorEntry, open_folder
from jaxmodels.tensor_files.atomic_save import read_snapshot


def load(
    name: str | Path,
    *,
    cls: type[Model] | str | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    attention: str | None = None,
    remat: Remat | None = None,
    unroll: bool = False,
    subfolder: str | None = None,
    ignore_mismatched_sizes: bool = False,
    key: jax.Array | None = None,
    revision: str | None = None,
    token: HubToken = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
    torch_dtype: Any = None,
    attn_implementation: str | None = None,
    gradient_checkpointing: bool | None = None,
    **overrides: ConfigValue,
) -> tuple[Model, dict[str, Any]]:
    """Loads a model and its parameters from a folder or the Hub. Does not need torch.

    Reads model.safetensors, pytorch_model.bin (both formats) and flax_model.msgpack, as one file or in shards.

    Args:
      name: folder, or Hub id such as "openai-community/gpt2".
      cls: class, class name or auto-class name; None takes the one that the config names. A head that the file lacks
        is initialised (with `key`), with a warning.
      dtype: dtype of the computation; None is float32, "auto" the dtype of the file.
      param_dtype: dtype of the parameters; None is float32, "auto" the dtype of the file.
      mesh, rules: place every parameter directly on its shards; peak host memory is that of the largest parameter.
      attention, remat, unroll: see `Model`; None is "auto" and False.
      subfolder: subfolder of the folder or the Hub repository.
      ignore_mismatched_sizes: initialise parameters whose shape differs, with a warning.
      key: PRNG key for parameters that are initialised; None is `jax.random.key(0)`.
      revision, token, cache_dir, local_files_only, force_download: passed to huggingface_hub.
      torch_dtype: transformers' name of dtype and param_dtype.
      attn_implementation: transformers' name of attention: "eager" is "xla", "sdpa" and "flash_attention_2" are "auto".
      gradient_checkpointing: transformers' name of remat.
      overrides: values that replace those of the config, e.g. num_labels=5, and further attributes of the class, e.g.
        add_pooling_layer=False. Other options of transformers' from_pretrained raise an error that names the
        equivalent.

    Returns:
      The model, and its parameters as a nested dict.

    Raises:
      FileNotFoundError: the folder or repository does not exist, or has no weights.
      WeightsError: the file does not match the model; lists all names.
      TensorFileError: a damaged or malicious file.
      ValueError: an unsupported model type, an unknown key, or a mesh that does not fit.
      TypeError: an unknown option, or a value of the wrong type.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> model.apply({"params": params}, jnp.array([[5, 6, 7]])).logits.shape == (1, 3, model.config.vocab_size)
      True
      >>> classifier, params = jm.load(
      ...     "FacebookAI/roberta-base", cls="AutoModelForSequenceClassification", num_labels=3, key=jax.random.key(0)
      ... )
      >>> classifier.config.num_labels
      3
    """
    options: dict[str, Any] = dict(overrides)
    reject_unsupported_options(options, _PARAMETERS)
    check_placement(mesh, rules)
    if key is not None:
        check_key("key", key)
    if not isinstance(ignore_mismatched_sizes, bool):
        raise TypeError(f"ignore_mismatched_sizes must be True or False, got {brief(ignore_mismatched_sizes)}")
    run = LoadOptions(dtype, param_dtype, attention, remat).merge(
        torch_dtype=torch_dtype, attn_implementation=attn_implementation, gradient_checkpointing=gradient_checkpointing
    )
    folder = checkpoint_folder(
        name,
        subfolder=subfolder,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    (config, attributes), entries = read_snapshot(
        folder, lambda snapshot: (read_config(snapshot, cls, options), open_folder(snapshot))
    )
    if "tie_word_embeddings" not in options:
        config = untie_separate_head(config, entries)
    compute_dtype, stored_dtype = _resolve_dtypes(run.dtype, run.param_dtype, config, entries)
    attributes["attention"] = "auto" if run.attention is None else run.attention
    attributes["remat"] = False if run.remat is None else run.remat
    model = model_class(cls, config)(config, dtype=compute_dtype, param_dtype=stored_dtype, unroll=unroll, **attributes)

    shapes = {path: leaf.shape for path, leaf in flatten(abstract(model)).items()}
    heads = remaining_heads(model)
    plan = plan_loading(model.table, entries, shapes, heads, tied=config.tie_word_embeddings)
    uninitialised = _check_plan(folder, model, plan, ignore_mismatched_sizes)
    placement = {} if mesh is None or rules is None else flatten(shardings(model, mesh, rules))
    params = {}
    for path, (rule, layers) in plan.sources.items():
        if path not in uninitialised:
            array = assemble(rule, layers, shapes[path], stored_dtype, heads)
            # Wait for the transfer, so that only one host array exists at a time.
            params[path] = _place(array, placement.get(path)).block_until_ready()
    if uninitialised:
        params |= _initialise(model, uninitialised, jax.random.key(0) if key is None else key, placement)
    return model, unflatten({path: params[path] for path in shapes})


_PARAMETERS = tuple(name for name in inspect.signature(load).parameters if name != "overrides")


def remaining_heads(model: Model) -> dict[int, list[int]]:
    """The heads that remain in each layer with pruned heads; files contain only these."""
    config = model.config
    return {
        layer: [head for head in range(config.num_attention_heads) if head not in pruned]
        for layer, pruned in config.pruned_heads.items()
        if pruned
    }


def _resolve_dtypes(
    dtype: Any, param_dtype: Any, config: Config, entries: Mapping[str, TensorEntry]
) -> tuple[jnp.dtype, jnp.dtype]:
    """Returns the dtypes of the computation and of the parameters."""

    def resolve(name: str, value: Any) -> jnp.dtype:
        if isinstance(value, str) and value == "auto":
            value = config.torch_dtype or next((e.dtype for e in entries.values() if e.dtype.kind in "fV"), None)
        return float_type(name, jnp.float32 if value is None else value)

    compute, stored = resolve("dtype", dtype), resolve("param_dtype", param_dtype)
    if param_dtype is None and compute != stored:
        warnings.warn(
            f"dtype={compute.name} is the dtype of the computation; the parameters are float32. Up to version 0.1 they "
            f"followed dtype: for that pass param_dtype={dtype if isinstance(dtype, str) else compute.name!r}; to keep "
            "float32 without this warning pass param_dtype='float32'",
            FutureWarning,
            stacklevel=3,
        )
    return compute, stored


def _check_plan(folder: Path, model: Model, plan: LoadPlan, ignore_mismatched: bool) -> list[str]:
    """Raises or warns about differences between file and model; returns the parameters to be initialised."""
    name = type(model).__name__
    base_paths = {rule.path for rule in model.table.rules}
    missing = [path for path in plan.missing if model.table.short_path(path) in base_paths]
    mismatched = [] if ignore_mismatched else list(plan.mismatched.values())
    if plan.unknown or missing or mismatched:
        hint = "ignore_mismatched_sizes=True initialises parameters of a different shape." if mismatched else ""
        raise WeightsError(f"{folder} ({name})", plan.unknown, missing, mismatched, hint)
    uninitialised = [*plan.missing, *plan.mismatched]
    if reported := [path for path in uninitialised if path not in model.table.silent]:
        warnings.warn(
            f"{name}: initialised, because {folder} lacks them: {', '.join(reported)}; train them", stacklevel=3
        )
    if plan.unused:
        warnings.warn(f"{name}: in {folder}, but unused by this class: {', '.join(plan.unused)}", stacklevel=3)
    return uninitialised


def _place(array: np.ndarray, sharding: NamedSharding | None) -> jax.Array:
    if sharding is None:
        return jax.device_put(array)  # shares the memory on CPU, where jnp.asarray would copy
    # Each process provides only the shards of its local devices.
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _initialise(
    model: Model, paths: list[str], key: jax.Array, placement: Mapping[str, NamedSharding]
) -> dict[str, jax.Array]:
    def init(key: jax.Array) -> dict[str, jax.Array]:
        flat = flatten(initial(model, key))
        return {path: flat[path] for path in paths}

    return jax.jit(init, out_shardings={path: placement[path] for path in paths} if placement else None)(key)


# The parts of a RAG, with the class that loads each.
_PARTS = {"question_encoder": "DPRQuestionEncoder", "generator": "AutoModelForSeq2SeqLM"}
# Options that cannot differ between the parts.
_WHOLE_MODEL = (
    *("dtype", "param_dtype", "attention", "remat", "unroll", "mesh", "rules", "cls"),
    *("torch_dtype", "attn_implementation", "gradient_checkpointing"),
)


def load_rag(
    question_encoder: str | Path,
    generator: str | Path,
    *,
    cls: type[Model] | str = RagSequenceForGeneration,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    attention: str | None = None,
    remat: Remat | None = None,
    unroll: bool = False,
    ignore_mismatched_sizes: bool = False,
    key: jax.Array | None = None,
    token: HubToken = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
    torch_dtype: Any = None,
    attn_implementation: str | None = None,
    gradient_checkpointing: bool | None = None,
    **overrides: ConfigValue,
) -> tuple[Model, dict[str, Any]]:
    """Loads a RAG model from the checkpoints of its two parts (docs/parity.md, A3).

    Reference: transformers/models/rag/modeling_rag.py, `from_pretrained_question_encoder_generator`.

    Args:
      question_encoder: folder or Hub id of a DPR question encoder.
      generator: folder or Hub id of a BART or T5.
      cls: RagModel, RagSequenceForGeneration or RagTokenForGeneration, or its name.
      dtype, param_dtype, mesh, rules, attention, remat, unroll, ignore_mismatched_sizes, key, token, cache_dir,
        local_files_only, force_download, torch_dtype, attn_implementation, gradient_checkpointing: see `load`; apply
        to both parts.
      overrides: with the prefix `question_encoder_` or `generator_`, options of `load` for one part
        (generator_revision, generator_max_position_embeddings, ...); others are fields of the `RagConfig`
        (n_docs, ...).

    Returns:
      The model, and its parameters as a nested dict.

    Raises:
      TypeError: a class that is not RAG's, an option that cannot differ between the parts with a prefix; and what
        `load` raises.

    Examples:
      >>> rag, params = jm.load_rag("facebook/dpr-question_encoder-single-nq-base", "facebook/bart-base", n_docs=2)
      >>> rag.config.n_docs
      2
    """
    chosen = MODELS.get(cls) if isinstance(cls, str) else cls
    if not (isinstance(chosen, type) and issubclass(chosen, RagPreTrainedModel)):
        raise TypeError(f"cls must be RagModel, RagSequenceForGeneration or RagTokenForGeneration, got {brief(cls)}")
    options: dict[str, Any] = dict(overrides)
    reject_unsupported_options(options, _RAG_PARAMETERS, "load_rag has no option")
    run = LoadOptions(dtype, param_dtype, attention, remat).merge(
        torch_dtype=torch_dtype, attn_implementation=attn_implementation, gradient_checkpointing=gradient_checkpointing
    )
    shared: dict[str, Any] = {
        **run._asdict(),
        "mesh": mesh,
        "rules": rules,
        "unroll": unroll,
        "ignore_mismatched_sizes": ignore_mismatched_sizes,
        "key": key,
        "token": token,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    params: dict[str, Any] = {}
    models: dict[str, Model] = {}
    for part, source in (("question_encoder", question_encoder), ("generator", generator)):
        prefix = f"{part}_"
        separate = {name.removeprefix(prefix): options.pop(name) for name in list(options) if name.startswith(prefix)}
        for name in separate:
            if name in _WHOLE_MODEL:
                raise TypeError(f"load_rag has no option {prefix + name!r}: it applies to the whole model, use {name}=")
        models[part], params[part] = load(source, **{"cls": _PARTS[part], **shared, **separate})
    runs = [{name: getattr(model, name) for name in (*LoadOptions._fields, "unroll")} for model in models.values()]
    if runs[0] != runs[1]:
        raise ValueError(
            f"the files of the two parts have different dtypes, {runs[0]['dtype']} and {runs[1]['dtype']}; pass dtype="
        )
    config = RagConfig(
        question_encoder=models["question_encoder"].config, generator=models["generator"].config, **options
    )
    return chosen(config, **runs[0]), params if chosen is RagModel else {"rag": params}


# Without the two names of the parts, which are prefixes of overrides.
_RAG_PARAMETERS = tuple(
    name
    for name, parameter in inspect.signature(load_rag).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)
