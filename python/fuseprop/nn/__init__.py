"""Networks: layers, models made of them, training, saving.

What holds after an error or an interrupt
-----------------------------------------
A step (`Sequential.train_step`, each step of `fit`) has happened or has not. It has if the optimizer has counted it
(`optimizer.steps`): then the parameters, the optimizer's state and the running statistics of `BatchNorm` are those
behind it, even if Ctrl-C made the call raise. Otherwise they are those before it, to the bit; after an error they
always are, unless it comes out of the `commit` of a layer of one's own. A call with ``training=True`` likewise moves
all running statistics or none. Two things go on all the same: the gradients are overwritten, and what layers have drawn
from the model's generator stays drawn, so that a step that is repeated after a failure has other dropout masks. A
checkpoint brings the generator back, too.

`load_state_dict` of models, optimizers and schedules, `load_checkpoint`, and `fit` with ``resume=`` change everything
or nothing: parameters, buffers, moments, counts and the generators' states are checked first and then replaced
together. Callbacks and schedules of one's own are given back the state that they had.

`save`, `save_checkpoint` and `Checkpoint` leave the old file or the new one, complete. A process that is killed, or
interrupted a second time while it tidies up after the first, may leave a file ".fuseprop-....tmp" beside it.

One call at a time trains a model or sets its state: a second one, in another thread or from within the first, is a
RuntimeError and changes nothing. A forked child can go on with a model that another thread of its parent was training;
a step that was being made at that moment may be half done in it, so that it should load a state first.
"""

from typing import TYPE_CHECKING, Any

from fuseprop import _elsewhere
from fuseprop._listing import listing
from fuseprop.nn.callbacks import Callback, Checkpoint, EarlyStopping, Run
from fuseprop.nn.containers import Flatten, Residual
from fuseprop.nn.dropout import Dropout
from fuseprop.nn.health import GradientHealth, LayerHealth
from fuseprop.nn.io import load_checkpoint, save_checkpoint
from fuseprop.nn.layers import Activation, Dense, Layer
from fuseprop.nn.maxout import Maxout
from fuseprop.nn.metrics import accuracy
from fuseprop.nn.model import NonFiniteLossError
from fuseprop.nn.norm import BatchNorm, LayerNorm
from fuseprop.nn.sequential import Sequential, load

__all__ = [
    "Activation",
    "BatchNorm",
    "Callback",
    "Checkpoint",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Flatten",
    "GradientHealth",
    "Layer",
    "LayerHealth",
    "LayerNorm",
    "Maxout",
    "NonFiniteLossError",
    "Residual",
    "Run",
    "Sequential",
    "accuracy",
    "load",
    "load_checkpoint",
    "save_checkpoint",
]

__dir__ = listing(__all__)

if not TYPE_CHECKING:  # for which any name would be one of the module's

    def __getattr__(name: str) -> Any:
        raise _elsewhere.attribute_error(__name__, name)
