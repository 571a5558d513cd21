"""raymine mines hard negatives for embedding models, at any size.

import raymine
config = raymine.load_config("mine.yaml")
round_ = raymine.mine(config, workspace="ws")
round_.training_set("triplet")
"""

from __future__ import annotations

from raymine.config import Config
from raymine.config_file import load_config
from raymine.errors import ConfigError, InputError, ResourceError, UserError, WorkspaceError
from raymine.hard_negatives import mine_hard_negatives
from raymine.rounds import Round

__version__ = "0.1.0"
__all__ = [
    "Config",
    "ConfigError",
    "InputError",
    "ResourceError",
    "Round",
    "UserError",
    "WorkspaceError",
    "load_config",
    "mine",
    "mine_hard_negatives",
    "remine",
]


def mine(config: Config, workspace: str, executor: str = "local", address: str | None = None) -> Round:
    """Mines one round: from corpus, queries and positives to training shards.

    The same call again goes on where it stopped, and does nothing when it is done.

    Args:
        config: from `load_config` or made in Python.
        workspace: folder or URL (s3://, gs://) for artifacts and rounds.
        executor: local (in this process) or ray.
        address: of a Ray cluster; None: RAY_ADDRESS, else a cluster of this machine.

    Returns:
        The round: its negatives, verdicts, training sets and cost.

    Raises:
        UserError: the config, the input or the machine cannot do it; says what to do.
    """
    from raymine import rounds
    from raymine.executor import make_executor

    with make_executor(executor, address) as runner:
        return rounds.mine(config, workspace, runner)


def remine(
    config: Config, workspace: str, checkpoint: str, executor: str = "local", address: str | None = None
) -> Round:
    """Mines the next round, with another checkpoint of the embedder: only what depends on it is done again.

    Args:
        config: of the rounds; `embed.model` does not matter.
        workspace: folder or URL, with the rounds before.
        checkpoint: saved model: folder, URL or hub name.
        executor: local (in this process) or ray.
        address: of a Ray cluster; None: RAY_ADDRESS, else a cluster of this machine.

    Returns:
        The round; the last one, with `is_new` False, if the checkpoint has its weights.

    Raises:
        UserError: as `mine`.
    """
    from raymine import rounds
    from raymine.executor import make_executor

    with make_executor(executor, address) as runner:
        return rounds.remine(config, workspace, checkpoint, runner)
