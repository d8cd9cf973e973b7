"""RAG's facts (reference: transformers/models/rag/configuration_rag.py; docs/parity.md, A2)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from jaxmodels.architectures.bart.config import BartConfig
from jaxmodels.architectures.checks import check_positive
from jaxmodels.architectures.dpr.config import DPRConfig
from jaxmodels.architectures.t5.config import T5Config
from jaxmodels.config import TEXT_IDS, Config, thaw

QUESTION_ENCODERS: dict[str, type[Config]] = {"dpr": DPRConfig}
GENERATORS: dict[str, type[Config]] = {"bart": BartConfig, "t5": T5Config}


class RagConfig(Config):
    """Configuration of RAG: a question encoder's, a generator's, and how documents are found and put together.

    `question_encoder` and `generator` are configs, or dicts with a model_type ("dpr"; "bart" or "t5"). Token ids and
    generation settings that are not given are the generator's. The keys that say where the reference's index lies
    (dataset, index_name, index_path, ...) are kept: an index here is an object that the caller makes.
    """

    model_type: ClassVar[str] = "rag"
    no_effect: ClassVar[Mapping[str, str]] = {
        name: "where the reference finds its index; here the caller hands one over"
        for name in (
            "dataset",
            "dataset_split",
            "dataset_revision",
            "index_name",
            "index_path",
            "passages_path",
            "use_dummy_dataset",
        )
    }

    question_encoder: Config | None = None
    generator: Config | None = None
    vocab_size: int | None = None
    is_encoder_decoder: bool = True
    prefix: str | None = None
    title_sep: str = " / "
    doc_sep: str = " // "
    n_docs: int = 5
    max_combined_length: int = 300
    retrieval_vector_size: int = 768
    retrieval_batch_size: int = 8
    reduce_loss: bool = False
    label_smoothing: float = 0.0
    do_deduplication: bool = True
    exclude_bos_score: bool = False
    do_marginalize: bool = False
    output_retrieved: bool = False

    def __init__(self, **values):
        for name, kinds in (("question_encoder", QUESTION_ENCODERS), ("generator", GENERATORS)):
            values[name] = _part(name, values.get(name), kinds)
        generator = values["generator"]
        for name in TEXT_IDS:
            if values.get(name) is None:
                values[name] = getattr(generator, name)
        if values.get("vocab_size") is None:
            values["vocab_size"] = generator.vocab_size
        given = {name: value for name, value in values.pop("generation", {}).items()}
        super().__init__(**{**values, "generation": {**thaw(generator.generation), **given}})

    @classmethod
    def from_question_encoder_generator_configs(cls, question_encoder: Config, generator: Config, **values) -> Self:
        """From the configs of the two parts, and the keys of RAG's own."""
        return cls(question_encoder=question_encoder, generator=generator, **values)

    @property
    def hidden_size(self) -> int:
        """The generator's."""
        return self.generator.hidden_size

    def validate(self):
        check_positive(self, "n_docs", "max_combined_length", "retrieval_vector_size", "retrieval_batch_size")
        if self.pruned_heads:
            raise ValueError(
                f"RagConfig: pruned_heads={dict(self.pruned_heads)}, but a RAG has no heads of its own; prune those of "
                "its question encoder"
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"RagConfig: label_smoothing is in [0, 1), got {self.label_smoothing!r}")

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        return values | {name: getattr(self, name).to_dict() for name in ("question_encoder", "generator")}

    def _values(self) -> dict[str, Any]:
        values = super()._values()
        return values | {name: getattr(self, name).to_dict() for name in ("question_encoder", "generator")}


def _part(name: str, value: Config | Mapping[str, Any] | None, kinds: Mapping[str, type[Config]]) -> Config:
    if isinstance(value, tuple(kinds.values())):
        return value
    kind = value.get("model_type") if isinstance(value, Mapping) else getattr(value, "model_type", value)
    if not isinstance(value, Mapping) or kind not in kinds:
        raise ValueError(f"RagConfig: {name} is a config of {' or '.join(kinds)}, got {kind!r}")
    return kinds[kind].from_dict(value)
