"""Mines the next round on a Ray cluster, with another checkpoint.

    ray job submit --address http://HEAD:8265 --working-dir . --submission-id round-2 -- \\
        python jobs/remine.py jobs/configs/mine.yaml --workspace s3://bucket/workspace --checkpoint s3://bucket/step-1000

Arguments are those of `raymine remine`; the executor is Ray, on the cluster that the job runs on. The submission id is
the id of the run: Ray refuses it twice on one cluster, and on another cluster a job with the id of a finished run finds
its round and does nothing, whatever the checkpoint's path holds by then.
"""

from __future__ import annotations

import sys

from raymine.cli import main

if __name__ == "__main__":
    main(["remine", *sys.argv[1:], "--executor", "ray"])
