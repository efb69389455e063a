"""What would hold up every answer at once."""

import subprocess
import sys

from tests.serve.process import HERE

SCRIPT = """
import asyncio, gc, os, signal, threading
import bot.commands.serve, bot.serve.app
from bot.serve.run import run
from bot.serve.service import Service

class Work:
    def start(self):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()

    def stop(self, *, seconds):
        print(gc.get_freeze_count(), len(gc.get_objects()))

asyncio.run(run(Service(), [], work=Work(), seconds=20))
"""


def test_the_search_for_garbage_passes_over_what_was_there_at_the_start():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=HERE, capture_output=True, text=True, check=True, timeout=30
    )
    passed_over, searched = map(int, done.stdout.split())
    assert passed_over > 10 * searched
