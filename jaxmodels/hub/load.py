"""Loading: tensors stream from the file, are rearranged, and land on their shards one parameter at a time."""

import dataclasses
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxmodels.architectures import config_class, model_class
from jaxmodels.architectures.base import Model
from jaxmodels.config import TEXT_IDS, Config, thaw
from jaxmodels.convert import Plan, WeightsError, assemble, plan
from jaxmodels.download import read_json
from jaxmodels.hub.folder import checkpoint_folder
from jaxmodels.parameters import abstract, flatten, initial, unflatten
from jaxmodels.sharding import Rules, shardings
from jaxmodels.tensor_files import open_folder
from jaxmodels.tensor_files.saved import SavedFolder, read_saved


def load(
    name: str | Path,
    *,
    cls: type[Model] | str | None = None,
    dtype=None,
    param_dtype=None,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    attention: str = "auto",
    remat: bool = False,
    unroll: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
    ignore_mismatched_sizes: bool = False,
    key: jax.Array | None = None,
    **config_changes,
) -> tuple[Model, dict]:
    """A model and its parameters from a folder or a Hub id; torch is not needed.

    Reads model.safetensors, pytorch_model.bin (both formats) and flax_model.msgpack, single or sharded.

    Args:
      name: folder, or Hub id like "openai-community/gpt2".
      cls: class, class name or auto-class name; None takes the one that the config names. A head that the file lacks
        is initialised (with `key`) and named in one warning.
      dtype: compute type; None is float32, "auto" the type of the file.
      param_dtype: storage type; None is `dtype`.
      mesh, rules: put every parameter straight onto its shards; peak host memory stays at the largest parameter.
      attention, remat, unroll: see `Model`.
      revision, subfolder: of a Hub repository.
      ignore_mismatched_sizes: initialise parameters whose shape differs, with a warning.
      config_changes: other values for keys of the config, e.g. num_labels=5; or attributes of the class itself, e.g.
        add_pooling_layer=False.

    Raises:
      FileNotFoundError: no such folder or repository, or no weights in it.
      WeightsError: the file does not fit the model; three lists of names.
      TensorFileError: a damaged or hostile file.
      ValueError: a config of another family, an unknown key, a mesh that does not fit.
    """
    folder = checkpoint_folder(name, revision=revision, subfolder=subfolder)
    # Once more where a save comes in between, so from a copy of the changes, which are taken out one by one.
    (config, choices), entries = read_saved(
        folder, lambda saved: (_config(saved, cls, {**config_changes}), open_folder(saved))
    )
    if (mesh is None) != (rules is None):
        raise ValueError("mesh and rules go together: give both or neither")
    compute, stored = _dtypes(dtype, param_dtype, config, entries)
    choices |= {"attention": attention, "remat": remat, "unroll": unroll}
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


def kept_heads(model: Model) -> dict[int, list[int]]:
    """For each layer with pruned heads, those that are left: the files hold only these."""
    config = model.config
    return {
        layer: [h for h in range(config.num_attention_heads) if h not in gone]
        for layer, gone in config.pruned_heads.items()
        if gone
    }


def _config(folder: SavedFolder, cls: type[Model] | str | None, changes: dict) -> tuple[Config, dict]:
    """The config with the changes, and those of them that are attributes of the class."""
    values = read_json(folder / "config.json")
    config = config_class(values.get("model_type"), cls).from_dict(values)
    if (folder / "generation_config.json").is_file():
        settings = {
            name: value
            for name, value in read_json(folder / "generation_config.json").items()
            if not (name in TEXT_IDS and value == thaw(getattr(config, name)))
        }
        # As in the reference: a file that was not made from config.json takes the place of the settings in there, and
        # those that a family has by default. In the other kind a setting may still be missing.
        older = config.generation if settings.get("_from_model_config") else dict.fromkeys(config.generation_defaults)
        config = config.replace(generation={**older, **settings})
    common = {field.name for field in dataclasses.fields(Model)}
    own = {field.name for field in dataclasses.fields(model_class(cls, config))} - common
    choices = {name: changes.pop(name) for name in own & changes.keys()}
    return config.replace(**changes) if changes else config, choices


def _dtypes(dtype, param_dtype, config: Config, entries) -> tuple[jnp.dtype, jnp.dtype]:
    if dtype == "auto":
        dtype = config.torch_dtype or next(e.dtype for e in entries.values() if e.dtype.kind in "fV")
    compute = jnp.dtype(jnp.float32 if dtype is None else dtype)
    stored = compute if param_dtype is None else jnp.dtype(param_dtype)
    for what, kind in (("dtype", compute), ("param_dtype", stored)):
        if not jnp.issubdtype(kind, jnp.floating):
            raise ValueError(f"{what} is a floating type such as 'bfloat16', got {kind}")
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
