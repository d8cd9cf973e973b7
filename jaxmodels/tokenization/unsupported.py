"""Options and methods of transformers' tokenizers that are not supported, each with the replacement to use.

An option is still accepted with a value that requests what happens in any case (`Unsupported.neutral`). Names are those
of transformers 4.37 to 5.
"""

from collections.abc import Iterable

from jaxmodels.messages import Unsupported, unknown_name

_AT_LOADING = "it is a setting of the tokenizer: pass it to jm.load_tokenizer(folder, ...)"
_NO_SPACES = "no spaces are inserted, as in transformers' fast tokenizers"
_UPLOAD = "call huggingface_hub.upload_folder(folder_path=..., repo_id=...) after saving"
_HUB = "download the files with huggingface_hub and pass the folder"

CALL: dict[str, Unsupported] = {
    "pad_to_max_length": Unsupported('use padding="max_length"', (False,)),
    "truncation_strategy": Unsupported("use truncation="),
    "add_prefix_space": Unsupported(_AT_LOADING),
    "add_bos_token": Unsupported(_AT_LOADING),
    "add_eos_token": Unsupported("append the token to the text"),
    "truncation_side": Unsupported(f"set tok.truncation_side; {_AT_LOADING}"),
    "return_overflowing": Unsupported("use return_overflowing_tokens="),
    "return_input_ids": Unsupported("input_ids are always returned", (True,)),
    "return_text": Unsupported("keep the input text"),
    "src_lang": Unsupported("no supported tokenizer has languages", (None,)),
    "tgt_lang": Unsupported("no supported tokenizer has languages", (None,)),
    "prepend_batch_axis": Unsupported('use return_tensors="np", which adds a batch axis', (False,)),
    "return_special_tokens_masks": Unsupported("use return_special_tokens_mask="),
    "return_assistant_tokens_mask": Unsupported(
        "locate the assistant's messages with return_offsets_mapping", (False,)
    ),
    "tools": Unsupported("it is only for chat templates that read it", (None,)),
    "documents": Unsupported("it is only for chat templates that read it", (None,)),
    "images": Unsupported("tokenizers take text only", (None,)),
    "device": Unsupported('use return_tensors="jax" and jax.device_put(batch, device)', (None,)),
}
PAD: dict[str, Unsupported] = {"verbose": Unsupported("pad() emits no warnings", (True, False))}
DECODE: dict[str, Unsupported] = {
    "spaces_between_special_tokens": Unsupported(_NO_SPACES, (False,)),
    "use_source_tokenizer": Unsupported("each tokenizer has a single vocabulary", (False,)),
    "errors": Unsupported(_AT_LOADING),
    "group_tokens": Unsupported("it is only for speech models"),
}
LOAD: dict[str, Unsupported] = {
    "use_fast": Unsupported("there is one implementation, which matches both of transformers'", (True, None)),
    "backend": Unsupported("there is one implementation", ("tokenizers", None)),
    "from_slow": Unsupported("omit it; pass vocab_file to the class to read vocabulary files", (False, None)),
    "trust_remote_code": Unsupported("code from a repository is never executed", (False, None)),
    "use_auth_token": Unsupported("use token=", (None,)),
    "resume_download": Unsupported("huggingface_hub always resumes downloads", (None, False, True)),
    "proxies": Unsupported("set the environment variables HTTP_PROXY and HTTPS_PROXY", (None,)),
    "mirror": Unsupported("set the environment variable HF_ENDPOINT", (None,)),
    "user_agent": Unsupported(_HUB, (None,)),
    "adapter_kwargs": Unsupported(_HUB, (None,)),
    "tokenizer_type": Unsupported('use cls=, such as cls="GPT2Tokenizer"', (None,)),
    "tokenizer_class": Unsupported('use cls=, such as cls="GPT2Tokenizer"', (None,)),
    "config": Unsupported('use cls=, such as cls="GPT2Tokenizer"', (None,)),
    "gguf_file": Unsupported("convert its tokenizer to tokenizer.json", (None,)),
    "tokenizer_object": Unsupported("save it with tokenizer_object.save('FOLDER/tokenizer.json') and load the folder"),
    "max_len": Unsupported("use model_max_length="),
    "additional_special_token": Unsupported("use additional_special_tokens="),
    "truncation": Unsupported("pass it to the call: tok(text, truncation=True)"),
    "padding": Unsupported("pass it to the call: tok(text, padding=True)"),
    "max_length": Unsupported("use model_max_length=, or pass it to the call"),
    "return_tensors": Unsupported('pass it to the call: tok(text, return_tensors="jax")'),
    "add_eos_token": Unsupported("append the token to the text", (False, None)),
    "use_default_system_prompt": Unsupported("begin the conversation with a system message", (False, None)),
    "spaces_between_special_tokens": Unsupported(_NO_SPACES, (False, None)),
    "add_special_tokens": Unsupported("pass it to the call"),
    "device": Unsupported("tokenizers run on the host; move their output with jax.device_put(batch, device)", (None,)),
    "device_map": Unsupported("tokenizers run on the host", (None,)),
    "torch_dtype": Unsupported("tokenizers return int32", (None,)),
    "dtype": Unsupported("tokenizers return int32", (None,)),
    "verbose": Unsupported("pass it to the call, or use warnings.filterwarnings", (True,)),
    "vocab": Unsupported("save the vocabulary to a file"),
    "merges": Unsupported("save the merges to a file"),
    "vocab_file": Unsupported(
        "it is read from the folder; to read a single file, call the class: jm.GPT2Tokenizer(vocab_file=...)"
    ),
    "merges_file": Unsupported(
        "it is read from the folder; to read a single file, call the class: jm.GPT2Tokenizer(merges_file=...)"
    ),
    "tokenizer_file": Unsupported(
        "it is read from the folder; to read a single file, call the class: jm.T5Tokenizer(tokenizer_file=...)"
    ),
    "added_tokens_file": Unsupported("it is read from the folder"),
    "special_tokens_map_file": Unsupported("it is read from the folder"),
    "chat_template_file": Unsupported("use chat_template=open(...).read()"),
    "name_or_path": Unsupported("it is the first argument"),
    "processor_class": Unsupported("processors are not supported", (None,)),
    "fix_mistral_regex": Unsupported("Mistral's tokenizers are not supported", (None, False)),
}
SAVE: dict[str, Unsupported] = {
    "legacy_format": Unsupported("files of both formats are always written", (None,)),
    "filename_prefix": Unsupported("save to a separate folder; save_vocabulary accepts a prefix", (None,)),
    "save_jinja_files": Unsupported("the template is saved in tokenizer_config.json", (False,)),
    "push_to_hub": Unsupported(_UPLOAD, (False,)),
    "safe_serialization": Unsupported("a tokenizer has no weights", (True,)),
    "max_shard_size": Unsupported("a tokenizer has no weights"),
    "is_main_process": Unsupported("call save_pretrained in a single process", (True,)),
}
SAVE |= {
    name: Unsupported(_UPLOAD, (None,))
    for name in ("repo_id", "token", "use_auth_token", "commit_message", "commit_description", "private", "create_pr")
}
SAVE |= {name: Unsupported(_UPLOAD, (None,)) for name in ("revision", "tags", "organization", "repo_path_or_name")}

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
    "is_fast": "it is not needed: there is one implementation",
    "can_save_slow_tokenizer": "it is not needed: both formats are written",
    "name_or_path": "keep the name that the tokenizer was loaded from",
    "init_kwargs": "use the attributes of the settings, such as tok.padding_side",
    "max_len_single_sentence": "use tok.model_max_length - tok.num_special_tokens_to_add()",
    "max_len_sentences_pair": "use tok.model_max_length - tok.num_special_tokens_to_add(pair=True)",
    "max_model_input_sizes": "use tok.model_max_length",
    "slow_tokenizer_class": "use type(tok)",
    "pad_token_type_id": "use 0, the padding value of token types",
    "deprecation_warnings": "use warnings.filterwarnings",
    "verbose": "use warnings.filterwarnings, or verbose=False in a call",
    "clean_up": "use tok.clean_up_tokenization(text)",
    "prepare_for_tokenization": "use tok(text)",
    "update_post_processor": "it is not needed: setting tok.bos_token or tok.add_bos_token does it",
    "register_for_auto_class": "it is not needed: jm.load_tokenizer selects the class",
}


def is_neutral_at_loading(name: str, value: object) -> bool:
    """Whether a setting of a file requests what happens in any case."""
    return name in LOAD and LOAD[name].is_neutral(value)


def missing_attribute(class_name: str, name: str, attributes: Iterable[str]) -> AttributeError:
    """Return the error for an attribute that a tokenizer does not have, with the replacement where one is known."""
    if name.startswith("__"):  # looked up by Python itself, as in copy and pickle
        return AttributeError(name)
    public = [attribute for attribute in attributes if not attribute.startswith("_")]
    return AttributeError(unknown_name(f"a {class_name} has no attribute", name, public, METHODS))
