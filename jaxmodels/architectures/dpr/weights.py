"""DPR's weight tables: one list of BERT's parameters, under three names."""

from jaxmodels.architectures.bert_like import BUFFERS, OLD_NAMES, POST_NORM_RULES
from jaxmodels.architectures.rules import dense_rules
from jaxmodels.convert import Rule, Table


def _table(encoder: str, *heads: Rule) -> Table:
    """The table of a class whose encoder goes by that name; BERT's own files load too, with or without `bert.`."""
    return Table(
        base=f"{encoder}.bert_model",
        other_bases=("bert",),
        rules=POST_NORM_RULES,
        heads=(*dense_rules(f"{encoder}.encode_proj", f"{encoder.replace('.', '/')}/encode_proj"), *heads),
        ignored=BUFFERS,
        unused={
            r"pooler\..*": "BERT's pooler; older DPR files have one as well",
            r"cls\..*": "BERT's pretraining heads",
            r"classifier\..*|qa_outputs\..*": "heads of fine-tuned BERT models",
        },
        old_names=OLD_NAMES,
    )


CONTEXT = _table("ctx_encoder")
QUESTION = _table("question_encoder")
READER = _table(
    "span_predictor.encoder",
    *dense_rules("span_predictor.qa_outputs", "span_predictor/qa_outputs"),
    *dense_rules("span_predictor.qa_classifier", "span_predictor/qa_classifier"),
)
