"""The model families, and the classes that checkpoints and auto classes stand for (docs/parity.md, C17)."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.architectures import bart, bert, dpr, gpt2, gpt_neo, led, llama, rag, roberta, roberta_prelayernorm, t5
from jaxmodels.architectures.base import Model
from jaxmodels.config import Config
from jaxmodels.messages import brief, unknown_name

FAMILIES = (gpt2, dpr, roberta_prelayernorm, bart, led, t5, rag, gpt_neo, llama, bert, roberta)

MODELS: dict[str, type[Model]] = {}
CONFIGS: dict[str, type[Config]] = {}
# For the auto classes of the reference, the class of each family by its model_type.
AUTO: dict[str, dict[str, type[Model]]] = {}


def register(*models: type[Model]) -> None:
    """Adds the classes of a family from elsewhere: `load`, `convert` and auto classes then know them.

    A notebook may run the cell again that defines and registers a class. Tokenizers follow from the folder, see
    `load_tokenizer`.

    Raises:
      TypeError: not a class of a model.
      ValueError: a class without a config class, model_type or weight table, or whose name, model_type or auto class is
        taken.
    """
    for model in models:
        _check_registration(model)
    for model in models:
        MODELS[model.__name__] = model
        CONFIGS[model.config_class.model_type] = model.config_class
        for name in model.auto_classes:
            AUTO.setdefault(name, {})[model.config_class.model_type] = model


def _check_registration(model: Any) -> None:
    if not (isinstance(model, type) and issubclass(model, Model)):
        raise TypeError(f"register takes classes of models, got {brief(model)}")
    for attribute, kind in (("config_class", "a subclass of Config"), ("table", "a weight table")):
        if not hasattr(model, attribute):
            raise ValueError(f"{model.__name__}.{attribute} is {kind}, or `body` names a class that has one; got none")
    family = getattr(model.config_class, "model_type", None)
    if not family:
        raise ValueError(f"{model.config_class.__name__}.model_type is the name of the family in config.json; got none")
    others: list[tuple[type | None, str]] = [(MODELS.get(model.__name__), f"the name {model.__name__}")]
    others += [(CONFIGS.get(family), f"the model_type {family!r}")] if CONFIGS.get(family) != model.config_class else []
    others += [(AUTO.get(name, {}).get(family), f"{name} of {family!r}") for name in model.auto_classes]
    for other, what in others:
        if other is not None and other.__module__ != model.__module__:
            raise ValueError(
                f"{what} is taken by {other.__module__}.{other.__name__}; give {model.__name__} another one"
            )


for _family in FAMILIES:
    register(
        *(
            value
            for name, value in vars(_family).items()
            if isinstance(value, type) and issubclass(value, Model) and value.__module__.startswith(_family.__name__)
            if not name.endswith("PreTrainedModel")
        )
    )


def check_choice(choice: type[Model] | str | None) -> None:
    """Raises ValueError for a name of no class that `load` takes, TypeError for what is neither name nor class."""
    if isinstance(choice, str):
        if choice not in MODELS and choice not in AUTO:
            raise ValueError(unknown_name("there is no class", choice, [*MODELS, *AUTO]))
    elif choice is not None and not (isinstance(choice, type) and issubclass(choice, Model)):
        raise TypeError(f"cls is a class of jaxmodels, its name or that of an auto class, got {brief(choice)}")


def config_class(values: Mapping[str, Any], choice: type[Model] | str | None = None) -> type[Config]:
    """The class that reads a config.json with these values.

    Args:
      choice: the class to load, which may read the checkpoints of a relative (DPR's encoders read BERT's), and says the
        family where the file has no model_type; else the file's `architectures` do.

    Raises:
      ValueError: another family; the message lists those that are here.
    """
    check_choice(choice)
    family, named = values.get("model_type"), values.get("architectures")
    chosen = MODELS.get(choice) if isinstance(choice, str) else choice
    if family is None:
        if chosen is None and isinstance(named, list):
            chosen = next((MODELS[name] for name in named if isinstance(name, str) and name in MODELS), None)
        if chosen is None:
            raise ValueError(
                "config.json has no model_type, and its architectures name no class that is here; pass cls=, one of "
                f"{', '.join(sorted(MODELS))}"
            )
        return chosen.config_class
    if chosen is not None and family in list(chosen.config_class.compatible_model_types):
        return chosen.config_class
    if isinstance(family, str) and family in CONFIGS:
        return CONFIGS[family]
    raise ValueError(f"model_type {brief(family)} is none of the families here: {', '.join(sorted(CONFIGS))}")


def model_class(choice: type[Model] | str | None, config: Config) -> type[Model]:
    """The class to load: a class, a name, an auto class, or the class that the config names."""
    if isinstance(choice, type):
        return choice
    if choice in AUTO:
        if config.model_type not in AUTO[choice]:
            raise ValueError(f"{choice} has no class for {config.model_type!r}; it has {', '.join(AUTO[choice])}")
        return AUTO[choice][config.model_type]
    named = [choice] if choice is not None else list(config.architectures or ())
    for name in named:
        if name in MODELS:
            return MODELS[name]
    if not named:
        return AUTO["AutoModel"][config.model_type]
    raise ValueError(unknown_name("there is no class", named[0], [*MODELS, *AUTO]))
