"""Measure dokrun beside the raw limits of this machine, and with `--peers` beside others; print medians and spreads.

    make bench
    make bench-peers
    python benchmarks/run.py --rounds 1 map array

Each driver runs in a process of its own, all systems one after another in each round: where the machine is slower for
a while, it is so for all of them. In a network namespace with nothing but loopback, where that can be had: no peer
reaches anything else, and what goes over sockets is counted. It fails for no figure.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import systems
from plan import CASES, OURS, Case
from results import compared, figures, lines, versions

Taken = dict[tuple[str, str], dict[str, Any]]
NO_NAMESPACE = (
    "there can be no network namespace with loopback alone here (unshare and ip, as root or with user namespaces): "
    "bytes are not counted, and peers are left out"
)


def main() -> None:
    """Measure, print, and write."""
    workloads = sorted({case.workload for case in CASES})
    parser = argparse.ArgumentParser(description="Measure dokrun, and others beside it.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"all, or some of {', '.join(workloads)}")
    parser.add_argument("--peers", action="store_true", help="others too; what is missing is installed into .bench")
    parser.add_argument("--rounds", type=int, default=3, help="how often; what takes minutes is run once")
    parser.add_argument(
        "--limit", type=float, default=systems.LIMIT_S, help="seconds that others may take for a workload"
    )
    parser.add_argument("--json", type=Path, help="write the results there, too")
    asked = parser.parse_args()
    if unknown := set(asked.workloads) - set(workloads):
        parser.error(f"there is no workload {', '.join(sorted(unknown))}; there are {', '.join(workloads)}")
    if not systems.is_apart():
        way = systems.way_apart()
        if way is None:
            print(NO_NAMESPACE, file=sys.stderr)
        else:
            if asked.peers:
                systems.install()  # while there is a way out
            systems.go_apart(way)
    cases = [case for case in CASES if not asked.workloads or case.workload in asked.workloads]
    rounds: list[Taken] = []
    try:
        measure(rounds, cases, asked.rounds, asked.limit, peers=asked.peers and systems.is_apart())
    except KeyboardInterrupt:
        print("ended here; what follows is what has been measured by now", file=sys.stderr)
    told = result(rounds)
    print("\n".join(lines(told)))
    if asked.json is not None:
        asked.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(rounds: list[Taken], cases: list[Case], count: int, limit_s: float, *, peers: bool) -> None:
    """Run everything, in rounds, which are added as they come. What could not be done once is not tried again."""
    hopeless: list[tuple[Case, str, str]] = []
    for number in range(count):
        rounds.append({})
        for case in cases:
            for system in case.systems if number < case.rounds else ():
                if system not in OURS and not peers:
                    continue
                why = next((why for other, whose, why in hopeless if whose == system and case.is_no_less(other)), None)
                started = time.monotonic()
                most_s = systems.LIMIT_S if system in OURS else limit_s
                told = systems.run(system, case, most_s) if why is None else {"unsupported": why}
                rounds[-1][case.key, system] = told
                if why is None and "unsupported" in told:
                    hopeless.append((case, system, told["unsupported"]))
                outcome = told.get("unsupported", f"{time.monotonic() - started:.0f} s")
                print(f"round {number + 1}: {case.key}, {system}: {outcome}", file=sys.stderr)


def result(rounds: list[Taken]) -> dict[str, Any]:
    """Tell all that was measured, and on what."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "machine": systems.machine(),
        "python": platform.python_version(),
        "rounds": len(rounds),
        "versions": versions(rounds),
        "figures": figures(rounds),
        "compared": compared(rounds),
    }


if __name__ == "__main__":
    main()
