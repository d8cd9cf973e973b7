"""Base-2 scores: constants that the kernels of every platform share."""

import math

from pallas_kernels.mask import MASK_VALUE

# Queries are scaled by scale * LOG2E, so that the softmax is exp2(score - max) without another multiplication.
LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
# Biases are clipped to this value. Finite, as is its sum with MASK_VALUE, and far enough from MASK_VALUE to distinguish
# a query without a visible key from one whose biases are all very low.
MIN_BIAS = -1e38
# The maximum score of a query is below this value if and only if no key is visible to it.
NO_VISIBLE_KEY = (MASK_VALUE + MIN_BIAS) / 2
