"""The names that `jaxmodels` exports: static imports, complete, and the same in `__all__`."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest

import jaxmodels as jm
from jaxmodels.architectures import AUTO, CONFIGS, MODELS, decoder, encoder, inputs, seq2seq
from jaxmodels.architectures.rag import model as rag_model
from jaxmodels.outputs import Output

SOURCE = Path(jm.__file__).read_text(encoding="utf-8")


def test_every_model_and_config_is_exported():
    missing = [name for name in (*MODELS, *(config.__name__ for config in CONFIGS.values())) if not hasattr(jm, name)]
    assert not missing, f"import these in jaxmodels/__init__.py: {missing}"
    assert all(getattr(jm, name) is model for name, model in MODELS.items())


def test_exports_are_static_imports():
    imported = {
        alias.asname or alias.name
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(jm.__all__) == imported
    assert list(jm.__all__) == sorted(jm.__all__)


@pytest.mark.parametrize("name", MODELS)
def test_a_head_has_the_config_and_the_weights_of_its_base_model(name):
    model = MODELS[name]
    if model.body is not None:
        assert model.body in MODELS.values() and model.config_class is model.body.config_class
        # A head may be stored under another name, but the base model in it never is.
        assert model.table is model.body.table or model.table.rules is model.body.table.rules
    assert issubclass(model.config_class, CONFIGS[model.config_class.model_type])


def test_auto_classes_name_one_class_for_each_family():
    claims = [(auto, model.config_class.model_type) for model in MODELS.values() for auto in model.auto_classes]
    assert len(claims) == len(set(claims)) == sum(map(len, AUTO.values()))


def classes_of_the_package(cls: type) -> int:
    """Length of the longest chain of classes of jaxmodels from this one up."""
    above = [base for base in cls.__bases__ if base.__module__.startswith("jaxmodels")]
    return 1 + max(map(classes_of_the_package, above), default=0)


@pytest.mark.parametrize("name", MODELS)
def test_classes_are_at_most_four_deep(name):
    assert classes_of_the_package(MODELS[name]) <= 4


def test_outputs_hold_what_they_always_have():
    """Fields without a default are those that every call fills."""
    required = {
        field.name
        for kind in (jm.GenerateOutput, *Output.__subclasses__())
        if "experiments" not in kind.__module__
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING
    }
    assert {"last_hidden_state", "logits", "sequences", "start_logits", "end_logits"} <= required
    assert not required & {"loss", "cache", "attentions", "hidden_states", "cross_attentions"}


@pytest.mark.parametrize(
    ("inputs", "call", "beside"),
    [
        (inputs.TransformerInputs, decoder.DecoderModel.__call__, ()),
        (inputs.TransformerInputs, encoder.EncoderModel.__call__, ()),
        (seq2seq.Seq2SeqInputs, seq2seq.Seq2SeqModel.__call__, jm.LEDModel.encoding_options),
        (seq2seq.DecodeInputs, seq2seq.Seq2SeqModel.decode, ()),
        (seq2seq.EncodeInputs, seq2seq.Seq2SeqModel.encode, ("return_dict", *jm.LEDModel.encoding_options)),
        (rag_model.RagInputs, jm.RagModel.__call__, ()),
    ],
)
def test_typed_keywords_are_those_of_the_base_model(inputs, call, beside):
    names = {name for name, p in inspect.signature(call).parameters.items() if p.kind is p.KEYWORD_ONLY}
    explicit = {"return_dict"} | ({"decoder_input_ids"} if inputs is rag_model.RagInputs else set())
    assert set(inputs.__annotations__) == (names - explicit) | set(beside)


@pytest.mark.parametrize("name", MODELS)
def test_a_class_says_what_it_is(name):
    """Flax would put the signature in the place of a missing docstring; a head that adds nothing has its base's."""
    assert not MODELS[name].__doc__.startswith(f"{name}(")
