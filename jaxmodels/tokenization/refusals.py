"""Options and methods of the reference's tokenizers that are not here, each with what to write instead.

An option's value that says what is done anyway (`neutral`) is fine. Names are those of transformers 4.37 to 5.
"""

from collections.abc import Iterable

from jaxmodels.names import Foreign, no_such

_AT_LOADING = "it is a setting of the tokenizer: give it to jm.load_tokenizer(folder, ...)"
_UPLOAD = "write huggingface_hub.upload_folder(folder_path=..., repo_id=...) after saving"
_HUB = "give files to huggingface_hub by itself"

CALL: dict[str, Foreign] = {
    "pad_to_max_length": Foreign('write padding="max_length"', (False,)),
    "truncation_strategy": Foreign("write truncation="),
    "add_prefix_space": Foreign(_AT_LOADING),
    "add_bos_token": Foreign(_AT_LOADING),
    "add_eos_token": Foreign("write the token into the text"),
    "truncation_side": Foreign(f"write tok.truncation_side = ...; {_AT_LOADING}"),
    "return_overflowing": Foreign("write return_overflowing_tokens="),
    "return_input_ids": Foreign("they are always returned", (True,)),
    "return_text": Foreign("keep the text that was given"),
    "src_lang": Foreign("no tokenizer here has languages", (None,)),
    "tgt_lang": Foreign("no tokenizer here has languages", (None,)),
    "prepend_batch_axis": Foreign('write return_tensors="np", which has one', (False,)),
    "return_special_tokens_masks": Foreign("write return_special_tokens_mask="),
    "return_assistant_tokens_mask": Foreign("find the answers by return_offsets_mapping", (False,)),
    "tools": Foreign("it is for chat templates that read it", (None,)),
    "documents": Foreign("it is for chat templates that read it", (None,)),
    "images": Foreign("tokenizers take texts", (None,)),
    "device": Foreign('write return_tensors="jax" and jax.device_put(batch, device)', (None,)),
}
PAD: dict[str, Foreign] = {"verbose": Foreign("it warns of nothing", (True, False))}
DECODE: dict[str, Foreign] = {
    "spaces_between_special_tokens": Foreign("none are put between tokens, as by the fast tokenizers", (False,)),
    "use_source_tokenizer": Foreign("a tokenizer here has one vocabulary", (False,)),
    "errors": Foreign(_AT_LOADING),
    "group_tokens": Foreign("it is for speech"),
}
LOAD: dict[str, Foreign] = {
    "use_fast": Foreign("there is one implementation, whose ids are those of both", (True, None)),
    "backend": Foreign("there is one implementation", ("tokenizers", None)),
    "from_slow": Foreign("leave it out; give vocab_file to the class to read vocabulary files", (False, None)),
    "trust_remote_code": Foreign("code that comes with files is never run", (False, None)),
    "use_auth_token": Foreign("write token=", (None,)),
    "resume_download": Foreign("huggingface_hub resumes by itself", (None, False, True)),
    "proxies": Foreign("set the environment variables HTTP_PROXY and HTTPS_PROXY", (None,)),
    "mirror": Foreign("set the environment variable HF_ENDPOINT", (None,)),
    "user_agent": Foreign(_HUB, (None,)),
    "adapter_kwargs": Foreign(_HUB, (None,)),
    "tokenizer_type": Foreign('write cls="GPT2Tokenizer", say', (None,)),
    "tokenizer_class": Foreign('write cls="GPT2Tokenizer", say', (None,)),
    "config": Foreign('write cls="GPT2Tokenizer", say', (None,)),
    "gguf_file": Foreign("convert the file's tokenizer to tokenizer.json", (None,)),
    "tokenizer_object": Foreign("save it with tokenizer_object.save('FOLDER/tokenizer.json') and load the folder"),
    "max_len": Foreign("write model_max_length="),
    "additional_special_token": Foreign("write additional_special_tokens="),
    "truncation": Foreign("give it to the call: tok(text, truncation=True)"),
    "padding": Foreign("give it to the call: tok(text, padding=True)"),
    "max_length": Foreign("write model_max_length=, or give it to the call"),
    "return_tensors": Foreign('give it to the call: tok(text, return_tensors="jax")'),
    "add_eos_token": Foreign("write the token into the text", (False, None)),
    "add_special_tokens": Foreign("give it to the call"),
    "device": Foreign("tokenizers run on the host; jax.device_put(batch, device) moves what they return", (None,)),
    "device_map": Foreign("tokenizers run on the host", (None,)),
    "torch_dtype": Foreign("tokenizers return int32", (None,)),
    "dtype": Foreign("tokenizers return int32", (None,)),
    "verbose": Foreign("give it to the call, or use warnings.filterwarnings", (True,)),
    "vocab": Foreign("write the vocabulary into a file"),
    "merges": Foreign("write the merges into a file"),
    "vocab_file": Foreign("the folder has it; a single file goes to the class: jm.GPT2Tokenizer(vocab_file=...)"),
    "merges_file": Foreign("the folder has it; a single file goes to the class: jm.GPT2Tokenizer(merges_file=...)"),
    "tokenizer_file": Foreign("the folder has it; a single file goes to the class: jm.T5Tokenizer(tokenizer_file=...)"),
    "added_tokens_file": Foreign("the folder has it"),
    "special_tokens_map_file": Foreign("the folder has it"),
    "chat_template_file": Foreign("write chat_template=open(...).read()"),
    "name_or_path": Foreign("it is where the tokenizer is loaded from, the first argument"),
    "processor_class": Foreign("there are no processors here", (None,)),
    "fix_mistral_regex": Foreign("no tokenizer here is Mistral's", (None, False)),
}
SAVE: dict[str, Foreign] = {
    "legacy_format": Foreign("the files of both formats are written", (None,)),
    "filename_prefix": Foreign("save into a folder of its own; save_vocabulary takes a prefix", (None,)),
    "save_jinja_files": Foreign("the template is written into tokenizer_config.json", (False,)),
    "push_to_hub": Foreign(_UPLOAD, (False,)),
    "safe_serialization": Foreign("a tokenizer has no weights", (True,)),
    "max_shard_size": Foreign("a tokenizer has no weights"),
    "is_main_process": Foreign("call it in one process alone", (True,)),
}
SAVE |= {
    name: Foreign(_UPLOAD, (None,))
    for name in ("repo_id", "token", "use_auth_token", "commit_message", "commit_description", "private", "create_pr")
}
SAVE |= {name: Foreign(_UPLOAD, (None,)) for name in ("revision", "tags", "organization", "repo_path_or_name")}

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


def missing(kind: str, name: str, own: Iterable[str]) -> AttributeError:
    """The error for an attribute that is not here, with what to write."""
    if name.startswith("__"):  # Python's own question, as by copy and pickle
        return AttributeError(name)
    public = [each for each in own if not each.startswith("_")]
    return AttributeError(no_such(f"a {kind} has no attribute", name, public, METHODS))
