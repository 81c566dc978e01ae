"""`python -m onemachine up|down|status|env|image|halt|resume|kill|start|enter`.

Owns the command line: what `make cluster-*` runs and what a test calls to break something.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

from . import down, layout, status, unit, up
from .shell import Failed


def say(text: str) -> None:
    print(f"cluster: {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m onemachine", description=layout.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("up", "bring the cluster up"), ("image", "build and load LIFL's image")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--tag", default="dev", help="of dev.local/lifl (default: dev)")
    commands.add_parser("down", help="take everything away")
    commands.add_parser("env", help="what a shell has to evaluate to use it")
    commands.add_parser("status", help="what runs and what is wrong")
    for name, text in (("halt", "kill a program and keep it away"), ("resume", "start it again")):
        command = commands.add_parser(name, help=text)
        command.add_argument("unit", help="control, door, n1, n2")
        command.add_argument("program", help="apiserver, kubelet, ...: see status")
    command = commands.add_parser("kill", help="cut a unit's power")
    command.add_argument("unit")
    command = commands.add_parser("start", help="a node that was killed has power again")
    command.add_argument("node", help="n1, n2")
    command = commands.add_parser("enter", help="run a command inside a unit")
    command.add_argument("unit")
    command.add_argument("words", nargs=argparse.REMAINDER)
    return parser


def main() -> int:
    options = _parser().parse_args()
    # Ctrl-C is an exception already; what a terminal or CI sends when it goes becomes one.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    cluster = layout.from_environment()
    match options.command:
        case "up":
            up.up(cluster, tag=options.tag, say=say)
            print(up.exports(cluster))
        case "image":
            say(up.image(cluster, tag=options.tag, say=say))
        case "down":
            down.down(cluster)
            say("down")
        case "env":
            print(up.exports(cluster))
        case "status":
            print(status.report(cluster))
            problems = status.problems(cluster)
            for problem in problems:
                say(problem)
            return 1 if problems else 0
        case "halt":
            unit.halt(cluster, options.unit, options.program)
        case "resume":
            unit.resume(cluster, options.unit, options.program)
        case "kill":
            unit.kill(cluster, options.unit)
        case "start":
            up.start(cluster, options.node, say=say)
        case "enter":
            words = options.words[1:] if options.words[:1] == ["--"] else options.words
            shell = words or [os.environ.get("SHELL", "/bin/sh")]
            return subprocess.run([*unit.enter(cluster, options.unit), *shell]).returncode
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"cluster: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
