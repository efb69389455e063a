"""Several LoRA adapters made into one, with the arithmetic of PEFT's `add_weighted_adapter`, in float32.

The functions on tensors are PEFT's own (`peft.utils.merge_utils`). What its method does to the config around them is
done here as it is meant: every module of every adapter is kept, and the factor of the new B·A is one, also where the
first adapter has rsLoRA, `layers_to_transform` or `exclude_modules`, which PEFT carries over from it to all.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils import merge_utils
from safetensors.torch import save_file
from torch import Tensor

from bot.errors import InternalError, RefusedError
from bot.merge.adapter import Adapter
from bot.merge.skeleton import PREFIX
from bot.merge.threads import one_thread
from bot.records import Plan
from bot.request import Recipe
from bot.weights.reader import read_tensors

FACTOR = re.compile(
    rf"{re.escape(PREFIX)}(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)"
)
STORED = ".base_layer.weight"
SELECTION = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """One adapter: what to call it, its patched config, the factor of B·A by module, its tensors by PEFT's names."""

    name: str
    config: Config
    scale: Callable[[str], float]
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Factors:
    """B·A of one module in one adapter, in float32: `a` (rank, …), `b` (out, rank, …), with its scale and weight."""

    a: Tensor
    b: Tensor
    scale: float
    weight: float

    def delta(self) -> Tensor:
        """Scale·B·A as a matrix, without the weight; a convolution's kernel is flattened."""
        return (self.b.flatten(1) @ self.a.flatten(1)) * self.scale


def load_ingredient(name: str, plan: Plan, *, path: Path, scale: Callable[[str], float]) -> Ingredient:
    """The adapter of a plan of its own. Raises RefusedError for one that is not finite or without effect."""
    Adapter(path, renamed=plan.renamed).check_effect(plan.bindings)
    tensors = read_tensors(path, renamed=plan.renamed)
    return Ingredient(name=name, config=plan.adapter_config, scale=scale, tensors=tensors)


def write(ingredients: Sequence[Ingredient], recipe: Recipe, *, rank: int, folder: Path) -> Config:
    """Combines into `adapter_model.safetensors` and `adapter_config.json` in `folder`; the answer is the config.

    Raises as `combine`.
    """
    config, tensors = combine(ingredients, recipe, rank=rank)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return config


def combine(
    ingredients: Sequence[Ingredient], recipe: Recipe, *, rank: int
) -> tuple[Config, dict[str, Tensor]]:
    """The config and the tensors (float32) of the one adapter. The same input gives the same bytes.

    `rank` is the largest that a decomposition may have. Raises RefusedError where the method does not apply to these
    adapters.
    """
    modules = _modules(ingredients, recipe.weights)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    with one_thread(), torch.no_grad():
        for (module, roles), factors in sorted(modules.items()):
            a, b = _combined(factors, recipe, rank=rank, module=module)
            tensors[f"{PREFIX}{module}.{roles[0]}"], tensors[f"{PREFIX}{module}.{roles[1]}"] = a, b
            ranks[module] = a.shape[0]
    config = _config([i.config for i in ingredients], ranks=ranks)
    return config, {n: t.contiguous().clone() for n, t in (tensors | _stored(ingredients)).items()}


def _modules(
    ingredients: Sequence[Ingredient], weights: Sequence[float]
) -> dict[tuple[str, tuple[str, str]], list[Factors]]:
    """The factors of every module, from those adapters that have it, by its name and the names of the two."""
    found: dict[tuple[str, tuple[str, str]], list[Factors]] = {}
    for ingredient, weight in zip(ingredients, weights, strict=True):
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in ingredient.tensors.items():
            if match := FACTOR.fullmatch(name):
                parts.setdefault(match[1], {})[match[2]] = tensor.float()
            elif not name.endswith(STORED):
                raise InternalError(f"{name} got past the plan.", advice="Report it.", code="not-combined")
        for module, pair in parts.items():
            first, second = sorted(pair)
            scale = ingredient.scale(module)
            factors = Factors(a=pair[first], b=pair[second], scale=scale, weight=weight)
            found.setdefault((module, (first, second)), []).append(factors)
    return found


def _combined(factors: list[Factors], recipe: Recipe, *, rank: int, module: str) -> tuple[Tensor, Tensor]:
    """A and B of one module."""
    with _seeded(recipe, module):
        if recipe.method == "cat":
            return torch.cat([f.a * f.weight * f.scale for f in factors]), torch.cat(
                [f.b for f in factors], dim=1
            )
        if recipe.method == "svd":
            return _decomposed_sum(factors, rank=rank)
        if recipe.method.endswith("_svd"):
            return _decomposed(factors, recipe, rank=rank)
        return _by_factor(factors, recipe, module=module)


