"""The tester's run: the names that the tests read are bound to the program's, then each test is run and counted."""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import marshal
import sys
from typing import Any

import sbx_checks
from sbx_asserts import (
    SERVER_FD,
    ProgramEnded,
    ProgramStopped,
    Remote,
    Tester,
    ask,
    class_of,
    end,
    new_error_class,
    value_of,
)
from sbx_programs import name_of, read_block, say, write_block


def _bind_names(tree: ast.Module, entry_point: str) -> dict[str, Any]:
    """What the tests read and do not make: from the program, save for what must not judge in its own cause.

    Builtins, and standard modules of which only attributes are read, are the tests' own. Only where the tests read
    nothing else of the program is a builtin that they call the function under test (MBPP has a `sum` of its own).
    """
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    bases = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    namespace: dict[str, Any] = {"__name__": "tests"}
    made = _made_names(tree)
    from_program = 0
    entry, _, method = entry_point.replace("()", "").partition(".")
    names = sorted({node.id for node in reads} | ({entry} if entry else set()))
    for name in names:
        if name != entry and hasattr(builtins, name):
            continue
        uses = [node for node in reads if node.id == name]
        if name in sys.stdlib_module_names and name != entry and all(node in bases for node in uses):
            namespace[name] = importlib.import_module(name)
        else:
            bound = _bind(name, namespace)
            from_program += bound
            Tester.asked = Tester.asked or not (bound or name in made)  # the tests may do without what the program lacks
    if not from_program:
        for name in names:
            if hasattr(builtins, name):
                _bind(name, namespace)
    if entry in namespace and "candidate" not in namespace:
        namespace["candidate"] = getattr(namespace[entry](), method) if method else namespace[entry]
    namespace[sbx_checks.COUNTER], namespace[sbx_checks.STOPPED] = _count, ProgramStopped
    return namespace


def _made_names(tree: ast.Module) -> set[str]:
    """Names that the tests do not need from the program."""
    made = {"candidate", "__name__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            made.add(node.id)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(name := getattr(node, "name", None), str):  # a function, class, exception or pattern
            made.add(name)
    return made


def _count() -> None:
    Tester.checks += 1


def _bind(name: str, namespace: dict[str, Any]) -> bool:
    """Puts the program's `name` into `namespace` if it has one: its value, or the same standard module."""
    try:
        form = ask("name", name)[0]
    except KeyError:
        return False  # the tests define it themselves, or will raise NameError
    kind = form[0] if isinstance(form, list) and len(form) == 2 else None
    if kind == "m":
        known = form[1] in sys.stdlib_module_names or form[1] in sys.modules
        if known and form[1].partition(".")[0] in sys.stdlib_module_names:
            namespace[name] = importlib.import_module(form[1])
    elif kind == "e":
        found = class_of(form[1])
        # A program must not have the tests catch their own AssertionError.
        namespace[name] = new_error_class(name, (Exception,)) if issubclass(AssertionError, found) else found
    else:
        namespace[name] = value_of(form)
        Tester.asked = Tester.asked or type(namespace[name]) is not Remote
    return True


def run_tests(request: bytes) -> None:
    """The tester. Frames: `["total", n]`, then per test `["pass"]` or `["fail", reason]`; or `["load", error]`.

    Each top-level statement that holds an `assert`, and each top-level call such as `check(candidate)`, is one test;
    a failed one does not stop the next. Any other statement that fails ends the run. Where all was run, the last frame
    is `["checks", how many were reached, whether the program had a say in that]`.
    """
    source, code, entry_point = marshal.loads(request)
    write_block(SERVER_FD, source.encode("utf-8", "surrogatepass"))
    tree = sbx_checks.prepare(code, entry_point)
    say("total", sbx_checks.count_tests(tree))
    try:
        verdict, *problem = json.loads(read_block(SERVER_FD))
        if verdict != "ok":
            say("load", problem[0] if problem else "")
            return
        namespace = _bind_names(tree, entry_point)
    except (EOFError, ProgramEnded):
        say("stop", "ProgramEnded", "")
        return
    except Exception as error:  # noqa: BLE001 (of the program, as it made the object to be tested)
        say("load", name_of(error))
        return
    for statement in tree.body:
        is_test = sbx_checks.is_test(statement)
        failure: BaseException | None = None
        try:
            counted = sbx_checks.count_checks(ast.Module([statement], []))
            exec(compile(counted, "<tests>", "exec", dont_inherit=True), namespace)
        except BaseException as error:  # noqa: BLE001 (a failed test, with its reason)
            failure = _missing_module(error)
        if Tester.end is not None:
            say("stop", name_of(Tester.end), str(Tester.end))
            return
        if failure is not None:
            say("fail", name_of(failure))
            if not is_test:
                return
        elif is_test:
            say("pass")
    if not any(map(sbx_checks.is_test, tree.body)):
        say("pass")
    say("checks", Tester.checks, Tester.asked)


class MissingModule(Exception):
    """The tests import what is not here: no fault of the program."""


def _missing_module(error: BaseException) -> BaseException:
    """The error; notes if it is the tests' own import of something outside of the standard library."""
    if isinstance(error, ModuleNotFoundError) and "_number" not in error.__dict__:
        root = str(error.name).partition(".")[0]
        if root not in sys.stdlib_module_names:
            end(MissingModule(root))
    return error
