"""How fast a model generates and how much memory it takes, adapter against merged. Figures of a machine, no verdict."""

from __future__ import annotations

import statistics
import threading
import time
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from transformers import GenerationConfig

from bot.evidence import Pace, Speed
from bot.weights.device import name_of
from bot.weights.memory import private
from bot.wording import counted

PATIENCE = 1.0  # seconds for one run
TOKENS = 32  # of a run that ends by itself
LEAST = 500_000  # parameters: what smaller ones take is Python's time
RUNS = 3  # for the first token; the median counts
OFTEN = 0.005  # seconds between two looks at the memory
TEXT = {"input_ids", "attention_mask", "decoder_input_ids"}


@torch.no_grad()
def pace(model: Any, rows: list[dict[str, Tensor]], *, device: str) -> Pace | None:
    """The model's pace with the first prompt of text; None where it does not generate from one.

    `model` is on the device. What it says is chosen greedily, and does not end before `TOKENS` or `PATIENCE`.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    prompt = next((row for row in rows if "input_ids" in row and row.keys() <= TEXT), None)
    if prompt is None or not plain.can_generate() or plain.num_parameters() < LEAST:
        return None
    run = _Run(plain, prompt, device=device)
    try:
        run.seconds(1)  # warm-up
        with _Watch(device) as watch:
            first = [run.seconds(1)]
            while len(first) < RUNS and sum(first) + first[0] < PATIENCE:
                first.append(run.seconds(1))
            seconds = run.seconds(TOKENS)
    except Exception:  # noqa: BLE001  # a figure and no proof: generation wants more of a model than its answers do
        return None
    return Pace(
        tokens_per_second=float(f"{run.tokens / seconds:.4g}"),
        first_token_seconds=float(f"{statistics.median(first):.4g}"),
        peak_bytes=watch.most or None,
        tokens=run.tokens,
    )


def speed(*, adapter: Pace | None, merged: Pace | None, device: str) -> Speed | None:
    """Both together; None unless both were measured."""
    if adapter is None or merged is None:
        return None
    where = name_of(device) or f"the CPU with {counted(torch.get_num_threads(), 'thread')}"
    return Speed(place=where, adapter=adapter, merged=merged)


class _Run:
    """Generation from one prompt. `tokens`: how many the last run gave."""

    def __init__(self, model: Any, prompt: dict[str, Tensor], *, device: str) -> None:
        self._model, self._device = model, device
        self._prompt = {k: v[:1].to(device) for k, v in prompt.items() if k != "decoder_input_ids"}
        self._skipped = 1 if model.config.is_encoder_decoder else prompt["input_ids"].shape[1]
        self.tokens = 0

    def seconds(self, most: int) -> float:
        """How long it takes to generate so many tokens, or as many as there is time for."""
        own = self._model.generation_config
        end = own.eos_token_id
        asked = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=most,
            min_new_tokens=most,
            max_time=PATIENCE,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end[0] if isinstance(end, list) else end,
            decoder_start_token_id=own.decoder_start_token_id,
        )
        start = time.perf_counter()
        found = self._model.generate(**self._prompt, generation_config=asked)
        if self._device == "cuda":
            torch.cuda.synchronize()
        taken = time.perf_counter() - start
        self.tokens = found.shape[1] - self._skipped
        return taken


class _Watch:
    """The most memory that is taken meanwhile: of the GPU, or the process's own. `most` is 0 where nobody tells.

    The kernel's own count of a process's peak cannot begin anew without being lost for the whole merge.
    """

    def __init__(self, device: str) -> None:
        self._device, self._done = device, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most = 0

    def __enter__(self) -> Self:
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device == "cuda":
            self.most = torch.cuda.max_memory_allocated()
        else:
            self._done.set()
            self._thread.join()

    def _look(self) -> None:
        while True:
            self.most = max(self.most, private())
            if self._done.wait(OFTEN):
                return
