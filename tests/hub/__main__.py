"""`python -m tests.hub`: the loopback hub on its own; prints its URL and one token per user, serves until stopped."""

import argparse
import signal
import threading
from pathlib import Path

from .server import LoopbackHub


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--root", type=Path, required=True, help="everything is kept below this folder")
    parser.add_argument("--user", action="append", default=[], metavar="NAME[:ORG,ORG]")
    parser.add_argument("--verbose", action="store_true", help="log requests to stderr")
    options = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with LoopbackHub(options.root, port=options.port, verbose=options.verbose) as hub:
        print(hub.url, flush=True)
        for text in options.user:
            name, _, orgs = text.partition(":")
            print(hub.add_user(name, orgs=filter(None, orgs.split(","))), flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
