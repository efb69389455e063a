"""Every line of a log for machines is one, whoever has something to say."""

import json
import subprocess
import sys

CODE = """
import logging, threading, warnings
from dbos._logger import init_logger
from bot import log
log.start("json")
class Awkward:
    def __del__(self):
        raise RuntimeError("Event loop is closed")
Awkward()
def breaks():
    raise ValueError("hf_abcdefghijklmnopqrstuvwxyz123456")
thread = threading.Thread(target=breaks, name="helper")
thread.start(); thread.join()
warnings.warn("old")
init_logger()
logging.getLogger("dbos").error("two\\nlines")
"""


def test_what_goes_wrong_at_the_edges_is_a_line_too():
    told = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stderr
    lines = [json.loads(line) for line in told.splitlines()]
    assert [line["logger"] for line in lines] == ["python", "python", "py.warnings", "dbos"]
    assert "Event loop is closed" in lines[0]["trace"]
    assert lines[1]["message"] == "helper ended"
    assert "hf_abc" not in told
