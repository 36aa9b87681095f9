"""What can go wrong besides `ValueError`."""


class NotConverged(ArithmeticError):
    """An eigensolver stopped before every residual was within the tolerance. What it has found is in `result`."""

    def __init__(self, message, result):
        super().__init__(message)
        self.result = result


class UnsupportedOperation(NotImplementedError):
    """A module contains an operation that the native engine does not know.

    `operation` is its name, like `aten.cumsum.default`, and `module` the path of the module that calls it.
    """

    def __init__(self, operation, module="", reason=""):
        self.operation, self.module = operation, module
        where = f" in module '{module}'" if module else ""
        why = f": {reason}" if reason else " is not known to the native engine"
        native = "second derivative in PyTorch" not in reason
        other = "torch\" (or \"auto\"), which multiplies by PyTorch's own derivatives" if native else "native\""
        super().__init__(f"{operation}{where}{why}; use backend=\"{other}")
