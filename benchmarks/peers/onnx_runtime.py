"""ONNX Runtime, a C++ inference engine, on the graph that PyTorch exports. It only encodes."""

import os
import tempfile
import warnings

import onnxruntime
import torch
from transformers import DPRContextEncoder

from benchmarks.peers import Job, as_they_come, in_order


class _Vectors(torch.nn.Module):
    """Returns only the requested output, so that the graph has no others."""

    def __init__(self, model: DPRContextEncoder):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(ids, attention_mask=mask).pooler_output


def encode(folder: str, texts: list[list[int]], rows: int) -> Job:
    model = _Vectors(DPRContextEncoder.from_pretrained(folder, attn_implementation="eager")).eval()
    batches = as_they_come(texts, rows)
    example = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: "rows", 1: "tokens"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    with tempfile.TemporaryDirectory() as graph, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example, example),
            f"{graph}/model.onnx",
            input_names=["ids", "mask"],
            output_names=["vectors"],
            dynamic_axes={"ids": axes, "mask": axes},
            dynamo=False,
        )
        session = onnxruntime.InferenceSession(f"{graph}/model.onnx", options)
    del model

    def run():
        return [(indices, session.run(None, {"ids": ids, "mask": mask})[0]) for indices, ids, mask in batches]

    return Job(run, values=in_order)
