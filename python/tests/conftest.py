"""Threads of PyTorch: its own pool and the engine's would stand in each other's way on small machines."""

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    pass
