"""Search the model of the crash protocol by hand.

python3 -m tests.model                 what the tests search
python3 -m tests.model --full          larger configurations too: an hour and several GB
python3 -m tests.model --config NAME   one of them
python3 -m tests.model --without RULE  a shortest run to what goes wrong without a rule
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.model.configs import FULL, NAMES, QUICK, WITH, WITHOUT
from tests.model.rules import REDUNDANT, RULES
from tests.model.search import Result, explore
from tests.model.world import Config


def show(result: Result, *, trace: bool) -> None:
    verdict = result.violation or "S1 S2 S3 S4 L1 hold"
    print(f"{result.name:44} {result.states:9,} states, depth {result.depth:3}, "
          f"{result.seconds:6.1f} s: {verdict}", flush=True)  # fmt: skip
    for label in result.trace if trace else ():
        print("    ", label)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--config", choices=sorted(NAMES), metavar="NAME")
    parser.add_argument("--without", choices=sorted(RULES), metavar="RULE")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.config or args.without:
        config = WITHOUT[args.without] if args.without else NAMES[args.config]
        if args.without:
            print(f"{args.without}: {RULES[args.without]}")
        show(explore(config), trace=True)
        return 0
    unexpected = 0
    large = (*FULL, *WITH.values()) if args.full else ()
    searches: Iterable[Config] = (*QUICK, *large, *WITHOUT.values())
    with ProcessPoolExecutor(args.processes) as pool:
        for config, result in zip(searches, pool.map(explore, searches), strict=True):
            holds = not config.off or config.off <= REDUNDANT
            unexpected += bool(result.violation) == holds
            show(result, trace=holds)
    print(f"{unexpected} unexpected results")
    return min(unexpected, 1)


if __name__ == "__main__":
    raise SystemExit(main())
