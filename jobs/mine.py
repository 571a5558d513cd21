"""Mines one round on a Ray cluster.

    ray job submit --address http://HEAD:8265 --working-dir . -- \\
        python jobs/mine.py jobs/configs/mine.yaml --workspace s3://bucket/workspace

Arguments are those of `raymine mine`; the executor is Ray, on the cluster that the job runs on. The config travels with
the working folder; its data and the workspace must be where every node can reach them. A job that died is submitted
again as it was: it redoes only what was in flight.
"""

from __future__ import annotations

import sys

from raymine.cli import main

if __name__ == "__main__":
    main(["mine", *sys.argv[1:], "--executor", "ray"])
