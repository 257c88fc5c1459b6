"""What docs/security.md promises of the code: nothing read from disk is executed, no name is a path or SQL text."""

import ast
from pathlib import Path

import pytest

from mamdr_core.lake.core.sql import identifier, literal

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(file for folder in ("mamdr_core", "jobs", "schemas") for file in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "shelve", "marshal", "joblib", "cloudpickle", "commands"}
BUILTINS = {"eval", "exec", "compile", "__import__", "execfile"}
BETWEEN_PROCESSES = {"mamdr_core/parallel/torch_launch.py", "mamdr_core/parallel/torch_rank.py"}
"""They pickle what a Spark task and the rank that it started say to each other through pipes; see the docs."""
METHODS = {
    ("torch", "load"), ("torch", "save"), ("yaml", "load"), ("yaml", "full_load"), ("yaml", "unsafe_load"),
    ("yaml", "load_all"), ("pd", "read_pickle"), ("pandas", "read_pickle"), ("os", "system"), ("os", "popen"),
    ("jit", "load"),
}  # fmt: skip
KEYWORDS = {("shell", True), ("allow_pickle", True), ("weights_only", False)}


def forbidden(text: str) -> list[str]:
    """What a source must not use."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += _of_call(node)
    return found


def _of_call(node: ast.Call) -> list[str]:
    found = []
    if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
        found.append(node.func.id)
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
        if (name, node.func.attr) in METHODS:
            found.append(f"{name}.{node.func.attr}")
    for keyword in node.keywords:
        if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in KEYWORDS:
            found.append(f"{keyword.arg}={keyword.value.value}")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_that_is_read_is_executed(file):
    allowed = ["pickle"] if str(file.relative_to(ROOT)) in BETWEEN_PROCESSES else []
    assert forbidden(file.read_text(encoding="utf-8")) == allowed


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from joblib import load", "torch.load(x)", "yaml.load(x, L)", "np.load(x, allow_pickle=True)",
     "eval(x)", "torch.jit.load(x)", "subprocess.run(x, shell=True)"],
)  # fmt: skip
def test_the_check_finds_what_it_looks_for(text):
    assert forbidden(text)
    assert not forbidden("yaml.safe_load(x); re.compile(x); np.load(x); model.eval()")


def test_names_and_values_stay_what_they_are_in_sql():
    assert identifier("a`; DROP TABLE x; --") == "`a``; DROP TABLE x; --`"
    assert literal("a' OR 'a'='a") == "'a\\' OR \\'a\\'=\\'a'"
    assert literal("\\' OR 1=1") == "'\\\\\\' OR 1=1'"
