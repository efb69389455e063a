"""`python -m tests.demo.plain ID…`: judges models as anyone would load them, where PEFT cannot even be imported."""

import json
import sys
from dataclasses import asdict

sys.modules["peft"] = None  # before transformers looks for it: an `import peft` fails from here on


def main(names: list[str]) -> None:
    """Prints one JSON object: for each ID (owner/name or owner/name@revision) its verdict."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import is_peft_available

    from .judge import judge

    if is_peft_available():
        sys.exit("PEFT can be imported: this would prove nothing")
    verdicts = {}
    for name in names:
        repo_id, _, revision = name.partition("@")
        model = AutoModelForCausalLM.from_pretrained(repo_id, revision=revision or "main")
        tokenizer = AutoTokenizer.from_pretrained(repo_id, revision=revision or "main")
        verdicts[name] = asdict(judge(model, tokenizer))
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main(sys.argv[1:])
