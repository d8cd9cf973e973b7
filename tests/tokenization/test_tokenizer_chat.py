"""Chat templates (docs/parity.md, T7)."""

import sys

import jinja2
import pytest
import transformers

CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": 'it\'s <b> & "x"'},
    {"role": "assistant", "content": "né 🙂"},
]
TEMPLATE = """{%- for m in messages %}
    {%- if m.role == 'system' %}{% continue %}{% endif %}
<|{{ m.role }}|>{{ m | tojson }}{{ eos_token }}
{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


@pytest.mark.parity("G17", "T7")
def test_tokenizer_default_chat_template(small):
    text = "".join(message["content"] + "<|endoftext|>" for message in CHAT)
    assert small.apply_chat_template(CHAT, tokenize=False) == text
    ids = small.apply_chat_template(CHAT)
    assert isinstance(ids, list) and ids == small.encode(text)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parity("T7")
def test_tokenizer_chat_template_equals_the_reference(small, small_folder, prompt):
    reference = transformers.GPT2TokenizerFast.from_pretrained(small_folder)
    small.chat_template = reference.chat_template = TEMPLATE
    for chat in (CHAT, CHAT[1:2]):
        expected = reference.apply_chat_template(chat, add_generation_prompt=prompt, tokenize=False)
        assert small.apply_chat_template(chat, add_generation_prompt=prompt, tokenize=False) == expected
        assert small.apply_chat_template(chat, add_generation_prompt=prompt) == small.encode(expected)


@pytest.mark.parity("T7")
def test_chat_batches(small):
    small.pad_token = small.eos_token
    batch = small.apply_chat_template([CHAT, CHAT[:1]], return_dict=True, padding=True)
    assert batch.input_ids.shape == batch.attention_mask.shape
    alone = small.apply_chat_template(CHAT[:1])
    assert batch.input_ids[1][: len(alone)].tolist() == alone
    assert small.apply_chat_template([CHAT, CHAT[:1]])[1] == alone
    arrays = small.apply_chat_template(CHAT, return_tensors="np", truncation=True, max_length=5)
    assert arrays.shape == (1, 5)


@pytest.mark.parity("T7")
def test_tokenizer_chat_does_not_add_special_tokens(small_folder):
    import jaxmodels.tokenization as jt

    tokenizer = jt.load_tokenizer(small_folder, add_bos_token=True)
    assert tokenizer.apply_chat_template(CHAT[:1])[0] != tokenizer.bos_token_id


@pytest.mark.parity("T7")
def test_tokenizer_named_chat_templates(small):
    small.chat_template = {"default": "one", "tool": "two"}
    assert small.apply_chat_template(CHAT, tokenize=False) == "one"
    assert small.apply_chat_template(CHAT, tokenize=False, chat_template="tool") == "two"
    assert small.apply_chat_template(CHAT, tokenize=False, chat_template="{{ bos_token }}") == "<|endoftext|>"
    small.chat_template = {"tool": "two"}
    with pytest.raises(ValueError, match=r"templates \['tool'\]"):
        small.apply_chat_template(CHAT)


@pytest.mark.parity("T7")
def test_tokenizer_chat_templates_are_sandboxed_and_may_refuse(small):
    with pytest.raises(jinja2.exceptions.TemplateError, match="unsafe"):
        small.apply_chat_template(CHAT, chat_template="{{ messages.__class__.__mro__ }}")
    with pytest.raises(jinja2.exceptions.TemplateError, match="no system"):
        small.apply_chat_template(CHAT, chat_template="{{ raise_exception('no system') }}")
    with pytest.raises(TypeError, match="tools.*only for chat templates that read it"):
        small.apply_chat_template(CHAT, tools=[])


@pytest.mark.parity("T7")
def test_tokenizer_chat_without_jinja(small, monkeypatch):
    import jaxmodels.tokenization

    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "jaxmodels.tokenization.chat", raising=False)
    monkeypatch.delattr(jaxmodels.tokenization, "chat", raising=False)
    with pytest.raises(ImportError, match="pip install jinja2"):
        small.apply_chat_template(CHAT, chat_template="a template that nothing compiled before")
