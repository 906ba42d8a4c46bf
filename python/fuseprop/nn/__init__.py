"""Networks: layers, models made of them, training, saving."""

from fuseprop.nn.fit import accuracy
from fuseprop.nn.io import load
from fuseprop.nn.layers import Activation, Dense, Layer
from fuseprop.nn.sequential import Sequential

__all__ = ["Activation", "Dense", "Layer", "Sequential", "accuracy", "load"]
