"""RoBERTa (Liu et al., 2019, arXiv:1907.11692; reference: transformers/models/roberta): BERT with another head for
language and for classification, whose positions count the tokens that are not padding."""

from typing import ClassVar

from jaxmodels.architectures import encoder_heads as heads
from jaxmodels.architectures.bert_like import BUFFERS, POST_NORM_HEAD_RULES, POST_NORM_RULES, BertHeadsConfig
from jaxmodels.architectures.encoder import EncoderModel
from jaxmodels.architectures.rules import dense_rules, norm_rules
from jaxmodels.config.fields import NumEmbeddings, TokenId
from jaxmodels.convert import Rule, Table


class RobertaLikeConfig(BertHeadsConfig):
    """Fields of RoBERTa and RoBERTa-PreLayerNorm, with Hugging Face's names and defaults."""

    vocab_size: NumEmbeddings = 50265
    pad_token_id: TokenId | None = 1
    bos_token_id: TokenId | None = 0
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 2

    @property
    def head_act(self) -> str:
        return "gelu"  # whatever hidden_act is (docs/parity.md, R8)

    @property
    def max_tokens(self) -> int:
        """Positions are counted from pad_token_id + 1."""
        return self.max_position_embeddings - (0 if self.is_relative else self.position_range[0])

    @property
    def position_range(self) -> tuple[int, int]:
        assert self.pad_token_id is not None  # validate saw to it
        return self.pad_token_id + 1, self.pad_token_id

    def validate(self) -> None:
        super().validate()
        name = type(self).__name__
        if self.pad_token_id is None:
            raise ValueError(f"{name}: pad_token_id must be set, position ids start after it")
        if self.pad_token_id + 1 >= self.max_position_embeddings:
            raise ValueError(
                f"{name}: position ids start at pad_token_id + 1 = {self.pad_token_id + 1}, which must be less than "
                f"max_position_embeddings={self.max_position_embeddings}"
            )


class RobertaConfig(RobertaLikeConfig):
    """Configuration of RoBERTa, with Hugging Face's names and defaults."""

    model_type: ClassVar[str] = "roberta"


def roberta_table(base: str, rules: tuple[Rule, ...], head_rules: tuple[Rule, ...]) -> Table:
    """The weight table of a family with RoBERTa's heads.

    Args:
      base: name of the base model within the models with a head.
      rules: of the base model.
      head_rules: of a pooler, cross attention and the heads that are BERT's.
    """
    return Table(
        base=base,
        rules=rules,
        heads=(
            *head_rules,
            *dense_rules("lm_head.dense", "lm_head/dense"),
            *norm_rules("lm_head.layer_norm", "lm_head/norm"),
            Rule("lm_head.bias", "lm_head/bias"),
            Rule("lm_head.decoder.weight", "lm_head/decoder/kernel", "v d -> d v"),
            *dense_rules("classifier.dense", "classifier/dense"),
            *dense_rules("classifier.out_proj", "classifier/out_proj"),
        ),
        ignored=BUFFERS,
        tied={"lm_head.decoder.weight": "embeddings.word_embeddings.weight"},
        # One parameter; files may hold it under either name.
        repeats={"lm_head.decoder.bias": "lm_head.bias"},
    )


class RobertaModel(EncoderModel):
    config_class = RobertaConfig
    table = roberta_table("roberta", POST_NORM_RULES, POST_NORM_HEAD_RULES)
    counts_tokens = True


class RobertaForMaskedLM(heads.EncoderForMaskedLM):
    body = RobertaModel


class RobertaForCausalLM(heads.EncoderForCausalLM):
    body = RobertaModel


class RobertaForSequenceClassification(heads.EncoderForSequenceClassification):
    body = RobertaModel


class RobertaForMultipleChoice(heads.EncoderForMultipleChoice):
    body = RobertaModel


class RobertaForTokenClassification(heads.EncoderForTokenClassification):
    body = RobertaModel


class RobertaForQuestionAnswering(heads.EncoderForQuestionAnswering):
    body = RobertaModel
