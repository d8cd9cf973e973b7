"""Thousands of damaged files of every format load or raise a TensorFileError, and do so quickly."""

import random
import subprocess
import sys
import time

import pytest
from support.damage import damaged
from support.tensor_file_samples import sample_files

from jaxmodels.tensor_files import TensorFileError, open_tensors

SAMPLES = sample_files()
COUNT = 400


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_files_load_or_raise(tmp_path, name):
    path = tmp_path / name
    rejected = 0
    for seed in range(COUNT):
        path.write_bytes(damaged(SAMPLES[name], random.Random(f"{name} {seed}")))
        start = time.process_time()
        try:
            for tensor in open_tensors(path).values():
                assert tensor.read().shape == tensor.shape
        except TensorFileError as error:
            rejected += 1
            assert error.path == path
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        assert time.process_time() - start < 1, f"seed {seed}"
    assert COUNT // 4 < rejected < COUNT  # some damage is in headers, some is not


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_files_are_rejected(tmp_path, name):
    data, path = SAMPLES[name], tmp_path / name
    for length in range(0, len(data), max(1, len(data) // 150)):
        path.write_bytes(data[:length])
        with pytest.raises(TensorFileError):
            open_tensors(path)


PROGRAM = """
import pathlib, resource, sys
from jaxmodels.tensor_files import TensorFileError, open_tensors
[size] = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize")]
limit = size + 100 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        [tensor.read() for tensor in open_tensors(path).values()]
    except TensorFileError:
        pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the memory in use")
def test_damaged_files_take_at_most_100_MB(tmp_path):
    for name, data in SAMPLES.items():
        for seed in range(20):
            (tmp_path / f"{seed}-{name}").write_bytes(damaged(data, random.Random(f"{name} memory {seed}")))
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, timeout=60)
