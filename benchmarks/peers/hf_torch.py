"""Hugging Face Transformers on PyTorch, with its scaled_dot_product_attention."""

import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    DPRContextEncoder,
    GPT2LMHeadModel,
    LEDForConditionalGeneration,
    LlamaForCausalLM,
    RobertaPreLayerNormForMaskedLM,
)

from benchmarks.memory import provide
from benchmarks.peers import Job, as_they_come, as_values, in_order, padded_left, some_logits, some_states, total


def decode(folder: str, ids: list[list[int]], new: int, beams: int = 1) -> Job:
    model, prompt = _model(folder), torch.tensor(ids)

    @torch.inference_mode()
    def run():
        return model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            num_beams=beams,
            do_sample=False,
        )

    return Job(run)


def decode_mixed(folder: str, texts: list[list[int]], new: int) -> Job:
    model, (ids, mask) = _model(folder), map(torch.from_numpy, padded_left(texts))

    @torch.inference_mode()
    def run():
        return model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False)

    return Job(run, values=lambda sequences: as_values(sequences[:, ids.shape[1] :]))


def prefill(folder: str, ids: list[list[int]]) -> Job:
    model, prompt = _model(folder), torch.tensor(ids)

    @torch.inference_mode()
    def run():
        return model(prompt, use_cache=False, logits_to_keep=1).logits

    return Job(run)


def train(folder: str, ids: list[list[int]]) -> Job:
    model, batch = _model(folder).train(), torch.tensor(ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

    def run():
        loss = model(batch, labels=batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Job(run)


def encode(folder: str, texts: list[list[int]], rows: int) -> Job:
    model = _threads(DPRContextEncoder.from_pretrained(folder, attn_implementation="sdpa"))
    batches = as_they_come(texts, rows)

    @torch.inference_mode()
    def run():
        found = []
        for indices, ids, mask in batches:
            out = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            found.append((indices, out.pooler_output))
        return found

    return Job(run, values=in_order)


def long_encode(folder: str, ids: list[list[int]]) -> Job:
    """There is no fused attention for this model."""
    model, inputs = _led(folder, ids)

    @torch.inference_mode()
    def run():
        return model.get_encoder()(**inputs).last_hidden_state

    return Job(run, values=some_states)


def long_decode(folder: str, ids: list[list[int]], new: int) -> Job:
    model, inputs = _led(folder, ids)
    with torch.inference_mode():
        encoded = model.get_encoder()(**inputs)

    @torch.inference_mode()
    def run():
        mask = inputs["attention_mask"]
        return model.generate(encoder_outputs=encoded, attention_mask=mask, max_new_tokens=new, do_sample=False)

    return Job(run)


def long_answer(folder: str, ids: list[list[int]], new: int, beams: int) -> Job:
    model, inputs = _led(folder, ids)

    @torch.inference_mode()
    def run():
        return model.generate(**inputs, max_new_tokens=new, num_beams=beams, do_sample=False)

    return Job(run)


def _led(folder: str, ids: list[list[int]]):
    model, batch = _threads(LEDForConditionalGeneration.from_pretrained(folder)), torch.tensor(ids)
    first = torch.zeros_like(batch)
    first[:, 0] = 1
    return model, {"input_ids": batch, "attention_mask": torch.ones_like(batch), "global_attention_mask": first}


def documents_answer(folder: str, cls: str, ids: list[list[int]], doc_scores: list, new: int, beams: int) -> Job:
    """`generate` of RAG-token ignores max_new_tokens, and ids in config.json if there is a generation_config.json."""
    model = _threads(getattr(transformers, cls).from_pretrained(folder, attn_implementation="sdpa"))
    contexts, scores = torch.tensor(ids), torch.tensor(doc_scores)
    found = {"context_input_ids": contexts, "context_attention_mask": (contexts != 1).long(), "doc_scores": scores}
    options = {"max_length": new + 1, "num_beams": beams, "do_sample": False}
    options["decoder_start_token_id"] = model.config.decoder_start_token_id

    @torch.inference_mode()
    def run():
        return model.generate(**found, **options)

    return Job(run)


def masked_lm(folder: str, ids: list[list[int]]) -> Job:
    """There is no fused attention for this model."""
    model, batch = _threads(RobertaPreLayerNormForMaskedLM.from_pretrained(folder)), torch.tensor(ids)

    @torch.inference_mode()
    def run():
        return model(batch).logits

    return Job(run, values=some_logits)


def load(folder: str) -> Job:
    provide()

    def run():
        model = GPT2LMHeadModel.from_pretrained(folder)
        return total(parameter.detach().numpy() for parameter in model.parameters())

    return Job(run)


def _model(folder: str) -> Any:
    family = json.loads((Path(folder) / "config.json").read_text())["model_type"]
    model_class: Any = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}[family]
    return _threads(model_class.from_pretrained(folder, attn_implementation="sdpa"))


def _threads(model: Any) -> Any:
    """Load the model in evaluation mode, on all cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    return model.eval()
