"""Used by one notebook: it stands in that notebook.  Nothing in the lab is there for one alone."""

import ast
import json
import re
import textwrap
from collections.abc import Iterator

from tests.test_house import MODULES, ROOT

Name = tuple[str, str]  # module, name of a function, class or constant at its top
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SCRIPTS = [
    path for room in ("tools", "data_scripts", "notebooks") for path in (ROOT / room).glob("*.py")
]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]  # their Python is a user's
DOORS = {  # called from outside
    ("dtgan_lab.explorer.view", "explore"),  # a panel for anybody's checkpoint
    ("dtgan_lab.downstream.augmented_folder", "read_training_set"),  # of what `assemble` wrote
    ("dtgan_lab.measure.cells", "model_looks"),  # the measures of docs/trials.md
    ("dtgan_lab.measure.cells", "fresh_cells"),
    ("dtgan_lab.measure.cells", "polarity_error"),
    ("dtgan_lab.measure.cells", "compare_looks"),
}


def code_of(notebook: str) -> str:
    """The code of a notebook's cells, without the lines that are IPython's own."""
    cells = json.loads(notebook)["cells"]
    lines = [
        line for cell in cells if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]
    ]
    return "".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def defined(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Names that a module's top level defines, with the statement."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (n for target in targets for n in ast.walk(target)):
                if isinstance(name, ast.Name):
                    yield name.id, node


def imports(tree: ast.AST) -> dict[str, tuple[str, str | None]]:
    """Local name -> module and the name in it, None for a module itself."""
    found: dict[str, tuple[str, str | None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                target = (whole, None) if whole in MODULES else (node.module, alias.name)
                found[alias.asname or alias.name] = target
    return found


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
IMPORTS = {name: imports(tree) for name, tree in TREES.items()}
NAMES = {(module, name): node for module, tree in TREES.items() for name, node in defined(tree)}


def origin(module: str, name: str) -> Name:
    """Where a name was defined that a module may only hand on."""
    while (module, name) not in NAMES and name in IMPORTS.get(module, {}):
        target, inner = IMPORTS[module][name]
        if inner is None:
            break
        module, name = target, inner
    return module, name


def uses(tree: ast.AST, known: dict[str, tuple[str, str | None]], module: str = "") -> set[Name]:
    """Names of the packages that some code mentions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            target, inner = known.get(node.id, (module, node.id))
            if inner is not None:
                found.add(origin(target, inner))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target, inner = known.get(node.value.id, ("", ""))
            if inner is None:
                found.add(origin(target, node.attr))
    return found & NAMES.keys()


def commands(tree: ast.AST) -> set[Name]:
    """Functions that a command names as text, "module.function", to load them late."""
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    parts = [text.rpartition(".") for text in texts if isinstance(text, str)]
    rooms = ("dtgan_lab", "dtgan_lab.cli")
    return {
        (f"{room}.{module}", name) for room in rooms for module, _, name in parts
    } & NAMES.keys()


def users() -> dict[Name, set[str]]:
    """Who reaches each name, directly or through others: notebooks, scripts, the core, commands."""
    starts: dict[str, set[Name]] = {"doors": set(DOORS)}
    for path in [*NOTEBOOKS, *SCRIPTS]:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(code_of(text) if path.suffix == ".ipynb" else text)
        starts[path.name] = uses(tree, imports(tree))
    for path in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S)
        tree = ast.parse("\n".join(textwrap.dedent(block) for block in blocks))
        starts[path.name] = uses(tree, imports(tree))
    for module, tree in TREES.items():
        if module.startswith("dtgan_core") or ".cli." in module:
            starts[module] = uses(tree, IMPORTS[module], module) | commands(tree)
    graph = {name: uses(node, IMPORTS[name[0]], name[0]) for name, node in NAMES.items()}
    found: dict[Name, set[str]] = {name: set() for name in NAMES}
    for user, left in starts.items():
        while left:
            name = left.pop()
            if user not in found[name]:
                found[name].add(user)
                left |= graph[name]
    return found


def test_nothing_in_the_lab_is_there_for_one_notebook():
    notebooks = {path.name for path in NOTEBOOKS}
    alone = {
        ".".join(name): user
        for name, (user, *others) in ((n, sorted(u)) for n, u in users().items() if u)
        if name[0].startswith("dtgan_lab") and not others and user in notebooks
    }
    assert not alone, "move it into the notebook, where it is explained"


def test_a_name_that_is_handed_on_is_found_where_it_was_defined():
    assert origin("dtgan_lab.data", "load_dataset") in NAMES
    reached = users()
    assert reached["dtgan_lab.plots.figures", "use_style"] > {"02_networks_and_losses.ipynb"}
    assert "dtgan_lab.cli.commands" in reached["dtgan_core.training", "Trainer"]
