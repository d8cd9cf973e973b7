"""Options and methods of the reference's tokenizers that are not here, each with what to write instead.

An option's value that says what is done anyway (`neutral`) is fine. Names are those of transformers 4.37 to 5.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxmodels.names import no_such
from jaxmodels.wording import brief


class Refusal(NamedTuple):
    """What to write instead of an option, and the values of it that ask for nothing."""

    instead: str
    neutral: tuple = ()


_AT_LOADING = "it is a setting of the tokenizer: give it to jm.load_tokenizer(folder, ...)"
_UPLOAD = "write huggingface_hub.upload_folder(folder_path=..., repo_id=...) after saving"
_HUB = "give files to huggingface_hub by itself"

CALL: dict[str, Refusal] = {
    "pad_to_max_length": Refusal('write padding="max_length"', (False,)),
    "truncation_strategy": Refusal("write truncation="),
    "add_prefix_space": Refusal(_AT_LOADING),
    "add_bos_token": Refusal(_AT_LOADING),
    "add_eos_token": Refusal("write the token into the text"),
    "truncation_side": Refusal(f"write tok.truncation_side = ...; {_AT_LOADING}"),
    "return_overflowing": Refusal("write return_overflowing_tokens="),
    "return_input_ids": Refusal("they are always returned", (True,)),
    "return_text": Refusal("keep the text that was given"),
    "src_lang": Refusal("no tokenizer here has languages", (None,)),
    "tgt_lang": Refusal("no tokenizer here has languages", (None,)),
    "prepend_batch_axis": Refusal('write return_tensors="np", which has one', (False,)),
    "return_special_tokens_masks": Refusal("write return_special_tokens_mask="),
    "return_assistant_tokens_mask": Refusal("find the answers by return_offsets_mapping", (False,)),
    "tools": Refusal("it is for chat templates that read it", (None,)),
    "documents": Refusal("it is for chat templates that read it", (None,)),
    "images": Refusal("tokenizers take texts", (None,)),
    "device": Refusal('write return_tensors="jax" and jax.device_put(batch, device)', (None,)),
}
PAD: dict[str, Refusal] = {"verbose": Refusal("it warns of nothing", (True, False))}
DECODE: dict[str, Refusal] = {
    "spaces_between_special_tokens": Refusal("none are put between tokens, as by the fast tokenizers", (False,)),
    "use_source_tokenizer": Refusal("a tokenizer here has one vocabulary", (False,)),
    "errors": Refusal(_AT_LOADING),
    "group_tokens": Refusal("it is for speech"),
}
LOAD: dict[str, Refusal] = {
    "use_fast": Refusal("there is one implementation, whose ids are those of both", (True, None)),
    "backend": Refusal("there is one implementation", ("tokenizers", None)),
    "from_slow": Refusal("leave it out; give vocab_file to the class to read vocabulary files", (False, None)),
    "trust_remote_code": Refusal("code that comes with files is never run", (False, None)),
    "use_auth_token": Refusal("write token=", (None,)),
    "resume_download": Refusal("huggingface_hub resumes by itself", (None, False, True)),
    "proxies": Refusal("set the environment variables HTTP_PROXY and HTTPS_PROXY", (None,)),
    "mirror": Refusal("set the environment variable HF_ENDPOINT", (None,)),
    "user_agent": Refusal(_HUB, (None,)),
    "adapter_kwargs": Refusal(_HUB, (None,)),
    "tokenizer_type": Refusal('write cls="GPT2Tokenizer", say', (None,)),
    "tokenizer_class": Refusal('write cls="GPT2Tokenizer", say', (None,)),
    "config": Refusal('write cls="GPT2Tokenizer", say', (None,)),
    "gguf_file": Refusal("convert the file's tokenizer to tokenizer.json", (None,)),
    "tokenizer_object": Refusal("save it with tokenizer_object.save('FOLDER/tokenizer.json') and load the folder"),
    "max_len": Refusal("write model_max_length="),
    "additional_special_token": Refusal("write additional_special_tokens="),
    "truncation": Refusal("give it to the call: tok(text, truncation=True)"),
    "padding": Refusal("give it to the call: tok(text, padding=True)"),
    "max_length": Refusal("write model_max_length=, or give it to the call"),
    "return_tensors": Refusal('give it to the call: tok(text, return_tensors="jax")'),
    "add_eos_token": Refusal("write the token into the text", (False, None)),
    "add_special_tokens": Refusal("give it to the call"),
    "device": Refusal("tokenizers run on the host; jax.device_put(batch, device) moves what they return", (None,)),
    "device_map": Refusal("tokenizers run on the host", (None,)),
    "torch_dtype": Refusal("tokenizers return int32", (None,)),
    "dtype": Refusal("tokenizers return int32", (None,)),
    "verbose": Refusal("give it to the call, or use warnings.filterwarnings", (True,)),
    "vocab": Refusal("write the vocabulary into a file"),
    "merges": Refusal("write the merges into a file"),
    "vocab_file": Refusal("the folder has it; a single file goes to the class: jm.GPT2Tokenizer(vocab_file=...)"),
    "merges_file": Refusal("the folder has it; a single file goes to the class: jm.GPT2Tokenizer(merges_file=...)"),
    "tokenizer_file": Refusal("the folder has it; a single file goes to the class: jm.T5Tokenizer(tokenizer_file=...)"),
    "added_tokens_file": Refusal("the folder has it"),
    "special_tokens_map_file": Refusal("the folder has it"),
    "chat_template_file": Refusal("write chat_template=open(...).read()"),
    "name_or_path": Refusal("it is where the tokenizer is loaded from, the first argument"),
    "processor_class": Refusal("there are no processors here", (None,)),
    "fix_mistral_regex": Refusal("no tokenizer here is Mistral's", (None, False)),
}
SAVE: dict[str, Refusal] = {
    "legacy_format": Refusal("the files of both formats are written", (None,)),
    "filename_prefix": Refusal("save into a folder of its own; save_vocabulary takes a prefix", (None,)),
    "save_jinja_files": Refusal("the template is written into tokenizer_config.json", (False,)),
    "push_to_hub": Refusal(_UPLOAD, (False,)),
    "safe_serialization": Refusal("a tokenizer has no weights", (True,)),
    "max_shard_size": Refusal("a tokenizer has no weights"),
    "is_main_process": Refusal("call it in one process alone", (True,)),
}
SAVE |= {
    name: Refusal(_UPLOAD, (None,))
    for name in ("repo_id", "token", "use_auth_token", "commit_message", "commit_description", "private", "create_pr")
}
SAVE |= {name: Refusal(_UPLOAD, (None,)) for name in ("revision", "tags", "organization", "repo_path_or_name")}

METHODS: dict[str, str] = {
    "prepare_for_model": "use tok(text, ...)",
    "truncate_sequences": "use tok(text, truncation=True, max_length=...)",
    "build_inputs_with_special_tokens": "use tok(text, text_pair)",
    "create_token_type_ids_from_sequences": "use tok(text, text_pair, return_token_type_ids=True)",
    "prepare_seq2seq_batch": "use tok(texts, text_target=targets, ...)",
    "as_target_tokenizer": "use tok(text_target=...)",
    "_switch_to_input_mode": "use tok(text)",
    "_switch_to_target_mode": "use tok(text_target=...)",
    "set_truncation_and_padding": "use the options of a call: tok(text, truncation=True, padding=True)",
    "push_to_hub": "use tok.save_pretrained(folder) and huggingface_hub.upload_folder(folder_path=folder, repo_id=...)",
    "train_new_from_iterator": "use tokenizers.Tokenizer.train_from_iterator, save it and load the folder",
    "sanitize_special_tokens": "use tok.add_special_tokens({...})",
    "get_chat_template": "use tok.chat_template",
    "encode_message_with_chat_template": "use tok.apply_chat_template(conversation)",
    "save_chat_templates": "use tok.save_pretrained(folder)",
    "default_chat_template": "use tok.DEFAULT_CHAT_TEMPLATE",
    "parse_response": "use tok.decode(ids)",
    "add_special_tokens_map": "use tok.add_special_tokens({...})",
    "special_tokens_map_extended": "use tok.special_tokens_map, and tok.added_tokens_decoder for flags",
    "all_special_tokens_extended": "use tok.all_special_tokens, and tok.added_tokens_decoder for flags",
    "extra_special_tokens_ids": "use tok.additional_special_tokens_ids",
    "added_tokens_encoder": "use tok.get_added_vocab()",
    "backend_tokenizer": "use tok.save_pretrained(folder) and tokenizers.Tokenizer.from_file(its tokenizer.json)",
    "convert_added_tokens": "use tokenizers.AddedToken(content, ...)",
    "decoder": "use tok.convert_tokens_to_string(tokens)",
    "encoder": "use tok.get_vocab()",
    "vocab": "use tok.get_vocab()",
    "is_fast": "there is no use for it: there is one implementation",
    "can_save_slow_tokenizer": "there is no use for it: both formats are written",
    "name_or_path": "it is the name that the tokenizer was loaded from",
    "init_kwargs": "use the attributes of the settings, such as tok.padding_side",
    "max_len_single_sentence": "use tok.model_max_length - tok.num_special_tokens_to_add()",
    "max_len_sentences_pair": "use tok.model_max_length - tok.num_special_tokens_to_add(pair=True)",
    "max_model_input_sizes": "use tok.model_max_length",
    "slow_tokenizer_class": "use type(tok)",
    "pad_token_type_id": "use 0, which token types are padded with",
    "deprecation_warnings": "use warnings.filterwarnings",
    "verbose": "use warnings.filterwarnings, or verbose=False in a call",
    "clean_up": "use tok.clean_up_tokenization(text)",
    "prepare_for_tokenization": "use tok(text)",
    "register_for_auto_class": "there is no use for it: jm.load_tokenizer finds the class by the folder",
}


def refuse(call: str, table: Mapping[str, Refusal], given: Mapping[str, Any], known: Iterable[str] = ()):
    """TypeError for options that are not here, with what to write; nothing for those that ask for nothing.

    known: names of the options that are here, for misspelt ones.
    """
    for name, value in given.items():
        refusal = table.get(name)
        if refusal is None:
            raise TypeError(no_such(f"{call} has no option", name, known))
        if not any(type(value) is type(neutral) and value == neutral for neutral in refusal.neutral):
            raise TypeError(f"{call} does not take {name}={brief(value)}: {refusal.instead}")


def missing(kind: str, name: str, own: Iterable[str]) -> AttributeError:
    """The error for an attribute that is not here, with what to write."""
    if name.startswith("__"):  # Python's own question, as by copy and pickle
        return AttributeError(name)
    public = [each for each in own if not each.startswith("_")]
    return AttributeError(no_such(f"a {kind} has no attribute", name, public, METHODS))
