"""The families, and which class a checkpoint or an auto-class name means (PARITY C17)."""

from jaxmodels.architectures import gpt2
from jaxmodels.architectures.base import Model
from jaxmodels.config import Config

FAMILIES = (gpt2,)

MODELS: dict[str, type[Model]] = {
    name: value
    for family in FAMILIES
    for name, value in vars(family).items()
    if isinstance(value, type) and issubclass(value, Model) and not name.endswith("PreTrainedModel")
}
CONFIGS: dict[str, type[Config]] = {model.config_class.model_type: model.config_class for model in MODELS.values()}

AUTO: dict[str, dict[str, type[Model]]] = {
    "AutoModel": {"gpt2": gpt2.GPT2Model},
    "AutoModelForCausalLM": {"gpt2": gpt2.GPT2LMHeadModel},
    "AutoModelForPreTraining": {"gpt2": gpt2.GPT2LMHeadModel},
    "AutoModelForQuestionAnswering": {"gpt2": gpt2.GPT2ForQuestionAnswering},
    "AutoModelForSequenceClassification": {"gpt2": gpt2.GPT2ForSequenceClassification},
    "AutoModelForTokenClassification": {"gpt2": gpt2.GPT2ForTokenClassification},
    "AutoModelWithLMHead": {"gpt2": gpt2.GPT2LMHeadModel},
}


def config_class(model_type: str | None) -> type[Config]:
    """The config of that model_type; ValueError lists the families there are."""
    if model_type not in CONFIGS:
        raise ValueError(f"model_type {model_type!r} is none of the families here: {', '.join(sorted(CONFIGS))}")
    return CONFIGS[model_type]


def model_class(choice: type[Model] | str | None, config: Config) -> type[Model]:
    """The class to load: the given one, one by name, an auto class, or the one that the config names."""
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
    raise ValueError(f"there is no class {named[0]!r}; there are {', '.join(sorted([*MODELS, *AUTO]))}")
