"""Encoder and decoder of BART, LED or T5 called separately, and the decoder in chunks with a cache."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property, partial

import jax
import numpy as np
import torch
from support.arrays import EVERYTHING
from support.reference import Pair, compare


@dataclasses.dataclass
class Pieces:
    """A model with inputs.

    Attributes:
      source, mask: int [B,S], inputs of the encoder.
      tokens: int [B,T], inputs of the decoder.
      capacity: slots of the cache.
    """

    pair: Pair
    source: np.ndarray
    mask: np.ndarray
    tokens: np.ndarray
    capacity: int

    @cached_property
    def step(self):
        """A compiled step of the decoder, (cache, inputs) -> output. The encoder states are optional."""

        @jax.jit
        def run(cache, inputs):
            variables = {"params": self.pair.params}
            return self.pair.model.apply(variables, **inputs, **EVERYTHING, cache=cache, method="decode")

        return run

    @cached_property
    def encoded(self) -> jax.Array:
        """The encoder's states, [B,S,D]."""
        encode = partial(self.pair.model.apply, method="encode")
        return jax.jit(encode)({"params": self.pair.params}, self.source, attention_mask=self.mask).last_hidden_state

    def run(self, chunks: Sequence[int], mask: np.ndarray | None = None, again: bool = False) -> list:
        """Runs the decoder in chunks, of which the first gets the encoder states and later ones use the cache.

        Args:
          chunks: lengths of the chunks.
          mask: [B,T], of the decoder.
          again: pass NaN as encoder states to later chunks, which must not read them.

        Returns:
          One output per chunk.
        """
        mask = np.ones_like(self.tokens) if mask is None else mask
        cache, seen, outs = self.pair.model.init_cache(len(mask), self.capacity), 0, []
        for count in chunks:
            part = {"decoder_input_ids": self.tokens[:, seen : seen + count], "encoder_attention_mask": self.mask}
            part["decoder_attention_mask"] = mask[:, seen : seen + count]
            if not seen:
                part["encoder_hidden_states"] = self.encoded
            elif again:
                part["encoder_hidden_states"] = np.full_like(self.encoded, np.nan)
            out = self.step(cache, part)
            cache, seen = out.cache, seen + count
            outs.append(dataclasses.replace(out, attentions=out.attentions[..., :seen], cache=None))
        assert int(cache.length) == self.tokens.shape[1]
        return outs

    def check_steps(self, chunks: Sequence[int]) -> None:
        """Compares logits, states and attentions of every chunk with the reference, which uses its own cache."""
        past, start, states = None, 0, (torch.tensor(np.asarray(self.encoded)),)
        for got, count in zip(self.run(chunks), chunks, strict=True):
            expected = self.pair.reference(
                encoder_outputs=states,
                attention_mask=torch.tensor(self.mask),
                decoder_input_ids=torch.tensor(self.tokens[:, start : start + count]),
                past_key_values=past,
                use_cache=True,
                **EVERYTHING,
            )
            past, start = expected.past_key_values, start + count
            names = {"decoder_hidden_states": "hidden_states", "decoder_attentions": "attentions"}
            fields = ("logits", "decoder_hidden_states", "decoder_attentions", "cross_attentions")
            compare(got, {names.get(name, name): expected[name] for name in fields})

    def check_call(self, chunks: Sequence[int]) -> None:
        """Compares the chunks with two calls of the whole model, the second with a cache instead of input_ids."""
        model, variables = self.pair.model, {"params": self.pair.params}
        cache, logits = model.init_cache(len(self.tokens), self.capacity), []
        for i, part in enumerate(np.split(self.tokens, [chunks[0]], axis=1)):
            source = {"input_ids": self.source} if i == 0 else {}
            call = partial(model.apply, variables, **source, attention_mask=self.mask)
            out = jax.jit(lambda cache, part, call=call: call(decoder_input_ids=part, cache=cache))(cache, part)
            cache = out.cache
            assert ("encoder_last_hidden_state" in out) == (i == 0)
            logits.append(out.logits)
        expected = [out.logits for out in self.run(chunks)]
        np.testing.assert_allclose(np.concatenate(logits, axis=1), np.concatenate(expected, axis=1), atol=2e-5)


def assert_encode_and_decode_are_one_call(pair: Pair, batch: dict[str, np.ndarray], whole) -> None:
    """Compares `encode` followed by `decode` with `whole`, the output of a single call."""

    @jax.jit
    def parts(params):
        mask = batch["attention_mask"]
        apply = partial(pair.model.apply, {"params": params}, **EVERYTHING)
        encode, decode = (partial(apply, method=name) for name in ("encode", "decode"))
        encoded = encode(batch["input_ids"], attention_mask=mask)
        decoded = decode(
            batch["decoder_input_ids"],
            decoder_attention_mask=batch["decoder_attention_mask"],
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=mask,
            logits_to_keep=2,
        )
        return encoded, decoded

    encoded, decoded = parts(pair.params)
    np.testing.assert_allclose(decoded.logits, whole.logits[:, -2:], atol=1e-5)
    for name in ("hidden_states", "attentions"):
        np.testing.assert_allclose(encoded[name], whole[f"encoder_{name}"], atol=1e-5)
        np.testing.assert_allclose(decoded[name], whole[f"decoder_{name}"], atol=1e-5)
    np.testing.assert_allclose(decoded.cross_attentions, whole.cross_attentions, atol=1e-5)
