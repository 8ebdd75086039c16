"""LoRA through peft, and what an adapter checkpoint is.

An adapter checkpoint is a folder that holds
- `adapter_model.safetensors`, `adapter_config.json`: peft's own files, loadable by peft alone;
- `o1_control_rows.safetensors`: `control_rows` [controls, dim], in the order of `Layout.control_ids`;
- `o1_adapter.json`: the base (folder or hub id, revision) and the digest of its weights and config;
- `o1_layout.json` and the tokenizer, as in every checkpoint of this package.

`load_adapter` puts the parts together again and refuses a base with another digest. The rows of control
tokens are never peft's `trainable_token_indices`, which copies the whole matrix in every forward pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import msgspec
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from o1_model.backbone import Backbone, Loading, grow_vocabulary, load_lm, load_tokenizer
from o1_model.layout import load_layout
from o1_records import InputError, MissingExtraError, Record, atomic_write
from o1_records.kit.models import digest_of_files, loading, model_files, model_folder

if TYPE_CHECKING:  # peft takes seconds to import
    from peft import LoraConfig

BASE_FILE = "o1_adapter.json"
ROWS_FILE = "o1_control_rows.safetensors"
WEIGHTS_FILE = "adapter_model.safetensors"
_PEFT = "base_model.model."  # how peft's files name the model


@dataclass(frozen=True)
class Lora:
    """The size of the adapter; the defaults are the paper's (O1 Embedder, section 4.1).

    `targets` are names of projections, such as "q_proj"; all of them unless given.
    """

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.1
    targets: tuple[str, ...] = ()


class Base(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that an adapter was trained on."""

    name_or_path: str
    revision: str | None = None
    digest: str


def add_lora(backbone: Backbone, lora: Lora) -> None:
    """Freeze the backbone and put an adapter on the linear projections of its layers.

    Only the adapter and the control rows train afterwards, both in float32. Raises InputError for targets
    that are no projections of the model.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=projections(backbone.lm, lora.targets),
        base_model_name_or_path=str(backbone.config.name_or_path),
    )
    _inject(backbone, config)


def four_bits(*, rank: int, merge: bool = False) -> Any:
    """Return QLoRA's quantisation of a frozen base, `nf4`.

    Raises InputError without an adapter to train or with one to merge, MissingExtraError without
    bitsandbytes.
    """
    if rank == 0 or merge:
        raise InputError(
            "load_in_4bit holds a frozen base under an adapter: give --lora_rank and leave out --merge "
            "(Embedder.from_pretrained puts the adapter on the base in full precision)"
        )
    return nf4()


def nf4() -> Any:
    """Return the quantisation of weights to 4 bits: NF4, computed in bfloat16 (arXiv 2305.14314).

    Raises MissingExtraError without bitsandbytes.
    """
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("o1-model", "qlora", "load_in_4bit")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def projections(lm: PreTrainedModel, names: Sequence[str] = ()) -> str:
    """Return a pattern for the linear projections inside a model's layers, whatever its family calls them.

    Heads and poolers are not part of a layer and do not match. `names` chooses some of them.
    """
    inside = re.compile(r".*\.layers?\.\d+\..*")
    linear = (name for name, m in lm.named_modules() if isinstance(m, nn.Linear) and inside.fullmatch(name))
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    if not leaves:
        raise InputError(
            f"a {lm.config.model_type} has no linear projections in layers; train the whole model"
        )
    unknown = sorted(set(names) - set(leaves))
    if unknown:
        raise InputError(f"no projections called {', '.join(unknown)}; there are {', '.join(leaves)}")
    return rf".*\.layers?\.\d+\..*\b({'|'.join(names or leaves)})"


def has_lora(backbone: Backbone) -> bool:
    """Return whether there is an adapter in the backbone."""
    return next(_adapted(backbone.lm), None) is not None


def merge_lora(backbone: Backbone) -> None:
    """Add the adapter to the weights and remove it, which leaves a plain model that computes the same."""
    for name, layer in list(_adapted(backbone.lm)):
        layer.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(backbone.lm.get_submodule(parent), leaf, layer.get_base_layer())
    del backbone.lm.peft_config
    backbone.requires_grad_(True)


def save_adapter(
    backbone: Backbone, folder: str | Path, base: Base, *, state: dict[str, Tensor] | None = None
) -> None:
    """Write the adapter and the name of its base, without control rows, layout and tokenizer.

    `state` is that of the language model if its weights are spread over processes.
    """
    from peft import get_peft_model_state_dict

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = backbone.lm.peft_config["default"]
    config.save_pretrained(str(folder))
    weights = get_peft_model_state_dict(backbone.lm, state_dict=state, save_embedding_layers=False)
    save_file({f"{_PEFT}{name}": _plain(value) for name, value in weights.items()}, folder / WEIGHTS_FILE)
    with atomic_write(folder / BASE_FILE) as file:
        file.write(msgspec.json.format(msgspec.json.encode(base), indent=1))


def save_control_rows(rows: Float[Tensor, "controls dim"], folder: str | Path) -> None:
    """Write the rows of the control tokens beside an adapter."""
    save_file({"control_rows": _plain(rows)}, Path(folder) / ROWS_FILE)


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder holds an adapter checkpoint of this package."""
    return (Path(folder) / BASE_FILE).exists()


