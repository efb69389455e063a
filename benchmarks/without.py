"""`python -m benchmarks.without MODULE ARGUMENTS…`: runs a module as if bitsandbytes were not installed.

The tests need it, and where it is, importing PEFT takes seconds longer: nobody who merges has to pay that.
"""

import runpy
import sys

sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
