"""A CUDA device that is pretended on the CPU: what a GPU would refuse is refused, what it would wait for is counted.

Inside `PretendedCuda()` a tensor that is made or moved there keeps its numbers in the host's memory but counts as the
device's: `device` says so, mixing it with tensors of the host raises, and so does reading it without a copy. A copy to
the host that nobody waits for holds garbage until the device is waited for. A graph is a tape of the calls made during
its capture: a replay makes them again, writes where the first results stand, and leaves garbage where those of other
graphs in the same pool of memory stood.

The device is cuda:1, while cuda:0 is the current one, as for who chose a second GPU.

Non-goals: kernels, several streams, speed, how much memory there is, sums in another order than a CPU's, and every
hidden wait (of printing, say).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

PARAMETER = torch.nn.Parameter.__new__
CUDA, CPU, CURRENT = torch.device("cuda", 1), torch.device("cpu"), torch.device("cuda", 0)
READ = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__"}
SIZED_BY_NUMBERS = {"nonzero", "masked_select", "unique", "unique_consecutive", "equal", "allclose", "is_nonzero"}
MOVES = {"to", "cpu", "cuda", "pin_memory", "numpy", "__array__"}
OF_BOTH = {"copy_", "_has_compatible_shallow_copy_type", "__set__", "result_type"}  # devices may be mixed


class PretendedCuda(TorchFunctionMode):
    """The device.

    `waits` counts, by name, what made the host wait for it; `blocking` what was copied to it and blocked; `graphs` the
    graphs that were captured.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.blocking: Counter[str] = Counter()
        self.graphs = 0
        self.arriving: list[tuple[Tensor, Tensor]] = []  # on the host, and what will stand there
        self.graph: Graph | None = None  # being captured
        self.current = CURRENT

    def __enter__(self) -> PretendedCuda:
        super().__enter__()
        self.patches = ExitStack()
        device = mock.patch.multiple(
            torch.cuda,
            current_stream=self.stream_of,
            device=self.on,
            synchronize=self.synchronize,
            Stream=Stream,
            stream=nullcontext,
            CUDAGraph=Graph,
            graph=self.captured,
            mem_get_info=lambda device: (8 << 30, 8 << 30),
        )
        self.patches.enter_context(device)
        self.patches.enter_context(mock.patch.object(torch.nn.Parameter, "__new__", parameter))
        return self

    def __exit__(self, *error: Any) -> None:
        self.patches.close()
        super().__exit__(*error)

    def wait_stream(self, stream: Stream) -> None:
        """There is one stream only."""

    def stream_of(self, device: torch.device | None = None) -> PretendedCuda | Stream:
        """The device's stream, or that of another one, of which nothing comes."""
        return self if (device or self.current) == CUDA else Stream()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def captured(self, graph: Graph, pool: list[Graph] | None = None) -> Iterator[None]:
        assert self.current == CUDA, "a graph of another device"
        graph.pooled = [] if pool is None else pool
        graph.pooled.append(graph)
        self.graph, self.graphs = graph, self.graphs + 1
        try:
            yield
        finally:
            self.graph = None

    def synchronize(self) -> None:
        self.wait("synchronize")

    def wait(self, name: str) -> None:
        """What is on its way to the host arrives."""
        assert self.graph is None, f"{name} while a graph is captured"
        self.waits[name] += 1
        for target, numbers in self.arriving:
            target.numpy()[...] = numbers.numpy()
        self.arriving.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "__get__":
            return attribute(func, args[0])
        if name in MOVES:
            return self.moved(name, func, args, named)
        tensors = [each for each in tree_leaves((args, named)) if isinstance(each, Tensor)]
        here = any(map(there, tensors))
        if here and (name in READ or name in SIZED_BY_NUMBERS or selects_by_numbers(name, args)):
            self.wait(name)
        elif name == "copy_" and there(args[0]) != there(args[1]):
            here = there(args[0])
            if here:
                self.blocking[name] += 1
            else:
                self.wait(name)
        elif here and name not in OF_BOTH:
            indexed = name in ("__getitem__", "__setitem__") and there(args[0])
            hosts = [each for each in parts(args[1]) if is_index(each) and not there(each)] if indexed else []
            self.blocking[name] += len(hosts)  # an index of the host is copied
            strangers = [each for each in tensors if not there(each) and each.dim() and id(each) not in map(id, hosts)]
            assert not strangers, f"{resolve_name(func)}: numbers of the host beside the device's"
        if (device := named.get("device")) is not None:
            here = torch.device(device).type == "cuda"
            named["device"] = CPU if here else device
            self.blocking[name] += here and name in ("tensor", "as_tensor", "asarray")
        result = func(*args, **named)
        if self.graph is not None:
            self.graph.tape.append((func, args, named, result))
        if name == "__set__":
            return mark(args[0], there(args[1] if isinstance(args[1], Tensor) else args[0]))
        return mark(result, here)

    def moved(self, name: str, func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """What a tensor becomes at another place, or of another type."""
        tensor: Tensor = args[0]
        if name == "pin_memory":
            assert not there(tensor), "only the host's memory can be pinned"
            pinned = tensor.clone()
            pinned.pinned_as_pretended = True  # type: ignore[attr-defined]
            return pinned
        if name in ("numpy", "__array__"):
            if there(tensor):
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            return func(*args, **named)
        target, dtype, patient = destination(name, tensor, args[1:], named)
        result = tensor if dtype is None else tensor.to(dtype)
        if self.graph is not None:
            assert target == place(tensor), "a copy between host and device while a graph is captured"
            self.graph.tape.append((Tensor.to, (tensor, result.dtype), {}, result))
        if target == place(tensor):
            return mark(tensor.clone() if named.get("copy") else result, there(tensor))
        if target == CUDA:
            self.blocking[name] += not (patient and getattr(tensor, "pinned_as_pretended", False))
            return mark(result.clone(), True)
        copied = mark(result.clone(), False)
        if patient:
            self.arriving.append((copied, result.clone()))
            copied.numpy()[...] = garbage(copied)
        else:
            self.wait(name)
        return copied


class Stream:
    """Another stream."""

    def synchronize(self) -> None:
        """Nothing comes of it."""

    def wait_stream(self, stream: PretendedCuda) -> None:
        """There is one stream only."""


class Graph:
    """What was called while it was captured, in order."""

    def __init__(self) -> None:
        self.tape: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.pooled: list[Graph] = []

    def pool(self) -> list[Graph]:
        """The memory, by those that use it."""
        return self.pooled

    def spoil(self) -> None:
        """Another graph has used the memory."""
        for _, args, named, before in self.tape:
            given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, named)) if is_tensor(each)}
            for each in tree_leaves(before):
                if is_tensor(each) and each.untyped_storage().data_ptr() not in given:
                    each.fill_(garbage(each))

    def replay(self) -> None:
        with torch._C.DisableTorchFunction():
            for other in self.pooled:
                if other is not self:
                    other.spoil()
            for func, args, named, before in self.tape:
                for old, new in zip(tree_leaves(before), tree_leaves(func(*args, **named)), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def parameter(kind: Any, data: Any = None, requires_grad: bool = True) -> Any:
    """`torch.nn.Parameter`, which no mode sees made."""
    return mark(PARAMETER(kind, data, requires_grad), there(data))


def is_tensor(each: Any) -> bool:
    return isinstance(each, Tensor)


def there(tensor: Any) -> bool:
    """Whether a tensor counts as the device's."""
    return getattr(tensor, "pretended", False)


def place(tensor: Tensor) -> torch.device:
    """Where a tensor counts as being."""
    return CUDA if there(tensor) else CPU


def mark(result: Any, on_device: bool) -> Any:
    """A result whose tensors count as the device's, or as the host's."""
    for each in tree_leaves(result):
        if isinstance(each, Tensor):
            each.pretended = on_device  # type: ignore[attr-defined]
    return result


def garbage(tensor: Tensor) -> Any:
    """A number of a tensor's type that nobody wrote."""
    return float("nan") if tensor.is_floating_point() else True if tensor.dtype == torch.bool else -(1 << 40)


def attribute(func: Callable[..., Any], tensor: Tensor) -> Any:
    """An attribute of a tensor."""
    name = (resolve_name(func) or "").split(".")[-2]
    if there(tensor) and name in ("device", "is_cuda", "is_cpu"):
        return {"device": CUDA, "is_cuda": True, "is_cpu": False}[name]
    return mark(func(tensor), there(tensor))


def parts(index: Any) -> Sequence[Any]:
    """The parts of an index."""
    return index if isinstance(index, tuple) else (index,)


def is_index(part: Any) -> bool:
    """Whether a part of an index is of numbers that were written one by one."""
    return isinstance(part, list) or (isinstance(part, Tensor) and part.dim() > 0)


def selects_by_numbers(name: str, args: Sequence[Any]) -> bool:
    """Whether how much is selected depends on numbers of the device."""
    if name == "where":
        return len(args) == 1
    if name == "repeat_interleave":
        return isinstance(args[-1], Tensor)
    indexed = name in ("__getitem__", "__setitem__", "index_put_", "index_put")
    return indexed and any(isinstance(each, Tensor) and each.dtype == torch.bool for each in parts(args[1]))


def destination(
    name: str, tensor: Tensor, rest: Sequence[Any], named: Mapping[str, Any]
) -> tuple[torch.device, torch.dtype | None, bool]:
    """Where `to`, `cpu` or `cuda` moves a tensor, the type that it gets, and whether nobody waits for that."""
    if name != "to":
        return CUDA if name == "cuda" else CPU, None, bool(named.get("non_blocking"))
    if rest and isinstance(rest[0], Tensor):
        return place(rest[0]), rest[0].dtype, bool(named.get("non_blocking"))
    settings = {key: value for key, value in named.items() if key != "copy"}
    device, dtype, patient, _ = torch._C._nn._parse_to(*rest, **settings)
    wanted = place(tensor) if device is None else CUDA if device.type == "cuda" else CPU
    return wanted, dtype, bool(patient)
