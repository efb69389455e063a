"""`python -m tests.demo`: adapter in, merged and proven model out, on this machine alone."""

import argparse
import logging
import signal
import sys
import warnings

from .home import moved_in
from .show import Broken, Show, Terminated


def main() -> int:
    """Returns 0 when everything that was promised holds, 1 when it does not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder, and say where it is")
    parser.add_argument("--serve", action="store_true", help="leave the Hub up at the end, for a browser")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminated)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    show = Show()
    try:
        return _play(show, keep=options.keep, serve=options.serve)
    except Broken as broken:
        show.promise(str(broken), kept=False)
        show.end()
        return 1
    except KeyboardInterrupt:
        show.say("\nStopped: the Hub is down, and nothing was left running.")
        return 130


def _play(show: Show, *, keep: bool, serve: bool) -> int:
    with moved_in(keep=keep) as home:
        show.title()
        # Not before the environment holds the Hub's address: its client reads it when it is imported.
        from . import looking, merging, proof, training

        for part in (training, merging, looking, proof):
            part.play(show, home)
        kept = show.end()
        if keep:
            show.say(f"Everything is in {home.folder}")
        if serve:
            looking.serve(show, home)
        return 0 if kept else 1


def _terminated(*_: object) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
