"""The laws of the house: the core stands alone, imports go one way, and all of it only shrinks.

A number here is what the tree meets; lower it when the tree has become smaller, never raise it.
"""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES = {"dtgan_core": 4279, "dtgan_lab": 16989}  # the aim: 3,000 and 11,500
FILES = {"dtgan_core": 18, "dtgan_lab": 85}  # the aim: about 13 and 37
TESTS = 18343  # lines; the aim: 12,500
LEVELS = 9  # of imports, from a module that imports nothing of the kit to the command line
ALIAS = "dtgan_core.__main__"  # hands `python -m dtgan_core` over to the lab, and nothing else


def files_of(package: str) -> list[Path]:
    """The Python files of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    """Its name, such as dtgan_lab.data for dtgan_lab/data/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for package in LINES for path in files_of(package)}


def imported(node: ast.AST) -> set[str]:
    """The kit's modules that one import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & MODULES.keys()
    if not isinstance(node, ast.ImportFrom):
        return set()
    assert node.level == 0, "imports name the package: relative ones are not looked at here"
    below = {f"{node.module}.{alias.name}" for alias in node.names}
    found = below & MODULES.keys()
    return found | ({node.module} & MODULES.keys() if found != below and node.module else set())


@cache
def imports_of(module: str) -> frozenset[str]:
    """Every module that it imports: at its top, in functions, and for types alone."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset().union(*map(imported, ast.walk(tree))) - {module}


@cache
def loaded_with(module: str) -> frozenset[str]:
    """Those that Python loads together with it."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    return frozenset().union(*map(imported, tree.body)) - {module}


@cache
def level(module: str) -> int:
    """1 for a module that loads nothing of the kit, else one above the highest of those it does."""
    return 1 + max(map(level, loaded_with(module)), default=0)


def circle(modules: dict[str, frozenset[str]]) -> list[str]:
    """Names in a ring of imports, and those that build on one; none when the order is clear."""
    left = {name: set(imports) for name, imports in modules.items()}
    while free := [name for name in left if not left[name] & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_the_core_imports_nothing_of_the_lab():
    strays = {
        module: sorted(found)
        for module in MODULES
        if module.startswith("dtgan_core") and module != ALIAS
        if (found := {name for name in imports_of(module) if name.startswith("dtgan_lab")})
    }
    assert not strays
    assert imports_of(ALIAS) == {"dtgan_lab.cli.main"}


def test_no_imports_go_in_a_circle():
    assert circle({module: imports_of(module) for module in MODULES}) == []


def test_rooms_of_the_lab_have_an_order():
    """What holds for modules holds for the lab's folders: one room builds on another, not both."""
    rooms: dict[str, set[str]] = {}
    for module in MODULES:
        parts = module.split(".")
        if len(parts) > 2 and parts[0] == "dtgan_lab":
            targets = {name.split(".")[1] for name in imports_of(module) if name.count(".") > 1}
            rooms.setdefault(parts[1], set()).update(targets - {parts[1]})
    assert len(rooms) > 5
    assert circle({room: frozenset(targets) for room, targets in rooms.items()}) == []


def test_a_circle_would_be_found():
    ring = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("c")}
    assert circle(ring) == ["a", "b", "c", "d"]
    assert circle(ring | {"c": frozenset()}) == []


def test_imports_are_few_levels_deep():
    deep = {module: level(module) for module in MODULES if level(module) > LEVELS}
    assert not deep


def test_packages_and_tests_only_shrink():
    lines = {
        package: sum(path.read_text(encoding="utf-8").count("\n") for path in files_of(package))
        for package in LINES
    }
    over = {package: n for package, n in lines.items() if n > LINES[package]}
    assert not over, "move or delete something; the ceilings of tests/test_house.py only go down"
    assert all(len(files_of(package)) <= most for package, most in FILES.items())
    tests = sum(path.read_text(encoding="utf-8").count("\n") for path in files_of("tests"))
    assert tests <= TESTS, "merge or delete tests that say the same; this ceiling only goes down"
