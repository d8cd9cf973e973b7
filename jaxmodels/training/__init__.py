"""Training of any model of this library: train state, compiled training step, evaluation.

Checkpoints are in `jaxmodels.training.checkpoints`, which is not imported here because it imports Orbax.
"""

from jaxmodels.training.batches import Weight, place
from jaxmodels.training.contrastive import contrastive_loss, in_batch_loss, in_chunks, make_contrastive_step
from jaxmodels.training.state import Trainable, TrainState, abstract_state, init_state, weight_decay_mask
from jaxmodels.training.step import Evaluate, Step, make_evaluate, make_step

__all__ = [
    "Evaluate",
    "Step",
    "TrainState",
    "Trainable",
    "Weight",
    "abstract_state",
    "contrastive_loss",
    "in_batch_loss",
    "in_chunks",
    "init_state",
    "make_contrastive_step",
    "make_evaluate",
    "make_step",
    "place",
    "weight_decay_mask",
]
