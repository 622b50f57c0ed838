"""The source of an op as it stands in its file: its function, the functions that it calls, and the line of each gradient."""
# pyright: reportAttributeAccessIssue=false

import ast
import dis
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType

from scratchdiff.kernels import FORMULAS


def functions_of(f: Callable) -> list[FunctionType]:
    """The function that f wraps and the functions that it uses, directly or through others, in order of first use.

    Functions of another file count only if they are marked @op or @kernel. A function marked @kernel is shown as its formula
    in NumPy, whichever twin runs. `check...` functions are left out."""
    found = [inspect.unwrap(f)]
    for g in found:
        for name in global_names(g.__code__):
            h = g.__globals__.get(name)
            marked = hasattr(h, "on_arrays") or inspect.unwrap(h) is FORMULAS.get(name) if callable(h) else False
            h = inspect.unwrap(h) if callable(h) else None
            local = isinstance(h, FunctionType) and h.__code__.co_filename == g.__code__.co_filename
            if (marked or local) and h not in found and not name.startswith("check"):
                found.append(h)
    return found


def global_names(code: CodeType) -> list[str]:
    """The global names that a function's code and the functions inside it look up, in order."""
    own = [step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"]
    return own + [name for const in code.co_consts if isinstance(const, CodeType) for name in global_names(const)]


def describe(f: FunctionType) -> dict:
    """{name, file, line, text, marks} of a function; marks: {line of the text, from 0: the gradients computed there}.

    Where Python has kept no source, as for a function typed at its prompt, the text says so."""
    file = Path(f.__code__.co_filename)
    known = dict(name=f.__name__, file="/".join(file.parts[-2:]), line=f.__code__.co_firstlineno)
    try:
        text = textwrap.dedent(inspect.getsource(f))
        return known | dict(text=text, marks=gradient_lines(text))
    except (OSError, SyntaxError):
        return known | dict(text="(Python has kept no source of this function.)", marks={})


def gradient_lines(text: str) -> dict[int, list[str]]:
    """{line, from 0: names of the gradients computed there} for the source of an op or formula.

    Its backward is a function or lambda inside it whose first argument is dy. It returns a tuple with a gradient for each
    argument, and each is marked where its entry is computed: at dx = ..., dw[u, v] = ..., or at the return if it is an
    expression. "all" stands where one call returns them together."""
    (function,) = ast.parse(text).body
    if not isinstance(function, ast.FunctionDef):
        return {}
    arguments = function.args.posonlyargs + function.args.args + [function.args.vararg] * bool(function.args.vararg)
    names = [f"d{a.arg}" for a in arguments]
    marks = {}
    for inner in ast.walk(function):
        if not isinstance(inner, (ast.FunctionDef, ast.Lambda)) or [a.arg for a in inner.args.args][:1] != ["dy"]:
            continue
        steps = inner.body if isinstance(inner, ast.FunctionDef) else []
        for result in [step.value for step in steps if isinstance(step, ast.Return)] or [inner.body]:
            entries = result.elts if isinstance(result, ast.Tuple) else []
            if not entries or any(isinstance(entry, ast.Starred) for entry in entries):
                marks[result.lineno - 1] = ["all"]
                continue
            for argument, entry in zip(names, entries):
                name = base_name(entry) or ""
                known = name.startswith("d") and name != "dy"  # the dx of dx.reshape(shape)
                for line in lines_of(name, steps) or [entry.lineno]:
                    marks.setdefault(line - 1, []).append(name if known else argument)
    return marks


def lines_of(name: str, steps: list[ast.stmt]) -> list[int]:
    """The lines that compute a gradient: the assignments dx = ..., dx[i] = ... or f(dx)[...] += ..., and where it is only a
    part of another array, as in dx = dxp[1:], those of that array."""
    found = []
    for node in [node for step in steps for node in ast.walk(step)]:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        if any(name in changed_names(target) for target in targets) and "_like(" not in ast.unparse(node.value):
            found.append(node.lineno)  # an array that is only laid out, by zeros_like or empty_like, is no gradient yet
            if (whole := base_name(node.value)) not in (None, name):
                found += lines_of(whole, [step for step in steps if step.lineno < node.lineno])
    return found


def base_name(node: ast.expr) -> str | None:
    """The name that an expression begins with: dx of dx, dx[1:] and dx.reshape(shape); None of others."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def changed_names(target: ast.expr) -> set[str]:
    """The names that an assignment may change: a, b for a, b = ..., dw for dw[u, v] = ..., f and dx for f(dx)[i] += ..."""
    indices = {id(n) for sub in ast.walk(target) if isinstance(sub, ast.Subscript) for n in ast.walk(sub.slice)}
    return {n.id for n in ast.walk(target) if isinstance(n, ast.Name) and id(n) not in indices}


def derivation(f: Callable) -> str:
    """The head of an op's file, where this package derives its gradients; "" for ops from elsewhere."""
    module = sys.modules.get(f.__module__)
    return (module.__doc__ or "") if f.__module__.startswith("scratchdiff.ops.") else ""
