"""What a model is called with: arguments, masks, ids and random keys that would be misread are refused by name."""

from collections import UserDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids
from support.tiny import CLASSES, tiny

import jaxmodels as jm
from jaxmodels.architectures.calls import UNSUPPORTED, parameters

GOOD = ids((2, 4))
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
FAR = 2**32 + 5


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def call(model):
    return lambda *args, **options: model[0].apply({"params": model[1]}, *args, **options)


@pytest.mark.parametrize("name", CLASSES)
def test_names_of_other_libraries_are_refused_with_the_word_used_here(name):
    cls, params = getattr(jm, name), {"params": {}}
    one = tiny(name)[0] if name == "GPT2Model" else cls(cls.config_class())
    for foreign, words in UNSUPPORTED.items():
        with pytest.raises(TypeError) as error:
            one.apply(params, GOOD, **{foreign: True})
        assert f"{name} has no argument {foreign!r}: {words}" == str(error.value)


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_but_the_ids_goes_by_name(name):
    cls = getattr(jm, name)
    one = cls(cls.config_class())
    assert "input_ids" in parameters(cls, "__call__")
    with pytest.raises(TypeError, match=f"{name} takes input_ids positionally, all else by name .*attention_mask="):
        one.apply({"params": {}}, GOOD, MASK)
    with pytest.raises(TypeError, match="'attention_maks'; did you mean 'attention_mask'"):
        one.apply({"params": {}}, GOOD, attention_maks=MASK)
    with pytest.raises(TypeError, match="input_ids twice"):
        one.apply({"params": {}}, GOOD, input_ids=GOOD)


def test_the_former_name_of_the_run_options_warns():
    model = tiny()[0].clone(remat=True)
    with pytest.warns(FutureWarning, match="model.options.keywords"):
        choices = model.choices
    assert choices == model.options.keywords and choices["remat"] is True


def test_labels_of_a_class_without_any_name_those_that_have_some():
    one = tiny("GPT2Model")[0]
    with pytest.raises(TypeError, match="GPT2Model has no argument 'labels': it is an argument of GPT2LMHeadModel"):
        one.apply({"params": {}}, GOOD, labels=GOOD)


@pytest.mark.parametrize("kind", [dict, UserDict, jm.BatchEncoding])
def test_a_batch_goes_in_as_keywords(kind, call):
    batch = kind({"input_ids": GOOD, "attention_mask": MASK})
    with pytest.raises(TypeError, match=r"input_ids is an array, got a .* of input_ids, attention_mask.*\*\*batch"):
        call(batch)
    assert np.isfinite(call(**batch).logits).all()


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_a_list_of_arrays_is_no_batch(kind, array, call):
    for members in ((GOOD, MASK), (GOOD[0], MASK[0])):
        with pytest.raises(TypeError, match="input_ids is one array, got a .* of 2 arrays.*attention_mask=mask"):
            call(kind(map(array, members)))
    assert call(GOOD.tolist()).logits.shape == (2, 4, 67)


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids", "position_ids", "labels"])
@pytest.mark.parametrize("far", [FAR, -FAR])
def test_integers_beyond_int32_are_refused_not_wrapped(name, far, call):
    for array in (np.full((2, 4), far), np.full((2, 4), far).tolist()):
        with pytest.raises(ValueError, match=f"{name} holds {far}, which is no int32"):
            call(**{"input_ids": GOOD, name: array})
    with pytest.raises(ValueError, match="which is no int32"):
        call(**{"input_ids": GOOD, name: np.full((2, 4), FAR, np.uint64)})


@pytest.mark.parity("C12")
@pytest.mark.parametrize("hidden", [-1e4, -np.inf, np.finfo(np.float32).min, -1.0])
def test_an_additive_mask_is_refused(hidden, call):
    additive = np.where(MASK == 1, 0.0, hidden).astype(np.float32)
    for mask in (additive, jnp.asarray(additive), additive.tolist()):
        with pytest.raises(ValueError, match="attention_mask holds 1 where .* got an additive mask"):
            call(GOOD, attention_mask=mask)
    with pytest.raises(ValueError, match="got zeros alone; of an additive mask, that is mask == 0"):
        call(GOOD, attention_mask=np.zeros((2, 4), np.float32))


@pytest.mark.parametrize("bad", [0.5, 2, -1, np.nan])
def test_a_mask_holds_zeros_and_ones(bad, call):
    with pytest.raises(ValueError, match="attention_mask holds"):
        call(GOOD, attention_mask=np.where(MASK == 0, 0, bad))


