"""BERT without a pooler: token ids -> embeddings -> post-norm layers (Devlin et al., 2018, arXiv:1810.04805)."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Configured
from jaxmodels.architectures.bert_like import BertEmbeddings, bert_layer
from jaxmodels.architectures.dpr.config import DPRConfig
from jaxmodels.architectures.inputs import as_rows, check_ids, words
from jaxmodels.architectures.pruning import head_keywords, without_pruned
from jaxmodels.layers.masks import self_visibility
from jaxmodels.layers.stack import Stack


class BertModel(Configured):
    """The encoder that DPR's models stand on."""

    config: DPRConfig

    def setup(self):
        self.embeddings = BertEmbeddings(self.config, **self.kinds)
        layer = partial(bert_layer, self.config, attention=self.attention, pre_norm=False, **self.kinds)
        self.encoder = Stack(layer, self.config.num_hidden_layers, self.remat, self.unroll)

    def __call__(
        self,
        input_ids,
        attention_mask,
        token_type_ids,
        inputs_embeds,
        *,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | tuple | None]:
        """-> last states [B,T,D], hidden states [L+1,B,T,D] or None, attentions [L,B,H,T,T] or None."""
        c = self.config
        x, _ = words(self.embeddings.word_embeddings, c, input_ids, inputs_embeds)
        batch, length, _ = x.shape
        if length > c.max_position_embeddings:
            raise ValueError(
                f"{length} tokens are more than the {c.max_position_embeddings} positions of this model "
                "(max_position_embeddings); cut them: truncation=True in the tokenizer's call"
            )
        types = jnp.zeros((1, length), jnp.int32)
        if token_type_ids is not None:
            types = check_ids("token_type_ids", token_type_ids, c.type_vocab_size, "the token type table", (1, 2))
            types = as_rows("token_type_ids", types, batch, length)
        visible, _ = self_visibility(attention_mask, None, batch, length, causal=False)
        out = self.encoder(
            self.embeddings(x, types, jnp.arange(length)[None]),
            shared={"output_attentions": output_attentions, **visible},
            per_layer=head_keywords(c, None),
            output_hidden_states=output_hidden_states,
        )
        states = jnp.concatenate([out.hidden_states, out.last[None]]) if output_hidden_states else None
        return out.last, states, without_pruned(c, out.attentions)
