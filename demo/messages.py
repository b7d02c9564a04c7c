"""A group of processes shares a topic; one of them is killed with messages in hand."""

from __future__ import annotations

import time
from pathlib import Path

from story import check, say, start, tell

from treering.stores.messages import LeaseLostError, MessageLog


def show(path: Path) -> None:
    """A group of processes shares a topic; one of them is killed with messages in hand."""
    say("A message log: two processes pack 1,000 orders together; one is killed with -9.")
    with MessageLog(path) as log:
        log.publish_many("orders", [b"%d" % number for number in range(1000)])
        packing = [start(packer, path) for _ in range(2)]
        while log.count("packed") < 100:
            time.sleep(0.005)
        victim = packing[0]
        victim.kill()
        packed = log.count("packed")
        tell(f"kill -9 for process {victim.pid} after {packed} orders")
        victim.communicate(timeout=60)
        again = int(packing[1].communicate(timeout=60)[0])
        tell(f"{again} orders that it had in hand went to the other one when its lease was over")
        numbers = sorted(int(message.value or b"") for message in log.consume_from("packed"))
        check(numbers == list(range(1000)), "1,000 orders packed: none lost, none packed twice")
        log.set_retention("orders", consumed=True)
        log.checkpoint()
        check(log.count("orders") == 0, "what the group has done is gone from the log")
        log.check()


def packer(path: str) -> int:
    """Pack orders until all are packed; print how many somebody else had got before."""
    again = 0
    with MessageLog(path) as log:
        group = log.group("packing", "orders", lease=0.5)
        while group.lag:
            for order in group.get(20, timeout=0.1):
                again += order.deliveries > 1
                try:
                    with log.batch() as batch:  # the effect and the ack: both or none
                        batch.publish("packed", order.value)
                        batch.ack(group, order)
                except LeaseLostError:
                    continue
    print(again)
    return 0
