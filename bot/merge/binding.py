"""Binds an adapter to a base: config and headers in, one `Binding` per changed tensor out. No weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedModel

from bot.errors import RefusedError
from bot.merge.base_check import OPEN_ENDED, brought, check_missing, check_shapes
from bot.merge.biases import lost_biases
from bot.merge.called import check_called
from bot.merge.choice import choose_model, is_part, part_of, under
from bot.merge.conversion import Converter, Group
from bot.merge.experts import old_experts
from bot.merge.model import Names, find_names, load_config
from bot.merge.operations import Operations, find_operations
from bot.merge.renaming import modern_config, patched
from bot.merge.scaled import check_scaled
from bot.merge.skeleton import inject, peft_config
from bot.merge.ties import tied_groups, untie, untie_edits
from bot.merge.today import REASON as TODAY
from bot.merge.today import Today, rename
from bot.records import AddedTensor, Binding, Bound, ConfigEdit
from bot.weights.header import FLOATS, TensorSpec
from bot.weights.layout import Layout


def bind(
    config: dict[str, Any],
    *,
    adapter_config: dict[str, Any],
    tensors: Mapping[str, TensorSpec],
    layout: Layout,
    name: str,
    whole: bool = False,
) -> Bound:
    """Binds `tensors` (the adapter's, by name) to `layout` (the base's). `config` is the base's config.json.

    `whole`: transformers loads the model before the merge, so what it cannot write back in the base's own form may be
    stored under the names that it has today.

    Raises RefusedError for whatever names, shapes and configs show to be wrong, InputError for a broken config.
    """
    transformers_config = load_config(config, name=name)
    model, renamed = choose_model(
        transformers_config, adapter_config=adapter_config, tensors=tensors, name=name
    )
    patches = modern_config(model, adapter_config, keys=tensors, renamed=renamed) if renamed else ()
    adapter_config, tensors = patched(adapter_config, patches), under(tensors, renamed)
    names = find_names(model, layout=layout)
    converter = Converter(model)  # before PEFT puts its layers into the model
    converter.learn(layout.tensors)
    peft_model = inject(model, config=peft_config(adapter_config))
    init, version = adapter_config.get("init_lora_weights"), adapter_config.get("peft_version")
    check_scaled(peft_model, version=version)
    silent = check_called(peft_model, init=init)
    tensors, experts = old_experts(peft_model, tensors=tensors, version=version)
    operations = find_operations(peft_model, tensors=tensors, plain=names.shapes, init=init)
    biases = lost_biases(operations, names=names, bias=adapter_config.get("bias"))
    untied = untie(operations, names=names, keep_tied=bool(adapter_config.get("ensure_weight_tying")))
    check_shapes(names, layout=layout, brought=brought(operations, names=names, tensors=tensors), name=name)
    modern = _only_under_todays_names(operations, names=names, converter=converter, whole=whole)
    notes = check_missing(model, names=names, operations=operations, adapter_config=adapter_config)
    edits = untie_edits(config, model=model, untied=untied, operations=operations, names=names)
    bindings = _bindings(operations, names=names, layout=layout, tensors=tensors)
    today = Today(tuple(bindings))
    if modern:
        today = rename(bindings, names=names, operations=operations, layout=layout)
    return Bound(
        model_class=type(model).__name__,
        vocabulary=_vocabulary(model),
        bindings=today.bindings,
        added=tuple(_added(today.bindings, layout=layout, places=today.places)),
        dropped=today.dropped,
        config_edits=(*edits, *_head_edits(config, model=model, adapter_config=adapter_config)),
        renamed=renamed,
        patches=patches,
        experts=experts,
        adapter_config=adapter_config if patches else None,
        notes=(
            *notes,
            *biases,
            *silent,
            *part_of(config, model=model, name=name),
            *_old_layout(experts),
            *today.notes,
        ),
    )


def _only_under_todays_names(
    operations: Operations, *, names: Names, converter: Converter, whole: bool
) -> bool:
    """Whether some group of tensors cannot be written back in the base's own form.

    Raises RefusedError in that case where `whole` does not allow the other.
    """
    groups = dict.fromkeys(names.converted[p] for p in operations.of if p in names.converted)
    if whole:
        return not all(converter.can_write(group) for group in groups)
    for group in groups:
        converter.check(group)
    return False


def _old_layout(experts: Mapping[str, int]) -> list[str]:
    layout = f"{len(experts)} pairs of expert factors are stored as PEFT did before 0.19.1, and rearranged"
    return [layout] if experts else []


def _vocabulary(model: PreTrainedModel) -> int | None:
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except (AttributeError, NotImplementedError):  # what transformers raises for models without embeddings
        return None
    return weight.shape[0] if weight is not None and weight.ndim == 2 else None


def _bindings(
    operations: Operations, *, names: Names, layout: Layout, tensors: Mapping[str, TensorSpec]
) -> list[Binding]:
    siblings = {m: group for group in tied_groups(names) for m in group}
    found = []
    done: set[Group] = set()
    for parameter, operation in operations.of.items():
        group = names.converted.get(parameter)
        if group is not None:
            found += (
                _converted(group, parameter, operations=operations, layout=layout)
                if group not in done
                else []
            )
            done.add(group)
            continue
        on_disk = [names.disk[m] for m in [parameter, *siblings.get(parameter, [])] if m in names.disk]
        source = None if operation.method == "replace" else _source(parameter, on_disk=on_disk)
        tensor = names.disk.get(parameter, parameter)
        spec = layout.tensors.get(tensor) or (
            layout.tensors[source] if source else tensors[operation.adapter[0]]
        )
        _check_dtype(spec)
        found.append(
            Binding(
                tensor=tensor,
                source=source,
                parameter=parameter,
                method=operation.method,
                adapter=operation.adapter,
                shape=names.shapes[parameter],
                dtype=spec.dtype,
                scale=operation.scale,
            )
        )
    return found


def _converted(group: Group, parameter: str, *, operations: Operations, layout: Layout) -> list[Binding]:
    """One binding for each tensor of a group: all of them are written anew when one of its parameters changes."""
    changes = [operations.of[p] for p in group.parameters if p in operations.of]
    if any(change.method == "copy" for change in changes):
        raise RefusedError(
            f"The adapter unties {parameter}, which the base stores in another form than the model uses.",
            advice="Save the base once with a current transformers (save_pretrained) and name it with --base.",
            code="converted-weights",
        )
    keys = tuple(dict.fromkeys(key for change in changes for key in change.adapter))
    specs = [layout.tensors[tensor] for tensor in group.tensors]
    for spec in specs:
        _check_dtype(spec)
    return [
        Binding(
            tensor=spec.name,
            source=spec.name,
            parameter=parameter,
            method=f"{changes[0].method}_converted",
            adapter=keys,
            shape=spec.shape,
            dtype=spec.dtype,
        )
        for spec in specs
    ]


def _source(parameter: str, *, on_disk: list[str]) -> str:
    if not on_disk:
        raise RefusedError(
            f"The adapter changes {parameter}, which the base does not hold.",
            advice="Name the base that the adapter was trained on with --base.",
            code="weights-missing",
        )
    return on_disk[0]


def _check_dtype(spec: TensorSpec) -> None:
    if spec.dtype not in FLOATS:
        raise RefusedError(
            f"{spec.name} is stored as {spec.dtype}, which no adapter can be added to without loss.",
            advice="Name the full-precision model with --base.",
            code="base-quantized",
        )


def _added(bindings: Iterable[Binding], *, layout: Layout, places: Mapping[str, str]) -> list[AddedTensor]:
    reasons = {"copy": "untied from what it shared", "replace": "brought by the adapter"}
    return [
        AddedTensor(
            name=b.tensor,
            shape=b.shape,
            dtype=b.dtype,
            reason=TODAY if b.tensor in places else reasons.get(b.method, "untied and merged"),
            place=places.get(b.tensor),
        )
        for b in bindings
        if b.tensor not in layout.tensors
    ]


def _head_edits(
    config: dict[str, Any], *, model: PreTrainedModel, adapter_config: dict[str, Any]
) -> list[ConfigEdit]:
    """Edits that make plain transformers build the class and the head that the adapter was trained with."""
    edits = []
    class_name, before = type(model).__name__, config.get("architectures")
    whole = not is_part(config, model)
    if whole and class_name not in (before or []) and str(adapter_config.get("task_type")) not in OPEN_ENDED:
        reason = f"the adapter was trained on {class_name}"
        edits.append(ConfigEdit(key="architectures", before=before, after=[class_name], reason=reason))
    plain = load_config(config, name="the base")
    edits += _vocabulary_edits(config, before=plain.get_text_config(), after=model.config.get_text_config())
    labels = plain.num_labels
    if model.config.num_labels != labels:
        reason = f"the adapter's head has {model.config.num_labels} labels; their names are not known"
        id2label = {str(i): f"LABEL_{i}" for i in range(model.config.num_labels or 0)}
        label2id = {label: int(i) for i, label in id2label.items()}
        edits.append(ConfigEdit(key="id2label", before=config.get("id2label"), after=id2label, reason=reason))
        edits += [
            ConfigEdit(key=k, before=config[k], after=model.config.num_labels, reason=reason)
            for k in ("num_labels", "_num_labels")
            if k in config
        ]
        edits.append(ConfigEdit(key="label2id", before=config.get("label2id"), after=label2id, reason=reason))
    return edits


def _vocabulary_edits(config: dict[str, Any], *, before: Any, after: Any) -> list[ConfigEdit]:
    old, new = getattr(before, "vocab_size", None), getattr(after, "vocab_size", None)
    if old == new:
        return []
    key = "vocab_size" if "vocab_size" in config or "text_config" not in config else "text_config.vocab_size"
    reason = f"the adapter's embeddings have {new} rows, the base's {old}"
    return [ConfigEdit(key=key, before=old, after=new, reason=reason)]