def _by_factor(factors: list[Factors], recipe: Recipe, *, module: str) -> tuple[Tensor, Tensor]:
    """The method on all A and on all B: each gets the root of weight·scale, A its sign, too."""
    if len({f.a.shape[0] for f in factors}) > 1:
        ranks = " and ".join(str(f.a.shape[0]) for f in factors)
        raise _uneven(
            f"{module} has the ranks {ranks}: {recipe.method} adds up A and B, which takes equal ranks"
        )
    products = [f.weight * f.scale for f in factors]
    roots = [math.sqrt(abs(p)) for p in products]
    signed = [math.copysign(root, 1 if p >= 0 else -1) for root, p in zip(roots, products, strict=True)]
    task = _task(recipe)
    return task([f.a for f in factors], torch.tensor(signed)), task(
        [f.b for f in factors], torch.tensor(roots)
    )


def _task(recipe: Recipe) -> Callable[[list[Tensor], Tensor], Tensor]:
    """PEFT's function for the method, with the recipe's options."""
    method, density, sign = recipe.method.removesuffix("_svd"), recipe.density, recipe.majority_sign_method
    if method == "linear":
        return merge_utils.task_arithmetic
    function: Any = getattr(merge_utils, method)
    more = () if sign is None else (sign,)
    return lambda tensors, weights: function(tensors, weights, density, *more)


def _decomposed(factors: list[Factors], recipe: Recipe, *, rank: int) -> tuple[Tensor, Tensor]:
    """The method on the deltas, and the best approximation of what it gives by that rank."""
    delta = _task(recipe)([f.delta() for f in factors], torch.tensor([f.weight for f in factors]))
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    return _shaped(u * s, vh, rank=rank, like=factors[0])


def _decomposed_sum(factors: list[Factors], *, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of the weighted sum, from its factors: the sum has no more rank than all of them.

    With B = Q·R and Aᵀ = P·S it is Q·svd(R·Sᵀ)·Pᵀ, a decomposition of a matrix as small as the ranks.
    """
    a = torch.cat([f.a.flatten(1).double() * (f.weight * f.scale) for f in factors])
    b = torch.cat([f.b.flatten(1).double() for f in factors], dim=1)
    q, r = torch.linalg.qr(b)
    p, s = torch.linalg.qr(a.T)
    u, values, vh = torch.linalg.svd(r @ s.T, full_matrices=False)
    return _shaped((q @ u * values).float(), (vh @ p.T).float(), rank=rank, like=factors[0])


def _shaped(b: Tensor, a: Tensor, *, rank: int, like: Factors) -> tuple[Tensor, Tensor]:
    """A and B cut to the rank, in the shapes that the layer has them."""
    kept = min(rank, a.shape[0])
    return a[:kept].reshape(kept, *like.a.shape[1:]), b[:, :kept].reshape(b.shape[0], kept, *like.b.shape[2:])


def _config(configs: list[Config], *, ranks: Mapping[str, int]) -> Config:
    """The one adapter's config: the first's, with the factor 1 for every module."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    odd = {module: rank for module, rank in ranks.items() if rank != usual}
    config = {
        **configs[0],
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": odd,
        "alpha_pattern": dict(odd),
        "use_rslora": False,
        "init_lora_weights": True,
    }
    if any(_selection(other) != _selection(configs[0]) for other in configs[1:]):
        config |= {key: None for key in SELECTION if key in config}
        config["target_modules"] = sorted(ranks)
    return config


def _selection(config: Config) -> list[Any]:
    """What says which modules an adapter has, to be compared."""
    values = [config.get(key) or None for key in SELECTION if type(config.get(key)) is not int]
    numbers = [config[key] for key in SELECTION if type(config.get(key)) is int]
    return [sorted(v, key=str) if isinstance(v, list) else v for v in values] + numbers


def _stored(ingredients: Sequence[Ingredient]) -> dict[str, Tensor]:
    """The base's embeddings, which PEFT saves beside an adapter of them; all must have the same."""
    found: dict[str, Tensor] = {}
    for ingredient in ingredients:
        for name in (n for n in ingredient.tensors if n.endswith(STORED)):
            tensor = ingredient.tensors[name]
            if not torch.equal(found.setdefault(name, tensor).float(), tensor.float()):
                raise RefusedError(
                    f"{ingredient.name} stores another {name.removeprefix(PREFIX)} than the adapters before it.",
                    advice="The adapters were trained on different models: merge those of one base.",
                    code="bases-differ",
                )
    return found


@contextmanager
def _seeded(recipe: Recipe, module: str) -> Iterator[None]:
    """Random numbers of the module's own, so that they do not depend on what else the adapters have."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a density of 1 is allowed, and PEFT warns of it for each tensor
        if recipe.seed is not None:
            torch.manual_seed(module_seed(recipe.seed, module))
        yield


def module_seed(seed: int, module: str) -> int:
    """The seed of a module: 63 bits of the SHA-256 of the recipe's seed and the module's name."""
    digest = hashlib.sha256(f"{seed}:{module}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _uneven(sentence: str) -> RefusedError:
    return RefusedError(
        f"{sentence}.",
        advice="Use --combination cat (the exact weighted sum) or svd, which take different ranks.",
        code="ranks-differ",
    )
