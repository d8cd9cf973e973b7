"""A cache of the Hub with the stand-ins that a text names, and an empty working folder."""

import re
from pathlib import Path

import pytest
from huggingface_hub import constants
from support import hub

HUB_ID = re.compile("|".join(map(re.escape, hub.STAND_INS)))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture
def stand_ins(cache, tmp_path, monkeypatch):
    """A function that writes what a text names into the cache; tests run in an empty folder."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        for name in sorted(set(HUB_ID.findall(text))):
            hub.write(cache, name)
        if "from transformers import" in text:
            monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(cache))
        return tmp_path

    return write
