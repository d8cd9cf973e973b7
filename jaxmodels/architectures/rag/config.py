"""Configuration of RAG (reference: transformers/models/rag/configuration_rag.py; docs/parity.md, A2)."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from jaxmodels.architectures.bart.config import BartConfig
from jaxmodels.architectures.dpr.config import DPRConfig
from jaxmodels.architectures.t5.config import T5Config
from jaxmodels.config import SPECIAL_TOKEN_IDS, Config
from jaxmodels.config.fields import LabelSmoothing, NumEmbeddings, PositiveInt, Validator
from jaxmodels.messages import brief

PARTS: dict[str, dict[str, type[Config]]] = {
    "question_encoder": {"dpr": DPRConfig},
    "generator": {"bart": BartConfig, "t5": T5Config},
}


def _class_of(name: str, part: Any) -> type[Config]:
    """The configuration class for a part, from its `model_type`."""
    classes = PARTS[name]
    model_type = part.get("model_type") if isinstance(part, Mapping) else getattr(part, "model_type", part)
    if not (isinstance(part, Mapping) and isinstance(model_type, str) and model_type in classes):
        raise ValueError(f"RagConfig: {name} must be a config of {' or '.join(classes)}, got {brief(model_type)}")
    return classes[model_type]


def _part(name: str) -> Validator:
    classes = tuple(PARTS[name].values())
    return Validator(
        "", lambda part: part if isinstance(part, classes) else _class_of(name, part).from_file_values(part)
    )


class RagConfig(Config):
    """Configuration of RAG: the question encoder, the generator, and the retrieval and concatenation of documents.

    `question_encoder` and `generator` are configs, or dicts with a model_type ("dpr"; "bart" or "t5"). Token ids and
    generation settings default to the generator's. The fields from `dataset` on tell `RagRetriever.from_pretrained`
    where the index is.
    """

    model_type: ClassVar[str] = "rag"

    question_encoder: Annotated[Config | None, _part("question_encoder")] = None
    generator: Annotated[Config | None, _part("generator")] = None
    vocab_size: NumEmbeddings | None = None
    is_encoder_decoder: bool = True
    title_sep: str = " / "
    doc_sep: str = " // "
    n_docs: PositiveInt = 5
    max_combined_length: PositiveInt = 300
    retrieval_vector_size: PositiveInt = 768
    retrieval_batch_size: PositiveInt = 8
    reduce_loss: bool = False
    label_smoothing: LabelSmoothing = 0.0
    do_deduplication: bool = True
    exclude_bos_score: bool = False
    do_marginalize: bool = False
    output_retrieved: bool = False
    dataset: str | None = "wiki_dpr"
    dataset_split: str | None = "train"
    dataset_revision: str | None = None
    index_name: str = "compressed"
    index_path: str | None = None
    passages_path: str | None = None
    use_dummy_dataset: bool = False

    @classmethod
    def unknown_keys(cls, values: Mapping[str, Any]) -> list[str]:
        unknown = super().unknown_keys(values)
        for name in PARTS:
            if isinstance(part := values.get(name), Mapping):
                unknown += [f"{name}.{key}" for key in _class_of(name, part).unknown_keys(part)]
        return unknown

    @classmethod
    def derive_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in PARTS:
            if name not in values:
                _class_of(name, None)
        generator = values["generator"]
        for name in (*SPECIAL_TOKEN_IDS, "vocab_size"):
            if values.get(name) is None:
                values[name] = getattr(generator, name)
        return values | {"generation": {**generator.generation, **values["generation"]}}

    @classmethod
    def from_question_encoder_generator_configs(cls, question_encoder: Config, generator: Config, **values) -> Self:
        """Creates a configuration from those of the two parts and further fields of RAG."""
        return cls(question_encoder=question_encoder, generator=generator, **values)

    @property
    def hidden_size(self) -> int:
        """The hidden size of the generator."""
        assert self.generator is not None  # set by derive_values
        return self.generator.hidden_size

    @property
    def max_tokens(self) -> int:
        """The longest answer, in tokens."""
        assert self.generator is not None
        return self.generator.max_tokens

    @property
    def cache_sizes(self) -> dict[str, int] | None:
        """The generator's; its batch is [B*n_docs]."""
        assert self.generator is not None
        return self.generator.cache_sizes

    def validate(self) -> None:
        if self.pruned_heads:
            raise ValueError(
                f"RagConfig: pruned_heads={dict(self.pruned_heads)}, but RAG has no attention heads of its own; prune "
                "those of its question encoder"
            )

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        return values | {name: getattr(self, name).to_dict() for name in PARTS}

    def _values(self) -> dict[str, Any]:
        values = super()._values()
        return values | {name: getattr(self, name).to_dict() for name in PARTS}
