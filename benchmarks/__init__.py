"""Compare speed and memory of jaxmodels with other libraries: `python -m benchmarks`, or `make bench`.

Every participant of a case runs in a separate process (`worker`), which is set up once and then makes one timed call
per command of the `coordinator`. The coordinator alternates between the participants, A B C A B C ..., and takes ratios
within each round, so that changes in the speed of the machine cancel out. Everything is in float32 on all CPU cores.
"""
