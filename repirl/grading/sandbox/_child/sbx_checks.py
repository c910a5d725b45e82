"""What a test code of kind `asserts` checks: read as a syntax tree by the grader, and made ready to run by the tester.

Nothing here runs anything. A *check* is an `assert`, a call of something named `assert...` (of unittest, say), an `if`
that raises, or a `try` or `with` around one of these: a test code that executes none of them says nothing of a program.
"""

from __future__ import annotations

import ast

COUNTER = "__check__"  # what the tester calls before each check
STOPPED = "__stopped__"  # what an `except StopIteration` catches besides
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_CALLED_CHECKS = ("raises", "fail")


def prepare(code: str, entry_point: str) -> ast.Module:
    """The tests with calls of those functions that a test runner would find and that nothing calls.

    These are functions and methods named `test...` and, given an entry point, HumanEval's `check(candidate)`; cases of
    unittest run in any case, and a bare `unittest.main()`, which would end the process, does not.
    """
    tree = ast.parse(code)
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    calls: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _is_test_case(node):
            calls.append(f"__import__('unittest').defaultTestLoader.loadTestsFromTestCase({node.name}).debug()")
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test") and node.name not in read:
            methods = [f for f in node.body if isinstance(f, ast.FunctionDef)]
            if not any(f.name.startswith(("setup", "teardown")) for f in methods):
                names = [f.name for f in methods if f.name.startswith("test") and _required(f) == 1]
                calls += [f"{node.name}().{name}()" for name in names]
        elif isinstance(node, ast.FunctionDef) and node.name not in read:
            if node.name.startswith("test") and _required(node) == 0:
                calls.append(f"{node.name}()")
            elif node.name == "check" and _required(node) == 1 and entry_point:
                calls.append("check(candidate)")
    tree.body = [node for node in tree.body if not _is_unittest_main(node)]
    tree.body += ast.parse("\n".join(calls)).body
    return tree


def is_test(statement: ast.stmt) -> bool:
    """Whether a top-level statement counts as one test: it is a call, or holds an `assert`, and defines nothing."""
    if isinstance(statement, _DEFINITIONS):
        return False
    is_call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    return is_call or any(isinstance(node, ast.Assert) for node in ast.walk(statement))


def count_tests(tree: ast.Module) -> int:
    """How many tests `prepare`d code has, at least one."""
    return max(1, sum(map(is_test, tree.body)))


def what_is_missing(tree: ast.Module) -> str | None:
    """Why `prepare`d code cannot test anything, where that can be seen without running it; else None."""
    if not any(_is_check(node) for node in ast.walk(tree)):
        return "the tests assert nothing"
    live = [node for node in tree.body if not isinstance(node, _DEFINITIONS) and not _is_main_guard(node)]
    if not any(_is_check(node) or isinstance(node, ast.Call) for statement in live for node in ast.walk(statement)):
        return "nothing calls the functions that hold the asserts"
    return None


def count_checks(tree: ast.Module) -> ast.Module:
    """The same tests, which call COUNTER before each check."""
    return ast.fix_missing_locations(_Counting().visit(tree))


class _Counting(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, [new for old in statements for new in self._counted(old)])
        return node

    def _counted(self, node: ast.stmt) -> list[ast.stmt]:
        if not _is_check(node):
            return [node]
        call = ast.Expr(ast.Call(ast.Name(COUNTER, ast.Load()), [], []))
        return [ast.copy_location(call, node), node]

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(isinstance(kind, ast.Name) and kind.id == "StopIteration" for kind in caught):
            names = [kind for kind in caught if kind is not None]
            node.type = ast.Tuple([*names, ast.Name(STOPPED, ast.Load())], ast.Load())
        return self.generic_visit(node)


def _is_check(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Expr):
        return _is_named_check(node.value)
    if isinstance(node, ast.If):
        return any(isinstance(inner, ast.Raise) for inner in [*node.body, *node.orelse])
    if isinstance(node, ast.Try):  # the check after a call that must raise is not reached where it does
        return any(_is_check(inner) or isinstance(inner, ast.Raise) for inner in [*node.body, *node.orelse])
    if isinstance(node, ast.With):
        return any(_is_named_check(item.context_expr) for item in node.items)
    return False


def _is_named_check(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name.startswith("assert") or name in _CALLED_CHECKS


def _required(function: ast.FunctionDef) -> int:
    """How many arguments a call must give."""
    given = function.args
    unnamed = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    return unnamed + sum(default is None for default in given.kw_defaults)


def _is_test_case(node: ast.ClassDef) -> bool:
    names = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
    return any(name.endswith("TestCase") for name in names)


def _is_unittest_main(node: ast.stmt) -> bool:
    call = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    return isinstance(call, ast.Attribute) and call.attr == "main" and getattr(call.value, "id", "") == "unittest"


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test)
    )
