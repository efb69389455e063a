"""What .github/workflows/selftest.yml runs around the action: a Hub with tiny models before it, a look afterwards.

`python -m tests.action.selftest start | check | stop`. `start` leaves a process behind and tells the job its address.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE, ADAPTER, PROMPTS, MERGED = "tester/base", "tester/lora", "tester/prompts", "tester/merged"
OWNER = "tester"
STEPS = 8
SECONDS = 120


def start() -> int:
    """Starts the Hub, and hands its address and a token to the steps that follow."""
    root = Path(os.environ["RUNNER_TEMP"]) / "selftest"
    root.mkdir()
    with (root / "log").open("wb") as log:
        command = [sys.executable, "-m", "tests.action.selftest", "serve", str(root)]
        hub = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    (root / "pid").write_text(str(hub.pid))
    ready, deadline = root / "ready.json", time.monotonic() + SECONDS
    while not ready.exists():
        if hub.poll() is not None or time.monotonic() > deadline:
            print((root / "log").read_text())
            return 1
        time.sleep(0.1)
    environment = json.loads(ready.read_text())
    token = environment.pop("HF_TOKEN")
    print(f"::add-mask::{token}")
    _append("GITHUB_ENV", environment | {"HF_HOME": str(root / "home")})
    _append("GITHUB_OUTPUT", {"adapter": ADAPTER, "prompts": PROMPTS, "merged": MERGED, "token": token})
    return 0


def serve(root: Path) -> int:
    """The Hub itself, with the demo's models after a few steps of training, until it is stopped."""
    from tests.hub.server import LoopbackHub

    _train(root)
    with LoopbackHub(root / "hub") as hub:
        hub.add_user(OWNER)
        for name in (BASE, ADAPTER, PROMPTS):
            hub.commit(name, root / name)
        with tempfile.NamedTemporaryFile("w", dir=root, delete=False) as file:
            json.dump(hub.environment(OWNER), file)
        Path(file.name).rename(root / "ready.json")
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


def _train(root: Path) -> None:
    """A base, a LoRA on it, and an adapter that no weight can hold."""
    import torch
    from safetensors.torch import save_file

    from tests.demo import lessons, texts
    from tests.tiny.adapters import edit_config

    torch.set_num_threads(1)  # matrices this small only lose time to more
    stories, entries = texts.tales(60, seed=0), texts.log(60, seed=1)
    words = lessons.tokenizer(stories + entries)
    lessons.save(lessons.base(words, stories, steps=STEPS, tell=_silent), words, root / BASE)
    tuned = lessons.adapter(str(root / BASE), words, entries, steps=STEPS, tell=_silent)
    tuned.save_pretrained(root / ADAPTER)
    edit_config(root / ADAPTER, base_model_name_or_path=BASE)
    (root / ADAPTER / "README.md").unlink()  # PEFT names the folder of the base in it
    (root / PROMPTS).mkdir()
    kind = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    config = json.dumps(kind | {"base_model_name_or_path": BASE})
    (root / PROMPTS / "adapter_config.json").write_text(config)
    save_file({"prompt_embeddings": torch.zeros(4, 128)}, root / PROMPTS / "adapter_model.safetensors")


def _silent(*_: object) -> None:
    pass


def check() -> int:
    """Holds what the steps said against what is on the Hub. Prints every promise; 1 if one is broken."""
    told = os.environ
    promises = {
        "Without a destination it plans, and publishes nothing": told["PLAN_OUTCOME"] == "skipped"
        and json.loads(told["PLAN"])["adapter"]["location"] == ADAPTER,
        "The merge is published": told["OUTCOME"] == "published" and told["REPOSITORY"] == MERGED,
        "Its commit is the head of the repository": told["COMMIT"] == _head(MERGED, token=told["TOKEN"]),
        "Its report is a file": Path(told["REPORT"]).is_file(),
        "What cannot be merged is refused with a reason": told["REFUSED"] == "refused"
        and bool(told["REASON"]),
        "What is published is base + adapter": _is_sum(token=told["TOKEN"]),
    }
    for sentence, kept in promises.items():
        print(f"{'✓' if kept else '✗ BROKEN:'} {sentence}.")
    return 0 if all(promises.values()) else 1


def stop() -> int:
    """Ends the Hub."""
    os.kill(int((Path(os.environ["RUNNER_TEMP"]) / "selftest/pid").read_text()), signal.SIGTERM)
    return 0


def _head(repo_id: str, *, token: str) -> str | None:
    from huggingface_hub import HfApi

    return HfApi(token=token).model_info(repo_id).sha


def _is_sum(*, token: str) -> bool:
    """Of every tensor on the Hub, by arithmetic of our own: W + B A · alpha / r."""
    import numpy as np
    from huggingface_hub import snapshot_download
    from safetensors.numpy import load_file

    def tensors(repo_id: str) -> dict[str, np.ndarray]:
        folder = Path(snapshot_download(repo_id, token=token))
        return {
            name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()
        }

    base, lora, merged = tensors(BASE), tensors(ADAPTER), tensors(MERGED)
    config = json.loads(Path(snapshot_download(ADAPTER, token=token), "adapter_config.json").read_text())
    for name, down in lora.items():
        if name.endswith(".lora_A.weight"):
            delta = lora[name.replace("lora_A", "lora_B")] @ down * (config["lora_alpha"] / config["r"])
            weight = name.removeprefix("base_model.model.").replace(".lora_A", "")
            base[weight] = base[weight] + delta
            assert np.abs(delta).max() > 1e-4
    return merged.keys() == base.keys() and all(np.allclose(merged[n], base[n], atol=1e-6) for n in base)


def _append(variable: str, values: dict[str, str]) -> None:
    with Path(os.environ[variable]).open("a", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    sys.exit({"start": start, "check": check, "stop": stop, "serve": lambda: serve(Path(rest[0]))}[verb]())
