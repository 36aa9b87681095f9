"""The table of ATen operations by name."""

TABLE = {}


def aten(*names):
    """Enters a function of (builder, arguments, node) under the names of the operations that it adds to a graph."""

    def enter(function):
        for name in names:
            TABLE[f"aten.{name}"] = function
        return function

    return enter
