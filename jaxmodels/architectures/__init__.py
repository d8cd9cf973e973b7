"""The families, and which class a checkpoint or an auto-class name means (docs/parity.md, C17)."""

from jaxmodels.architectures import bart, dpr, gpt2, led, rag, roberta_prelayernorm, t5
from jaxmodels.architectures.base import Model
from jaxmodels.config import Config

FAMILIES = (gpt2, dpr, roberta_prelayernorm, bart, led, t5, rag)

MODELS: dict[str, type[Model]] = {
    name: value
    for family in FAMILIES
    for name, value in vars(family).items()
    if isinstance(value, type) and issubclass(value, Model) and not name.endswith("PreTrainedModel")
}
CONFIGS: dict[str, type[Config]] = {model.config_class.model_type: model.config_class for model in MODELS.values()}

_ROBERTA = "roberta-prelayernorm"
AUTO: dict[str, dict[str, type[Model]]] = {
    "AutoModel": {
        "bart": bart.BartModel,
        "gpt2": gpt2.GPT2Model,
        "led": led.LEDModel,
        "dpr": dpr.DPRQuestionEncoder,
        "rag": rag.RagModel,
        _ROBERTA: roberta_prelayernorm.RobertaPreLayerNormModel,
        "t5": t5.T5Model,
    },
    "AutoModelForCausalLM": {
        "gpt2": gpt2.GPT2LMHeadModel,
        _ROBERTA: roberta_prelayernorm.RobertaPreLayerNormForCausalLM,
    },
    "AutoModelForMaskedLM": {
        "bart": bart.BartForConditionalGeneration,
        _ROBERTA: roberta_prelayernorm.RobertaPreLayerNormForMaskedLM,
    },
    "AutoModelForMultipleChoice": {_ROBERTA: roberta_prelayernorm.RobertaPreLayerNormForMultipleChoice},
    "AutoModelForPreTraining": {
        "bart": bart.BartForConditionalGeneration,
        "gpt2": gpt2.GPT2LMHeadModel,
        _ROBERTA: roberta_prelayernorm.RobertaPreLayerNormForMaskedLM,
        "t5": t5.T5ForConditionalGeneration,
    },
    "AutoModelForQuestionAnswering": {
        "led": led.LEDForQuestionAnswering,
        "gpt2": gpt2.GPT2ForQuestionAnswering,
        _ROBERTA: roberta_prelayernorm.RobertaPreLayerNormForQuestionAnswering,
    },
    "AutoModelForSeq2SeqLM": {
        "bart": bart.BartForConditionalGeneration,
        "led": led.LEDForConditionalGeneration,
        "t5": t5.T5ForConditionalGeneration,
    },
    "AutoModelForSequenceClassification": {
        "led": led.LEDForSequenceClassification,
        "gpt2": gpt2.GPT2ForSequenceClassification,
        _ROBERTA: roberta_prelayernorm.RobertaPreLayerNormForSequenceClassification,
    },
    "AutoModelForTokenClassification": {
        "gpt2": gpt2.GPT2ForTokenClassification,
        _ROBERTA: roberta_prelayernorm.RobertaPreLayerNormForTokenClassification,
    },
    "AutoModelWithLMHead": {
        "bart": bart.BartForConditionalGeneration,
        "led": led.LEDForConditionalGeneration,
        "gpt2": gpt2.GPT2LMHeadModel,
        _ROBERTA: roberta_prelayernorm.RobertaPreLayerNormForMaskedLM,
        "t5": t5.T5ForConditionalGeneration,
    },
}


def config_class(model_type: str | None, choice: type[Model] | str | None = None) -> type[Config]:
    """The config of that model_type.

    Args:
      choice: the class to load, which may read the checkpoints of a relative (DPR's encoders read BERT's).

    Raises:
      ValueError: another family; the message lists those that are here.
    """
    if model_type in CONFIGS:
        return CONFIGS[model_type]
    chosen = MODELS.get(choice) if isinstance(choice, str) else choice
    if chosen is not None and model_type in chosen.config_class.relatives:
        return chosen.config_class
    readers = sorted(name for name, model in MODELS.items() if model_type in model.config_class.relatives)
    hint = f"; its weights load into {', '.join(readers)}: pass cls=" if readers else ""
    raise ValueError(f"model_type {model_type!r} is none of the families here: {', '.join(sorted(CONFIGS))}{hint}")


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
