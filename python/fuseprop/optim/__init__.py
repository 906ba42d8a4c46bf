"""Optimizers: in place, one pass over memory per step, however many arrays there are.

`params` says what an optimizer updates, and `step(grads)` takes the gradients in the same form:

- a model (anything with `flat_parameters` and `flat_gradients`): `step()` reads the model's own gradients;
- one array, a list of arrays, or a dict of arrays;
- a list of groups `{"params": ..., "lr": ..., "weight_decay": ..., "l1": ...}`, where "params" is any of the above and
  the others are optional: a group without its own "lr" or "weight_decay" follows the optimizer's.

Arrays that are views of a model's parameters know their gradients, too: `step()` without argument serves
`Adam(model.flat_parameters)` and `SGD([model.parameters()["0.weight"]])` alike.

What all optimizers share, in this order:

1. `nonfinite`: "propagate" uses the gradients as they are; "skip" leaves the step out if an entry is NaN or infinite
   (`optimizer.skipped` counts), "raise" raises a FloatingPointError that names it. Either leaves parameters, states and
   step count as they were, and costs one further read of the gradients (none beside `max_norm`).
2. `max_norm`: if the norm of all gradients together, n = sqrt(sum g^2), exceeds it, g is multiplied by
   max_norm / n. This costs one further read of the gradients.
3. `maximize`: g is negated.
4. `weight_decay` and `l1`: g + weight_decay p + l1 sign(p), the gradient of weight_decay/2 sum p^2 + l1 sum |p|, takes
   the place of g; sign(0) = 0. `AdamW` and `Lion` (and `NAdam` on request) do not add weight_decay p to the gradient
   but take lr weight_decay p from p before the step: decoupled decay. An infinite p with a penalty becomes NaN.
5. The rule of the optimizer.

Non-finite gradients propagate into the parameters they belong to. With `max_norm`, one NaN makes the norm
and so every parameter NaN; one infinity makes the norm infinite, so that this entry becomes NaN and the
gradient of the others 0: what PyTorch's `clip_grad_norm_` does. PyTorch multiplies by max_norm / (n +
1e-6), we by max_norm / n: the norm behind it is max_norm itself.

A step that is refused (a gradient of another shape or dtype than its parameter; a parameter that was resized since it
was given) changes nothing; one that is interrupted is complete, if `steps` has counted it, or has changed nothing; one
while another thread is in a step of the same optimizer is a RuntimeError. After a fork the child can use every
optimizer; if another thread was in a step of one at that moment, the child has its arrays as they were then, some of
them updated and some not. Hyper-parameters read as attributes; `lr` and
`weight_decay` may be set between steps, `schedules` says to what, and so may a group's lr, weight_decay and l1.

`copy.deepcopy` and `pickle` make an optimizer for the copies of its arrays, or of its model, that are made along with
it: `copy.deepcopy((model, optimizer))` is a model and its optimizer; of an optimizer alone, the copy has arrays or a
model of its own (`optimizer.groups` has them). joblib keeps a model and its optimizer together, but not arrays and
theirs, of which it makes two copies. `copy.copy` is another optimizer for the same arrays. An optimizer for views,
whose copies would be views of nothing, is a TypeError: its `state_dict()` can be kept, and given to one that is made
for the other arrays.

Results are the same bits on any number of threads and on every SIMD target with fused multiply-add.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fuseprop import _elsewhere, _registry
from fuseprop._listing import listing
from fuseprop.optim import schedules
from fuseprop.optim.algorithms import SGD, Adadelta, Adagrad, Adam, AdamW, Lion, NAdam, RMSprop
from fuseprop.optim.arrays import Params
from fuseprop.optim.clipping import clip_grad_norm, clip_grad_value, clip_weights
from fuseprop.optim.lbfgs import lbfgs
from fuseprop.optim.optimizer import Group, Optimizer

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Group",
    "Lion",
    "NAdam",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm",
    "clip_grad_value",
    "clip_weights",
    "get",
    "lbfgs",
    "names",
    "schedules",
]

__dir__ = listing(__all__)

if not TYPE_CHECKING:  # for which any name would be one of the module's

    def __getattr__(name: str) -> Any:
        raise _elsewhere.attribute_error(__name__, name)


def names() -> list[str]:
    """Return the names that `get` knows."""
    return list(_registry.optimizers())


def get(name: str, params: Params, **options: Any) -> Optimizer:
    """Return a new optimizer by name: `get("adam", model, lr=3e-4)`.

    Parameters
    ----------
    name : str
        One of `names()`.
    params
        What to update; see the head of `fuseprop.optim`.
    options
        The other arguments of its constructor.

    Raises
    ------
    TypeError
        If the name is not a string, or an option is none of this optimizer's.
    ValueError
        If there is none of that name; the message says the nearest ones.
    """
    optimizer: Optimizer = _registry.find("optimizer", name).cls(params, **options)
    return optimizer