def test_zeros_and_ones_of_every_type_are_one_mask(call):
    wanted = call(GOOD, attention_mask=MASK).logits
    for kind in (bool, np.float32, np.float64, np.uint8, np.int64, jnp.bfloat16):
        assert np.array_equal(call(GOOD, attention_mask=MASK.astype(kind)).logits, wanted)


@pytest.mark.parametrize("name", ["LEDForConditionalGeneration", "T5ForConditionalGeneration", "DPRQuestionEncoder"])
def test_masks_of_other_families_are_looked_at_too(name):
    one = tiny(name)[0]
    with pytest.raises(ValueError, match="attention_mask holds 1 where"):
        one.apply({"params": {}}, GOOD, attention_mask=MASK * 1.0 - 1.0)
    with pytest.raises(ValueError, match=r"got 2; global tokens have a mask of their own"):
        one.apply({"params": {}}, GOOD, attention_mask=MASK * 2)


def test_looking_adds_nothing_to_a_program(model):
    run = lambda **given: model[0].apply({"params": model[1]}, **given).logits  # noqa: E731
    checked = jax.make_jaxpr(run)(input_ids=GOOD, attention_mask=MASK)
    unchecked = jax.make_jaxpr(lambda **given: model[0].bind({"params": model[1]})(**given).logits)(
        input_ids=GOOD, attention_mask=MASK
    )
    assert str(checked) == str(unchecked)


KEY = jax.random.key(0)
BAD_KEYS = {
    "misspelt": ({"droput": KEY}, "rngs has no use for 'droput'; did you mean 'dropout'"),
    "no name": (KEY, r"rngs is \{'dropout': key\}, got"),
    "number": ({"dropout": 0}, r"rngs\['dropout'\] must be a PRNG key such as jax.random.key\(0\), got 0"),
    "several": ({"dropout": jax.random.split(KEY, 3)}, r"rngs\['dropout'\] must be a PRNG key"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_keys_that_would_leave_dropout_out_are_refused(name, call):
    rngs, message = BAD_KEYS[name]
    with pytest.raises(TypeError, match=message):
        call(GOOD, rngs=rngs)


def test_a_key_of_parameters_alone_leaves_dropout_out_with_a_warning(call):
    with pytest.warns(UserWarning, match="rngs has 'params' only"):
        out = call(GOOD, rngs={"params": KEY}).logits
    assert np.array_equal(out, call(GOOD).logits)


@pytest.mark.parametrize("key", [KEY, jax.random.PRNGKey(0)])
def test_dropout_takes_typed_and_raw_keys(key, call):
    out = call(GOOD, rngs={"dropout": key, "params": key}).logits
    assert not np.array_equal(out, call(GOOD).logits)
    assert np.array_equal(call(GOOD, rngs={}).logits, call(GOOD).logits)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (None, "got None"),
        (3, "got 3"),
        ({}, "a tree of nothing"),
        ({"transformer": {}}, "of transformer; is it"),
    ],
)
def test_variables_are_the_parameters_by_their_collection(variables, message, model):
    with pytest.raises(TypeError, match=message):
        model[0].apply(variables, GOOD)


def test_unknown_methods_and_what_methods_take():
    one = tiny("BartModel")[0]
    with pytest.raises(TypeError, match="BartModel has no method 'encod'; did you mean 'encode'"):
        one.apply({"params": {}}, GOOD, method="encod")
    with pytest.raises(TypeError, match="BartModel.encode has no argument 'decoder_input_ids'"):
        one.apply({"params": {}}, GOOD, decoder_input_ids=GOOD, method="encode")
    with pytest.raises(TypeError, match="method is a name or a function, got 3"):
        one.apply({"params": {}}, GOOD, method=3)


BAD_ATTRIBUTES = {
    "dtpye": ("bfloat16", TypeError, "no attribute 'dtpye'; did you mean 'dtype'"),
    "dtype": ("bogus", ValueError, "dtype is a floating type"),
    "param_dtype": ("int8", ValueError, "param_dtype is a floating type"),
    "attention": ("bogus", ValueError, "attention is one of auto, xla"),
    "remat": (1, TypeError, "remat is True or False"),
    "seed": (0, TypeError, "no attribute 'seed': parameters are made by jm.init"),
    "_do_init": (False, TypeError, "no attribute '_do_init': parameters are made by jm.init"),
}


@pytest.mark.parametrize("name", BAD_ATTRIBUTES)
def test_attributes_of_a_model_are_looked_at_when_it_is_made(name, model):
    value, error, message = BAD_ATTRIBUTES[name]
    with pytest.raises(error, match=message):
        jm.GPT2LMHeadModel(model[0].config, **{name: value})
    with pytest.raises((error, TypeError)):
        model[0].clone(**{name: value})
