"""A torch module as a graph of the engine, by torch.export."""

import contextlib
import operator
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch.export import Dim

from ..errors import UnsupportedOperation
from . import elementwise, layers, shapes  # noqa: F401  (they fill the table)
from .builder import Builder
from .table import TABLE
from .values import Constant, Dims, Parameter, Unsupported, Value

#: Operations that are known as a whole and not taken apart.
KEPT = (
    "aten.linear.default", "aten.scaled_dot_product_attention.default", "aten.matmul.default", "aten.silu.default",
    "aten.hardswish.default", "aten.hardsigmoid.default", "aten.mish.default", "aten.softplus.default",
    "aten.rms_norm.default", "aten.instance_norm.default", "aten.leaky_relu.default", "aten.elu.default",
)  # fmt: skip


@dataclass(frozen=True)
class Imported:
    """A graph, and how its output lies: [batch * positions, ...] in torch's shape is `positions` axes in the engine's."""

    graph: object
    output: Dims


@contextlib.contextmanager
def _quiet():
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def exported(model, x):
    """The module's ATen operations at inputs x [n, ...] with any number of samples."""
    if x.shape[0] < 2:
        x = torch.cat([x, x])
    with _quiet():
        try:
            program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
            table = torch.export.default_decompositions()
            for operation in list(table.keys()):
                if str(operation) in KEPT:
                    table.pop(operation)
            return program.run_decompositions(table)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UnsupportedOperation("torch.export", "", f"refuses the module: {first}") from error


class _Importer:
    def __init__(self, program, model, x):
        self.program, self.model = program, model
        self.known = {}
        dims = Dims((None, *x.shape[1:]))
        self.builder = Builder(type(model).__name__, dims)
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.parameters = {name: self.builder.parameter(name, p) for name, p in model.named_parameters()}
        self.all_names = dict(model.named_parameters(remove_duplicate=False))

    def run(self):
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.known[node] = self.placeholder(node)
            elif node.op == "call_function":
                self.known[node] = self.call(node)
            elif node.op == "output":
                return self.output(node)
        raise ValueError("the exported module has no output")

    def placeholder(self, node):
        signature, name = self.program.graph_signature, node.name
        if name in signature.inputs_to_parameters:
            path = signature.inputs_to_parameters[name]
            return self.parameters[self.names[id(self.all_names[path])]]
        for table in (signature.inputs_to_buffers, signature.inputs_to_lifted_tensor_constants):
            if name in table:
                tensors = self.program.state_dict | dict(self.program.constants)
                return self.constant(tensors[table[name]])
        size = node.meta["val"].shape[0]
        if isinstance(size, int):
            raise UnsupportedOperation("torch.export", "", "the module works for one number of samples only")
        self.symbol = size.node.expr
        return self.builder.input

    @staticmethod
    def constant(tensor):
        return Constant(tensor.detach().cpu(), Dims(tuple(tensor.shape)))

    def size(self, size, batch):
        """A size or a number of the graph for so many samples."""
        if isinstance(size, (bool, int, float)):
            return size
        return int(size.node.expr.subs(self.symbol, batch))

    def torch_shape(self, shape):
        """Sizes with None for the batch's axis, and how many entries that has for each sample."""
        sizes, count = [], 1
        for size in shape:
            one, three = self.size(size, 1), self.size(size, 3)
            if one == three:
                sizes.append(one)
                continue
            if None in sizes or three != 3 * one:
                raise Unsupported("its output has the number of samples in its shape in a way that is not known")
            sizes.append(None)
            count = one
        return sizes, count

    def call(self, node):
        value = node.meta.get("val")
        if isinstance(value, (int, float, bool, torch.SymInt)) and not isinstance(value, torch.Tensor):
            return self.size(value, 1)
        if node.target is operator.getitem:
            return self.known[node.args[0]][node.args[1]]
        name = str(node.target)
        try:
            found = value[0] if isinstance(value, (list, tuple)) else value
            if isinstance(found, torch.Tensor):
                node.meta["qn_sizes"], node.meta["qn_count"] = self.torch_shape(found.shape)
            if not any(isinstance(self.known[n], (Value, Parameter)) or self.is_list(n) for n in node.all_input_nodes):
                return self.fold(node)
            if name not in TABLE:
                raise UnsupportedOperation(name, self.path(node))
            return TABLE[name](self.builder, self.arguments(node), node)
        except (Unsupported, ValueError) as reason:
            raise UnsupportedOperation(name, self.path(node), str(reason)) from reason

    def is_list(self, node):
        known = self.known[node]
        return isinstance(known, list) and any(isinstance(x, (Value, Parameter)) for x in known)

    def path(self, node):
        """The path of the module that the operation belongs to."""
        stack = node.meta.get("nn_module_stack") or {}
        return list(stack.values())[-1][0] if stack else ""

    def resolve(self, x):
        if isinstance(x, torch.fx.Node):
            return self.known[x]
        if isinstance(x, (list, tuple)):
            return [self.resolve(y) for y in x]
        return x

    def arguments(self, node):
        """All arguments by name, defaults among them."""
        named = {}
        for i, argument in enumerate(node.target._schema.arguments):
            if i < len(node.args):
                named[argument.name] = self.resolve(node.args[i])
            elif argument.name in node.kwargs:
                named[argument.name] = self.resolve(node.kwargs[argument.name])
            else:
                named[argument.name] = argument.default_value if argument.has_default_value() else None
        return SimpleNamespace(**named)

    def fold(self, node):
        """What torch gives for constants, for a batch of one."""

        def plain(x):
            if isinstance(x, Constant):
                return x.tensor
            return [plain(y) for y in x] if isinstance(x, (list, tuple)) else x

        args = [plain(self.resolve(x)) for x in node.args]
        kwargs = {key: plain(self.resolve(x)) for key, x in node.kwargs.items()}
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        value = node.meta.get("val")
        if isinstance(result, torch.Tensor):
            return self.folded(result, value)
        if isinstance(result, (list, tuple)):
            return [self.folded(r, v) if isinstance(r, torch.Tensor) else r for r, v in zip(result, value)]
        return result

    def folded(self, tensor, value):
        sizes, count = self.torch_shape(value.shape)
        return Constant(tensor, Dims(tuple(sizes), 1, count) if None in sizes else Dims(tuple(sizes)))

    def output(self, node):
        outputs = node.args[0]
        values = [self.known[n] for n in outputs if isinstance(n, torch.fx.Node)]
        values = [v for v in values if isinstance(v, (Value, Parameter, Constant))]
        if len(values) != 1 or not isinstance(values[0], Value):
            raise ValueError(
                f"the module gives {len(values)} tensors that depend on its input, and one is needed: wrap it in a module "
                "whose forward returns the outputs that the loss reads"
            )
        value = values[0]
        dims = value.dims
        if dims.axis != 0 or dims.before != 1:
            raise UnsupportedOperation("output", "", "the first axis of the module's output is not that of the samples")
        if not value.trained:
            raise ValueError("the module's output does not depend on any parameter")
        if value.id != len(self.builder.graph):
            self.builder.graph.push("scale", [value.id], factor=1.0)
        return Imported(self.builder.graph, dims)


def import_module(model, x):
    """The graph of a module in double precision, with every parameter of `model.named_parameters()` in their order.

    Raises `UnsupportedOperation` for what the engine cannot do, with the operation's name and the module's path.
    """
    program = exported(model, x)
    return _Importer(program, model, x).run()

