"""RAG on Natural Questions from the encoders of dpr_nq_pod and BART-large (Lewis et al. 2020); on a host of 8 chips.

The paper searches 21 million passages of Wikipedia, this run the passages of the data, DPR's biencoder-nq-train.json,
which are encoded again as the encoders learn; the paper does not train the context encoder.
    jaxmodels run rag_qa --config=rag_nq_pod --config.start=runs/dpr_nq_pod --config.data.path=...
"""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import rag_nq_bart


def get_config() -> ConfigDict:
    config = rag_nq_bart.get_config()
    config.data.update({"kind": "dpr", "held_out": 0.05})
    config.start = "runs/dpr_nq_pod"
    config.generator.start = "facebook/bart-large"
    config.lengths.update({"question": 64, "passage": 256, "context": 300, "answer": 32})
    config.n_docs = 5
    config.remat = True
    config.sharding.table = "FSDP"
    config.reader.update({"steps": 4000, "batch_size": 64, "save_every": 1000, "eval_every": 1000})
    config.reader.optimizer.update({"learning_rate": 3e-5, "warmup": 400})
    config.joint.update(
        {"steps": 8000, "batch_size": 64, "save_every": 1000, "eval_every": 1000, "refresh_every": 1000}
    )
    config.joint.optimizer.update({"learning_rate": 3e-5, "warmup": 500})
    config.encode_rows, config.generate_rows, config.test_questions = 1024, 64, 3000
    return config
