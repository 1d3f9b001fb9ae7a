"""Write docs/api.md, the reference of the public Python API, from the docstrings.

Public is what a notebook or a program of one's own would import: the table below. Signatures and docstrings are read
from the source, so that no package need be installed and every Python writes the same page.

    python docs/make_api.py
    python docs/make_api.py --check
"""

import argparse
import ast
import functools
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"

# Module -> its public names; a dot goes from a class to a method of it. Of `data.errors` all.
PUBLIC: dict[str, tuple[str, ...]] = {
    "data.images": ("open_images", "ImageSet"),
    "data.splits": ("SplitRule",),
    "data.store": ("FeatureStore", "FeatureStore.load", "FeatureStore.views", "FeatureStore.features", "Samples"),
    "data.spec": ("FeatureSpec", "Source"),
    "data.verify": ("verify_store",),
    "data.export": ("to_pandas", "to_npz", "to_parquet", "to_csv"),
    "extract.extractor": ("Extractor", "Extractor.run"),
    "extract.wanted": ("Wanted",),
    "extract.backbones": ("open_backbone",),
    "extract.options": ("Options",),
    "extract.results": ("Extraction",),
    "extract.transformer": ("PenultFeatures",),
    "extract.tensors": ("StoreDataset",),
    "classify.heads": ("HEADS",),
    "classify.fitting": ("Fitting", "Fitting.open", "Fitting.fit", "Fitting.fit_all"),
    "classify.artifact": ("load_head", "TrainedHead", "TrainedHead.predict_proba", "TrainedHead.predictions"),
    "classify.evaluate": ("evaluate",),
    "classify.compare": ("compare",),
    "classify.audit": ("Audit", "Audit.run"),
    "classify.advise": ("advise",),
    "finetune.strategies": ("make_strategy", "Strategy"),
    "finetune.tuning": ("Tuner", "Tuner.run"),
    "finetune.depth": ("DepthSearch", "DepthSearch.run"),
    "data.errors": (),
}
_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$", flags=re.MULTILINE)
_WIDTH = 110

Node = ast.ClassDef | ast.FunctionDef


def reference() -> str:
    """Return the page."""
    parts = [
        "# API reference\n",
        "Written by `python docs/make_api.py` from the docstrings; `tests/test_docs.py` compares. The examples are\n"
        "run by `tests/test_doctests.py`, in a folder with `pictures/` and a store of their features, `features.h5`.\n",
        "\n".join(f"- [`{name}`](#{name.replace('.', '')}): {_summary(_tree(name))}" for name in PUBLIC) + "\n",
    ]
    for module, names in PUBLIC.items():
        parts.append(f"## {module}\n\n{_summary(_tree(module))}\n")
        if names:
            parts += [_entry(module, name) for name in names]
        else:
            parts.append("\n".join(_exception(node) for node in _tree(module).body if isinstance(node, ast.ClassDef)))
    return "\n".join(parts).rstrip() + "\n"


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())


def _find(module: str, path: str) -> Node:
    """Return the class, function or method; an imported one from where it is."""
    within: ast.Module | Node = _tree(module)
    homes = {alias.name: n.module for n in within.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    if path in homes:
        within = _tree(homes[path] or module)
    for name in path.split("."):
        within = next(n for n in within.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name)
    assert not isinstance(within, ast.Module)
    return within


def _entry(module: str, path: str) -> str:
    if path.isupper():
        return f"### {path}\n\n{_table_of_classes(module, path)}\n"
    node = _find(module, path)
    doc = ast.get_docstring(node) or ""
    return f"### {path}\n\n```python\n{_signature(node, path)}\n```\n\n{_markdown(doc)}\n"


def _table_of_classes(module: str, name: str) -> str:
    """Return a literal dict of classes as a table: key, class, its first sentence."""
    body = _tree(module).body
    homes = {alias.name: n.module for n in body if isinstance(n, ast.ImportFrom) for alias in n.names}
    (table,) = [n.value for n in body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == name]
    assert isinstance(table, ast.Dict)
    rows = []
    for key, value in zip(table.keys, table.values, strict=True):
        title = ast.unparse(value)
        home = homes[title] or module
        assert isinstance(key, ast.Constant)
        rows.append(f"| `{key.value!s}` | `{home}.{title}` | {_summary(_find(home, title))} |")
    return "| key | class | what |\n|---|---|---|\n" + "\n".join(rows)


def _exception(node: ast.ClassDef) -> str:
    bases = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
    return f"- `{node.name}` ({bases}): {_summary(node)}"


def _summary(node: ast.Module | Node) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _signature(node: Node, path: str) -> str:
    """Return how it is called, one parameter a line where it is long."""
    returns = ""
    if isinstance(node, ast.FunctionDef):
        parameters = _parameters(node.args)
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    else:
        init = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        parameters = _parameters(init[0].args) if init else _fields(node)
    line = f"{path}({', '.join(parameters)}){returns}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{path}(", *(f"    {parameter}," for parameter in parameters), f"){returns}"])


def _parameters(arguments: ast.arguments) -> list[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    found = [_parameter(a, d) for a, d in zip(positional, [*defaults, *arguments.defaults], strict=True)]
    found = found[1:] if positional and positional[0].arg in ("self", "cls") else found
    if arguments.kwonlyargs:
        found.append("*")
    return found + [_parameter(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{kind}" + (f" = {ast.unparse(default)}" if default else "")


def _fields(node: ast.ClassDef) -> list[str]:
    """Return the parameters of a dataclass."""
    found = []
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            default = ast.unparse(field.value) if field.value else ""
            made = re.search(r"default_factory=(\w+)", default)
            default = f"{made[1]}()" if made else default
            found.append(
                f"{ast.unparse(field.target)}: {ast.unparse(field.annotation)}" + (default and f" = {default}")
            )
    return found


def _markdown(doc: str) -> str:
    """Return a numpydoc docstring as Markdown: sections as lists, examples as code."""
    pieces = _SECTION.split(inspect.cleandoc(doc))
    parts = [pieces[0].strip()]
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        lines = body.strip("\n")
        if title == "Examples":
            parts.append(f"{title}:\n\n```text\n{lines}\n```")
        else:
            parts.append(f"{title}:\n\n{_items(lines) if title not in ('Notes', 'References') else lines}")
    return "\n\n".join(part for part in parts if part)


def _items(text: str) -> str:
    """Return `name : type` with what is indented below it as a list."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith(" ") and found:
            found[-1].append(line.strip())
        elif line.strip():
            found.append([line])
    return "\n".join(f"- `{head}`" + (f": {' '.join(rest)}" if rest else "") for head, *rest in found)


def main() -> int:
    """Write the page, or with `--check` compare it."""
    parser = argparse.ArgumentParser(description="Write docs/api.md from the docstrings.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the page is out of date")
    if parser.parse_args().check:
        return int(PAGE.read_text() != reference())
    PAGE.write_text(reference())
    return 0


if __name__ == "__main__":
    sys.exit(main())
