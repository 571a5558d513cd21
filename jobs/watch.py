"""Mines a round on a Ray cluster for each new checkpoint that a trainer leaves in a folder.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/watch.py jobs/configs/mine.yaml --workspace s3://bucket/workspace --checkpoints s3://bucket/checkpoints

Arguments are those of `raymine watch` (with --once it looks once, for a scheduler); the executor is Ray, on the cluster
that the job runs on.
"""

from __future__ import annotations

import sys

from raymine.cli import main

if __name__ == "__main__":
    main(["watch", *sys.argv[1:], "--executor", "ray"])
