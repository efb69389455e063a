"""The script that everybody writes: `python -m benchmarks.peft_script BASE ADAPTER OUT`. Nothing in it is ours."""

import sys

from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
model = PeftModel.from_pretrained(model, adapter)
model = model.merge_and_unload()
model.save_pretrained(out)
