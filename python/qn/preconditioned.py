"""Diagonals that give each parameter a scale, such as an adaptive optimiser's."""

import numpy as np


def diagonal(by, named, layout):
    """D as a vector of the layout: `by` is an optimiser of torch, its state_dict, an array (P,), or a dict of arrays or tensors
    by name; `named` are names and parameters of the module in its order."""
    if hasattr(by, "param_groups") or (isinstance(by, dict) and "param_groups" in by):
        by = _lengths(by, named, set(layout.names))
    d = layout.join(by) if isinstance(by, dict) else np.asarray(by.detach().cpu() if hasattr(by, "detach") else by)
    if d.shape != (layout.size,):
        raise ValueError(f"the diagonal has shape {d.shape}, the operator {layout.size} parameters")
    d = d.astype(np.float64)
    if not (np.isfinite(d).all() and (d > 0).all()):
        raise ValueError("the diagonal has entries that are not positive and finite numbers")
    return d


def _lengths(optimizer, named, wanted):
    """sqrt(v) + eps of an adaptive optimiser, by parameter name."""
    groups = optimizer["param_groups"] if isinstance(optimizer, dict) else optimizer.param_groups
    states = optimizer["state"] if isinstance(optimizer, dict) else optimizer.state
    numbers = {id(parameter): name for name, parameter in named}
    found = {}
    for group in groups:
        for key in group["params"]:
            if isinstance(optimizer, dict):
                if not key < len(named):
                    raise ValueError(f"the optimiser's state has a parameter {key}, the module {len(named)}")
                name = named[key][0]
            else:
                name = numbers.get(id(key))
            if name in wanted:
                found[name] = _length(states.get(key) or {}, group, name)
                if tuple(found[name].shape) != tuple(dict(named)[name].shape):
                    raise ValueError(
                        f"the optimiser's state of '{name}' has shape {tuple(found[name].shape)}: its order is not that of "
                        "model.named_parameters(); give the optimiser itself instead of its state_dict"
                    )
    missing = sorted(wanted - set(found))
    if missing:
        raise ValueError(f"the optimiser does not have {', '.join(missing)}")
    return found


def _length(state, group, name):
    """sqrt(v) + eps with the mean square v of one parameter's gradient, corrected for its start where its optimiser does so;
    RAdam's rectification, which changes the step's length, is left out."""
    if "acc_delta" in state or float(state.get("step", 1)) == 0:
        state = {}
    squares, correction = state.get("max_exp_avg_sq", state.get("exp_avg_sq")), 1.0
    if squares is not None:
        correction = 1.0 - group["betas"][1] ** float(state["step"])
    elif "square_avg" in state:
        squares = state["square_avg"]
        if group.get("centered"):
            squares = squares - state["grad_avg"] ** 2
    elif "sum" in state:
        squares = state["sum"]
    else:
        raise ValueError(
            f"the optimiser has no mean squares of '{name}': it is not one of Adam, AdamW, NAdam, RAdam, RMSprop and Adagrad, or "
            "has taken no step"
        )
    squares = squares.detach().cpu().double().numpy()
    return np.sqrt(np.maximum(squares, 0.0) / correction) + group["eps"]
