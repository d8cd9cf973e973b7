"""The former path of `IMPLEMENTATIONS`, for imports from outside of this package."""

from pallas_kernels.dispatch import IMPLEMENTATIONS

__all__ = ["IMPLEMENTATIONS"]
