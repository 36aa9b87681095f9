"""One small network as PyTorch's users save it, for tests/issues/checkpoints.rs: every file that can be read holds the
same numbers, which bfloat16 can hold too.

    pip install torch safetensors
    python tests/golden/make_checkpoints.py
"""

import pathlib
import warnings
from collections import OrderedDict

import torch
from safetensors.torch import save_file
from torch import nn

HERE = pathlib.Path(__file__).parent / "checkpoints"


class Tiny(nn.Module):
    """The architecture that the test describes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2)
        self.conv2 = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv2(self.bn(self.conv(x)).tanh()), 4)
        return self.fc(x.flatten(1))


def network():
    """Multiples of 1/64 below 1 in no simple order."""
    net, at = Tiny(), 1
    with torch.no_grad():
        for name, t in net.state_dict().items():
            if t.dim():
                numbers = (torch.arange(at, at + t.numel()) * 37 % 127 - 63) / 64
                t.copy_(numbers.reshape(t.shape).abs() + 0.5 if name == "bn.running_var" else numbers.reshape(t.shape))
                at += t.numel()
    return net


def prefixed(state, prefix):
    return OrderedDict((prefix + name, t) for name, t in state.items())


def nested():
    """A training program's checkpoint: momentum, an average, DataParallel around a compiled network."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    state = network().state_dict()
    average = {name: t / 2 for name, t in state.items()}
    checkpoint = {
        "epoch": 7, "arch": "tiny", "best_acc1": torch.tensor(91.5), "optimizer": optimizer.state_dict(),
        "ema": average, "model": {"weights": prefixed(state, "module._orig_mod.")},
    }
    torch.save(checkpoint, HERE / "nested.tar")


def bfloat16():
    """Half the bytes, as language models are saved; one tensor is of float16."""
    state = {name: t.bfloat16() if t.is_floating_point() else t for name, t in network().state_dict().items()}
    state["fc.bias"] = state["fc.bias"].half()
    save_file(prefixed(state, "model."), HERE / "bfloat16.safetensors")
    torch.save(state, HERE / "halves.pth")


def strided():
    """channels_last, a transposed matrix, a slice with a step; double precision; Parameters and not tensors."""
    net = network().double().to(memory_format=torch.channels_last)
    state = OrderedDict(net.named_parameters())
    state["fc.weight"] = nn.Parameter(net.fc.weight.detach().t().contiguous().t())
    twice = torch.stack([net.bn.running_mean, torch.zeros(2)], dim=1).flatten()
    state["bn.running_mean"], state["bn.running_var"] = twice[::2], net.bn.running_var
    strides = [state[name].stride() for name in ("conv2.weight", "fc.weight", "bn.running_mean")]
    assert strides == [(18, 1, 6, 2), (1, 10), (2,)], strides
    torch.save({"net": state}, HERE / "strided.PTH")


def shared():
    """Every tensor a piece of one storage, as flattening optimisers leave it, one with an attribute; no ending; the
    newest protocol."""
    state = {name: t for name, t in network().state_dict().items() if t.dim()}
    flat = torch.cat([torch.ones(5)] + [t.flatten() for t in state.values()])
    at = 5
    for name, t in state.items():
        state[name] = flat[at : at + t.numel()].reshape(t.shape)
        at += t.numel()
    state["fc.bias"].tag = "head"
    torch.save({"model_state_dict": state}, HERE / "shared", pickle_protocol=5)


def refused():
    """What cannot be read: the format before PyTorch 1.6, and a module pickled whole."""
    torch.save(network().state_dict(), HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 1, "model": network()}, HERE / "module.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    HERE.mkdir(exist_ok=True)
    save_file(network().state_dict(), HERE / "plain.safetensors")
    nested()
    bfloat16()
    strided()
    shared()
    refused()
