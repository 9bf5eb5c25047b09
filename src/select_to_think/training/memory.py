"""How much memory a training will need at its peak, found out before it starts.

The step of the longest rows is run on tensors without content (`FakeTensorMode`): the model's own forward, losses and
backward, every result counted from the operation that makes it until nothing refers to it any more. So the answer holds
for any model, mode, precision, and with or without checkpointing. What an operation needs inside itself is not seen.

Non-goals: memory of the process besides tensors (libraries, files, fragmentation).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from select_to_think.contexts.kv import GIB, free_bytes
from select_to_think.structures import S2TError

ADAM_STATES = 2  # of every trained number


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of tensors."""

    weights: int  # of the models, there before the training
    states: int  # what stays through the steps: of the optimiser, and gradients while they are added up
    step: int  # at the peak of one forward and backward of the longest rows, new gradients among them

    @property
    def needed(self) -> int:
        """What the training adds at its peak to the weights that are there."""
        return self.states + self.step

    def to_json(self) -> dict[str, int]:
        """As a summary holds it."""
        return {f"{name}_bytes": size for name, size in {**asdict(self), "needed": self.needed}.items()}


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, Tensor):
                self.note(each, counted=True)
        return out

    def note(self, tensor: Tensor, *, counted: bool) -> None:
        """Know the tensor's storage from now on; views and tensors that were there before do not count."""
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes() if counted else 0
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        """The storage is gone."""
        self.known.discard(key)
        self.live -= size


def predict(
    module: nn.Module,
    batch: Mapping[str, Tensor],
    loss: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    device: torch.device,
    bf16: bool = False,
    sums_gradients: bool = False,
) -> Memory | None:
    """What a training of `module` needs if `batch` is its largest; None where the model looks into its tensors.

    `loss` is that of what the module returns. `sums_gradients`: a step adds up several batches.
    """
    trained = [each for each in module.parameters() if each.requires_grad]
    states = sum(each.nbytes for each in trained)
    fake, live = FakeTensorMode(allow_non_fake_inputs=True), Live()
    there = [fake.from_tensor(each) for each in (*module.parameters(), *module.buffers(), *batch.values())]
    for each in there:
        live.note(each, counted=False)
    try:
        with fake, live, torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss(module(**{name: tensor.to(device) for name, tensor in batch.items()})).backward()
    except RuntimeError:  # what operations raise whose result depends on content
        return None
    finally:
        module.zero_grad()
    weights = sum(each.nbytes for each in module.parameters() if not each.requires_grad)
    return Memory(weights, states * (ADAM_STATES + sums_gradients), live.peak)


def require(memory: Memory, device: torch.device) -> None:
    """Refuse a training that cannot end well.

    Raises:
        S2TError: it needs more than is free.
    """
    free = free_bytes(device)
    if memory.needed > free:
        raise S2TError(
            f"a training step needs {memory.needed / GIB:.1f} GiB beside the models, and {free / GIB:.1f} GiB are "
            "free: lower --micro-batch, or add --gradient-checkpointing"
        )
