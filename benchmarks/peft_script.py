"""The script that everybody writes: `python -m benchmarks.peft_script BASE ADAPTER OUT [DEVICE]`.

Nothing in it is ours. Prints its seconds without the imports.
"""

import sys
import time

from peft import PeftModel
from transformers import AutoModelForCausalLM

started = time.perf_counter()
base, adapter, out, *device = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", device_map=device[0] if device else None)
model = PeftModel.from_pretrained(model, adapter)
model = model.merge_and_unload()
model.save_pretrained(out)
print(time.perf_counter() - started)
