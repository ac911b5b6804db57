"""Architecture: the dependency law and the sizes of modules and functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {"runtime": {"runtime"}, "passes": {"passes", "runtime"}, "optimizer": {"optimizer", "passes", "runtime"}}
MODULES = sorted(path.relative_to(ROOT).as_posix() for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
MOST_LINES, MOST_FUNCTION_LINES = 300, 50
EDGE_MODULES = "onnx_compress.runtime", "onnx_compress.runtime.reader", "onnx_compress.runtime.evaluate", "onnx_compress.runtime.library"
HEAVY = {"numba", "onnx", "onnx_ir", "onnxsim", "onnx_compress.passes", "onnx_compress.optimizer"}
PRINTS = "optimizer/console.py"


def tree(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text())


def imports(module: str) -> Iterator[tuple[str, int]]:
    """(absolute name of an imported module, line), with relative names resolved."""
    package = ["onnx_compress", *Path(module).with_suffix("").parts[:-1]]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield stem, node.lineno
            yield from ((f"{stem}.{alias.name}", node.lineno) for alias in node.names)


def test_the_three_packages_are_found() -> None:
    assert {module.split("/")[0] for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_packages_below_its_own(module: str) -> None:
    allowed = MAY_IMPORT[module.split("/", maxsplit=1)[0]]
    for name, line in imports(module):
        parts = name.split(".")
        if parts[0] == "onnx_compress" and len(parts) > 1:
            assert parts[1] in allowed, f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_its_own_project_relatively(module: str) -> None:
    for node in ast.walk(tree(module)):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        assert not any(name.split(".")[0] in ("onnx_compress", *MAY_IMPORT, "tests", "models") for name in names), f"{module}:{names}"


@pytest.mark.parametrize("name", EDGE_MODULES)
def test_the_runtime_loads_neither_numba_nor_onnx(name: str) -> None:
    program = f"import sys, {name}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_at_most_300_lines(module: str) -> None:
    assert len((ROOT / module).read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("module", MODULES)
def test_a_function_has_at_most_50_lines(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MOST_FUNCTION_LINES, f"{module}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("module", [module for module in MODULES if module != PRINTS])
def test_only_the_console_prints(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{module}:{node.lineno} prints"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is(module: str) -> None:
    text = (ROOT / module).read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{module} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_reads_no_environment_variables(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv"), f"{module}:{node.lineno}"
