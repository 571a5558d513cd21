"""Mine, train, evaluate, and again: an embedder that learns from negatives of its own making.

    training/round-0001/       the checkpoint that was trained on round 1
    training/loop.json         a row per round: what the checkpoint it was mined with retrieves, what it cost

Each round is mined with the checkpoint of the one before, and the next checkpoint is trained on it, from there on, with
sentence-transformers' trainer. It is one training with new negatives now and then: the optimizer goes on where it was,
and the learning rate rises and falls once over all rounds (with a rise and a fall in each, five rounds of medquad ended
below one pass). What is finished is found: a loop that died goes on with the same call.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raymine import rounds, storage
from raymine.artifacts import Executor, Watcher
from raymine.config import Config
from raymine.errors import ConfigError
from raymine.evaluate import evaluate

FORMAT = "n-tuple"


@dataclass(frozen=True)
class Training:
    """How each round's checkpoint is trained.

    Args:
        steps: of the optimizer, per round.
        batch_size: rows per step.
        learning_rate: at its highest; it falls to 0 at the end of the last round.
        warmup: share of all rounds' steps in which it rises.
        seed: of the order of the rows.
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 2e-5
    warmup: float = 0.1
    seed: int = 0


def train(
    model: str,
    rows: Any,
    out: str,
    how: Training,
    loss: Callable[[Any], Any] | None = None,
    taken: int = 0,
    in_all: int | None = None,
    batches: Callable[..., Any] | None = None,
) -> None:
    """Trains a checkpoint on a round's rows, with in-batch negatives besides those of the rows.

    Args:
        model: the checkpoint to go on from; after the first round one of this function's.
        rows: datasets.Dataset with anchor, positive and any number of negative columns; and label, as
            raymine.online.training_set makes it, where `loss` goes by it.
        out: local folder; written when it is done.
        how: the training.
        loss: makes the loss from the model, e.g. one of raymine.online; None: MultipleNegativesRankingLoss.
        taken: steps of the rounds before; if any, optimizer and learning rate go on as `model` has them.
        in_all: steps of all rounds; None: how.steps.
        batches: makes the sampler of the batches, as the trainer's `batch_sampler` does, e.g.
            raymine.online.ClusterBatches; None: by chance.
    """
    import torch
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )
    from sentence_transformers.training_args import BatchSamplers
    from transformers import get_linear_schedule_with_warmup

    names = ("anchor", "positive", "label") if loss or batches else ("anchor", "positive")
    columns = [name for name in rows.column_names if name in names or name.startswith("negative")]
    trained = SentenceTransformer(model)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            max_steps=how.steps,
            per_device_train_batch_size=how.batch_size,
            learning_rate=how.learning_rate,
            seed=how.seed,
            batch_sampler=batches or BatchSamplers.BATCH_SAMPLER,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=trained,
            args=arguments,
            train_dataset=rows.select_columns(columns),
            loss=(loss or losses.MultipleNegativesRankingLoss)(trained),
        )
        optimizer, steps = trainer.create_optimizer(), in_all or how.steps
        scheduler = get_linear_schedule_with_warmup(optimizer, math.ceil(how.warmup * steps), steps)
        course = {"optimizer.pt": optimizer, "scheduler.pt": scheduler}
        if taken:
            for name, part in course.items():
                part.load_state_dict(torch.load(Path(model, name), weights_only=True))
        trainer.lr_scheduler = scheduler
        trainer.train()
    partial = Path(f"{out}.partial")
    trained.save(str(partial))
    for name, part in course.items():
        torch.save(part.state_dict(), partial / name)
    partial.rename(out)


def loop(
    config: Config,
    workspace: str,
    judgements: str,
    num_rounds: int,
    how: Training,
    executor: Executor,
    watcher: Watcher | None = None,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """Runs the loop, or goes on with it.

    Args:
        config: of the rounds; `embed.model` is the first checkpoint.
        workspace: local folder.
        judgements: qrels TSV of held-out queries.
        num_rounds: rounds to mine and train on.
        how: the training.
        executor: where the rounds run; the training runs in this process.
        watcher: is told how the steps go.
        told: is told each row as it is there.

    Returns:
        A row per round and one for the last checkpoint: `round`, `checkpoint`, the measures of evaluate.MEASURES, and
        of a round `seconds` of work, `usd`, `saved_s` and `difficulty`.

    Raises:
        UserError: as rounds.mine.
    """
    checkpoint = config.embed.model if config.embed is not None else None
    if checkpoint is None:
        raise ConfigError("a loop trains an embedder", "no `embed.model`", "a first checkpoint", "add `embed.model`")
    formats = tuple(dict.fromkeys([*config.write.formats, FORMAT]))
    config = config.model_copy(update={"write": config.write.model_copy(update={"formats": formats})})
    workspace, made = storage.absolute(workspace), list[dict[str, Any]]()
    for number in range(1, num_rounds + 1):
        found = rounds.remine(config, workspace, checkpoint, executor, watcher)
        made.append({"round": number, "checkpoint": checkpoint, **_cost(found)})
        made[-1] |= _measured(config, workspace, checkpoint, judgements, executor, watcher)
        told(made[-1])
        trained = storage.join(workspace, "training", f"round-{number:04d}")
        if not storage.is_folder(trained):
            rows, taken = found.training_set(FORMAT), (number - 1) * how.steps
            train(checkpoint, rows, trained, how, taken=taken, in_all=num_rounds * how.steps)
        checkpoint = trained
    made.append({"round": None, "checkpoint": checkpoint})
    made[-1] |= _measured(config, workspace, checkpoint, judgements, executor, watcher)
    told(made[-1])
    storage.write_json(storage.join(workspace, "training", "loop.json"), made)
    return made


def _cost(found: rounds.Round) -> dict[str, Any]:
    total = found.cost[-1]
    difficulty = found.facts.get("difficulty")
    return {"seconds": total.wall_s, "usd": total.usd, "saved_s": total.saved_s, "difficulty": difficulty}


def _measured(
    config: Config, workspace: str, checkpoint: str, judgements: str, executor: Executor, watcher: Watcher | None
) -> dict[str, float]:
    assert config.embed is not None
    embed = config.embed.model_copy(update={"model": checkpoint, "revision": None})
    return evaluate(config.model_copy(update={"embed": embed}), workspace, judgements, executor, watcher=watcher)
