"""Mines, trains and evaluates for some rounds, each with the checkpoint that the last one trained.

    python jobs/loop.py mine.yaml --workspace workspace --judgements data/qrels/test.tsv --rounds 3 --steps 500

The judgements are of held-out queries, and should be among the config's `exclude`. Needs raymine[train]. Killed, it
goes on with the same command. Writes <workspace>/training/loop.json.
"""

from __future__ import annotations

import argparse
import sys

from raymine.config_file import load_config
from raymine.errors import UserError
from raymine.evaluate import MEASURES
from raymine.executor import make_executor
from raymine.loop import Training, loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--judgements", required=True, help="qrels TSV of held-out queries")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, required=True, help="of the optimizer, per round")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="overrides a config value")
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    asked = parser.parse_args()
    how = Training(asked.steps, asked.batch_size, asked.learning_rate)
    try:
        with make_executor(asked.executor) as executor:
            config = load_config(asked.config, tuple(asked.set))
            loop(config, asked.workspace, asked.judgements, asked.rounds, how, executor, told=show)
    except UserError as error:
        sys.exit(f"raymine: {error}")


def show(row: dict[str, object]) -> None:
    """One line per round."""
    measured = "  ".join(f"{name} {row[name]:.4f}" for name in MEASURES)
    cost = "" if row["round"] is None else f"  mined in {row['seconds']:.1f} s of work, {row['saved_s']:.1f} s saved"
    print(f"{row['checkpoint']}  {measured}{cost}", flush=True)


if __name__ == "__main__":
    main()