def load_adapter(folder: str | Path, *, base: str | Path | None = None, **how: Unpack[Loading]) -> Backbone:
    """Return the base with the adapter of `folder` on it; `merge_lora` makes a plain model of it.

    `base` is where the base is now, if not where the training found it. Raises InputError when it is not
    the model that the adapter was trained on.
    """
    layout, known = load_layout(folder), read_base(folder)
    place = known.name_or_path if base is None else base
    # of the hub's copy alone: a folder has none, and the digest tells whether it is the same
    revision = known.revision if str(place) == known.name_or_path else None
    digest = base_digest(place, revision=revision)
    if digest != known.digest:
        raise InputError(
            f"{folder}: was trained on {known.name_or_path} with digest {known.digest[:12]}, "
            f"but {place} has {digest[:12]}; give the base that it belongs to"
        )
    lm = load_lm(place, revision=revision, **how)
    grow_vocabulary(lm, load_tokenizer(folder))
    backbone = Backbone(lm, layout.control_ids)
    from peft import LoraConfig

    _inject(backbone, LoraConfig.from_pretrained(str(folder)))
    load_adapter_weights(backbone, folder)
    return backbone


def load_adapter_weights(backbone: Backbone, folder: str | Path) -> None:
    """Copy a checkpoint's adapter and control rows into a backbone that has the same adapter."""
    from peft import set_peft_model_state_dict

    with loading(folder, "an adapter"):
        weights = load_file(Path(folder) / WEIGHTS_FILE)
        rows = load_file(Path(folder) / ROWS_FILE)["control_rows"]
    plain = {name.removeprefix(_PEFT): value for name, value in weights.items()}
    result: Any = set_peft_model_state_dict(backbone.lm, plain)
    if result.unexpected_keys:
        raise InputError(f"{folder}: its adapter does not fit the model: {result.unexpected_keys[:3]}")
    backbone.control_rows.data.copy_(rows)


def read_base(folder: str | Path) -> Base:
    """Return what an adapter checkpoint says about its base. Raises InputError when that is damaged."""
    path = Path(folder) / BASE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Base)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path}: cannot read the base of the adapter: {error}") from error


def base_of(name_or_path: str | Path, *, revision: str | None = None) -> Base:
    """Return the name of a base with the digest by which it is recognised."""
    digest = base_digest(name_or_path, revision=revision)
    return Base(name_or_path=str(name_or_path), revision=revision, digest=digest)


def base_digest(name_or_path: str | Path, *, revision: str | None = None) -> str:
    """Return the digest of a model's weights and config; an adapter has a tokenizer of its own.

    It is the same for a folder and for the hub's copy of it.
    """
    files = model_files(model_folder(name_or_path, revision))
    weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]
    return digest_of_files({name: files[name] for name in (*weights, "config.json")})


def _inject(backbone: Backbone, config: LoraConfig) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, backbone.lm)
    backbone.control_rows.requires_grad_(True)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _adapted(lm: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return ((name, module) for name, module in lm.named_modules() if isinstance(module, BaseTunerLayer))


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
