"""`python -m fuseprop info | formulas | demo | bench`."""

from __future__ import annotations

import argparse
import inspect
import platform
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

import numpy as np

import fuseprop
from fuseprop import _registry
from fuseprop._bench.launch import file_to_write

#: What the extras install, and the peers that the demo and the benchmarks compare with.
_OPTIONAL = ("tqdm", "safetensors", "matplotlib", "scikit-learn", "torch", "jax")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def info() -> None:
    """Print versions, SIMD targets, threads and the optional packages that are there."""
    build = fuseprop.build_info()
    rows = {
        "fuseprop": fuseprop.__version__,
        "Python": f"{platform.python_version()} ({platform.machine()})",
        "NumPy": np.__version__,
        "compiled targets": ", ".join(build["compiled_targets"]),
        "supported by this CPU": ", ".join(build["supported_targets"]),
        "active target": build["active_target"],
        "threads": build["num_threads"],
    }
    rows |= {name: value for name, value in build.items() if isinstance(value, str) and name not in _SHOWN}
    rows |= {package: _version(package) for package in _OPTIONAL}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value or '-'}")


_SHOWN = {"version", "active_target"}


def formulas() -> None:
    """Print all activations and losses: constructor, formula, names for `get`."""
    for title, specs in (("Activations", _registry.activations()), ("Losses", _registry.losses())):
        print(f"{title}\n")
        for spec in specs.values():
            parameters = inspect.signature(spec.cls).parameters.values()
            print(f"  {spec.cls.__name__}({', '.join(f'{p.name}={p.default!r}' for p in parameters)})")
            formula = inspect.getdoc(spec.cls) or ""
            print("     ", " ".join(formula.partition("\n\n")[0].split()))
            print("      get:", ", ".join(map(repr, (spec.name, *spec.aliases))), end="\n\n")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuseprop", description="Training kernels for NumPy.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="info | formulas | demo | bench")
    commands.add_parser("info", help="versions, SIMD targets, threads, optional packages")
    commands.add_parser("formulas", help="all activations and losses, with their formulas and names")
    demo = commands.add_parser("demo", help="train a network on scikit-learn's digits and compare the speed")
    demo.add_argument(
        "--output", metavar="PATH", type=file_to_write, help="where the picture goes (default: a temporary directory)"
    )
    demo.add_argument("--epochs", type=_positive, default=30, help="passes over the training data (default: 30)")
    demo.add_argument("--no-peers", action="store_true", help="leave out the comparison of speed")
    commands.add_parser("bench", add_help=False, help="measure; see python -m fuseprop bench --help")
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command == "bench":
        code: int = import_module("fuseprop._bench").main(rest)
        return code
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command == "info":
        info()
        return 0
    if arguments.command == "formulas":
        formulas()
        return 0
    return int(
        import_module("fuseprop._demo").main(
            output=arguments.output, epochs=arguments.epochs, peers=not arguments.no_peers
        )
    )


if __name__ == "__main__":
    sys.exit(main())
