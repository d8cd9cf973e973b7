import pytest

from pallas_kernels import blocked


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4 queries, 2 causal sections and 3 global columns, so that short sequences meet every edge."""
    monkeypatch.setattr(blocked, "BLOCK", 4)
    monkeypatch.setattr(blocked, "SECTIONS", 2)
    monkeypatch.setattr(blocked, "GLOBALS", 3)
