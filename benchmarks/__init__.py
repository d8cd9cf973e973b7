"""Our speed and memory beside the peers', side by side in one run: `python -m benchmarks`, or `make bench`.

Every participant of a case is a process of its own (`worker`), which sets up once and then makes one timed call on each
command of the `coordinator`. The coordinator goes round the participants, A B C A B C ..., so that a drift of the
machine's speed cancels in the ratios, which are taken round by round. Everything is float32 on all cores of the CPU.
"""
