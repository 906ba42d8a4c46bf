"""Networks: layers, models made of them, training, saving."""

from fuseprop.nn.callbacks import Callback, Checkpoint, EarlyStopping, Run
from fuseprop.nn.containers import Flatten, Residual
from fuseprop.nn.dropout import Dropout
from fuseprop.nn.health import GradientHealth, LayerHealth
from fuseprop.nn.io import load, load_checkpoint, save_checkpoint
from fuseprop.nn.layers import Activation, Dense, Layer
from fuseprop.nn.maxout import Maxout
from fuseprop.nn.metrics import accuracy
from fuseprop.nn.norm import BatchNorm, LayerNorm
from fuseprop.nn.sequential import NonFiniteLossError, Sequential

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
