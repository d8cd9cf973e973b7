"""What a run trains of a model: all parameters, those that are not frozen, or low-rank adapters (LoRA)."""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.messages import MAX_NAMES, truncate
from jaxmodels.parameters import abstract, flatten, initial, unflatten
from jaxmodels.training import Trainable

from .configs.finetune import LORA
from .loop import Sharding


class Tuning(NamedTuple):
    """What a run trains.

    Attributes:
      plain: The model without adapters.
      model: The model of the training step, with adapters if the config asks for LoRA.
      trainable: Which of its parameters are trained; None for all.
      alpha: Alpha of the adapters; None without.
      head: Paths of the parameters that are new and trained without an adapter.
    """

    plain: Any
    model: Any
    trainable: Trainable | None = None
    alpha: float | None = None
    head: tuple[str, ...] = ()

    def start(self, params: dict, key: jax.Array, sharding: Sharding) -> dict:
        """Return the parameters of the first step: those of the plain model, and new adapters."""
        if self.alpha is None:
            return params
        placed = flatten(jm.sharding.shardings(self.model, **sharding))
        added = {path: place for path, place in placed.items() if path not in flatten(params)}

        def init(key: jax.Array) -> dict[str, jax.Array]:
            flat = flatten(initial(self.model, key))
            return {path: flat[path] for path in added}

        return unflatten(flatten(params) | jax.jit(init, out_shardings=added)(key))

    def merge(self, params: dict, sharding: Sharding) -> dict:
        """Return the parameters of the plain model."""
        if self.alpha is None:
            return params
        shardings = jm.sharding.shardings(self.plain, **sharding)
        return jax.jit(partial(jm.merge_adapter, alpha=self.alpha), out_shardings=shardings)(params)

    def counts(self) -> tuple[int, int]:
        """Return the numbers of parameters that are trained, and of all."""
        sizes = {path: leaf.size for path, leaf in flatten(abstract(self.model)).items()}
        trained = sum(size for path, size in sizes.items() if self.trainable is None or self.trainable(path))
        return trained, sum(sizes.values())


def make_tuning(config: FrozenConfigDict, model: nn.Module, *, new_head: bool) -> Tuning:
    """Return what config.lora and config.freeze leave to train.

    Args:
      config: The config; without these keys all parameters are trained.
      model: The model.
      new_head: Whether the checkpoint lacks the head, so that it is trained beside the adapters.

    Raises:
      ValueError: An invalid setting, or one that matches nothing or leaves nothing to train.
    """
    tuning = _with_adapters(config.lora, model, new_head) if "lora" in config else Tuning(model, model)
    return _without_frozen(tuning, config.get("freeze"))


def _with_adapters(lora: FrozenConfigDict, model: nn.Module, new_head: bool) -> Tuning:
    if lora.rank is None:
        if changed := [name for name, value in LORA.items() if lora[name] != value]:
            raise ValueError(f"lora.{changed[0]} is for LoRA, which --config.lora.rank=8 turns on")
        return Tuning(model, model)
    if not isinstance(model, Model):
        raise ValueError("lora.rank: this task trains several models together, without LoRA; leave it out")
    if lora.rank < 1 or not lora.alpha > 0:
        raise ValueError(
            f"lora.rank and lora.alpha must be above 0, got {lora.rank} and {lora.alpha}; to train without LoRA leave "
            "them out"
        )
    if lora.save not in ("merged", "adapter"):
        raise ValueError(f"lora.save is merged or adapter, got {lora.save!r}")
    adapted = _adapted(lora, model)
    base, paths = {rule.path for rule in model.table.rules}, flatten(abstract(model))
    head = tuple(path for path in paths if new_head and model.table.short_path(path) not in base)
    trained = {path for path in flatten(abstract(adapted)) if path not in paths or path in head}
    return Tuning(model, adapted, trained.__contains__, lora.alpha, head)


def _adapted(lora: FrozenConfigDict, model: Model) -> Model:
    """Return the model with adapters."""
    try:
        import qwix
    except ImportError:
        raise ValueError("lora.rank: LoRA needs qwix; run: pip install qwix") from None
    modules = [path.removesuffix("/kernel") for path in flatten(abstract(model)) if path.endswith("/kernel")]
    targets = _compiled("lora.targets", lora.targets)
    chosen = [path for path in modules if targets.search(path)]
    if not chosen:
        raise ValueError(f"lora.targets={lora.targets!r} is found in no path of a linear layer; {_listed(modules)}")
    exactly = "|".join(map(re.escape, chosen))
    return qwix.apply_lora_to_model(model, qwix.LoraProvider(module_path=exactly, rank=lora.rank, alpha=lora.alpha))


def _without_frozen(tuning: Tuning, freeze: str | None) -> Tuning:
    if not freeze:
        return tuning
    trained, pattern = tuning.trainable or (lambda path: True), _compiled("freeze", freeze)
    paths = [path for path in flatten(abstract(tuning.model)) if trained(path)]
    frozen = {path for path in paths if pattern.search(path)}
    if not frozen:
        raise ValueError(f"freeze={freeze!r} is found in no path of a parameter that is trained; {_listed(paths)}")
    if len(frozen) == len(paths):
        raise ValueError(f"freeze={freeze!r} is found in the path of every parameter: nothing is left to train")
    return tuning._replace(trainable=lambda path: trained(path) and path not in frozen)


def _compiled(name: str, pattern: str) -> re.Pattern[str]:
    """Compile the regular expression of a setting.

    Raises:
      ValueError: It is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name}={pattern!r} is not a regular expression: {error}") from None


def _listed(paths: Iterable[str]) -> str:
    return truncate("there are " + ", ".join(paths), MAX_NAMES)
