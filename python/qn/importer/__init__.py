"""From a torch module to a graph of the native engine.

`torch.export` gives the module's ATen operations; what depends on neither the input nor a parameter is evaluated by torch
once; every other operation is looked up by name in a table (`elementwise`, `shapes`, `layers`) and added to the graph.
"""

from .export import Imported, import_module

__all__ = ["Imported", "import_module"]
