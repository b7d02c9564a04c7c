"""Real processes on one log, killed and started again, for as long as you like: `make soak`.

python -m tests.battery.soak [--seconds S] [--seed N] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from . import kills

KILLS_A_ROUND = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    seed, problems = arguments.seed, []
    while time.monotonic() < until and not problems:
        counts = kills.run(KILLS_A_ROUND, seed)
        problems += counts["problems"]
        print(json.dumps(counts) if arguments.json else f"seed {seed}: {counts}", flush=True)
        seed += 1
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
