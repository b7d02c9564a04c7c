"""When to use a log, which store on it, with which settings; and when something else.

    advice = treering.advise(kind="jobs", durability="power", path="/var/lib/app")
    print(advice.use, advice.fsync_policy, advice.cost)

The decision is a table of rules, read from the top: the first whose condition holds is the answer.
docs/when-to-use.md has the same table in prose. Nothing is opened or written, unless `path` asks
for the cost on that disk.
"""

from __future__ import annotations

from ._advising import Advice, advise
from ._questions import NUMBERS, QUESTIONS
from ._rules import RULES, Rule

__all__ = ["NUMBERS", "QUESTIONS", "RULES", "Advice", "Rule", "advise"]
