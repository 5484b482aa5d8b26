"""Reference pages made from the code, formulas, and links out of `docs`: what mkdocs needs beside the pages."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLOTS = ROOT / "benchmarks" / "results" / "solvers" / "arena"


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the generated pages and the benchmark's plots."""
    from mkdocs.structure.files import File

    for name, content in references().items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    for plot in sorted(PLOTS.glob("*.png")):
        files.append(File.generated(config, f"plots/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What lies elsewhere in the repository is named, not linked: the site holds `docs` alone."""
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+([^)]+)\)", r"\1 (`\2`)", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Formulas become MathML, which browsers show without a script or a font from elsewhere."""
    from latex2mathml.converter import convert

    def formula(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return str(convert(unescape(found["tex"]), display=display))

    return re.sub(
        r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>',
        formula,
        html,
        flags=re.S,
    )


def references() -> dict[str, str]:
    """The generated pages, by name."""
    return {
        "command-line": "\n".join(_commands()),
        "python": "\n".join(_names()),
        "printed-json": "\n".join(_schemas()),
    }


def _commands() -> Iterator[str]:
    """Every command with its options, as `--help` has them."""
    from knapsack_prune.cli import load_commands

    app = load_commands()
    yield "# Command line\n\n`knapsack-prune COMMAND --help` prints the same. Shell completion: "
    yield "`knapsack-prune --install-completion`.\n"
    for name in sorted(name for name in app if not name.startswith("-")):
        command = app[name]
        yield f"## {name}\n\n{inspect.cleandoc(command.help or '')}\n"
        arguments = [one for one in command.assemble_argument_collection() if one.parse and one.show]
        yield "| option | meaning | default |\n|---|---|---|"
        for one in arguments:
            names = ", ".join(f"`{flag}`" for flag in one.names) or f"`{one.field_info.name}`"
            default = one.parameter.show_default
            shown = default if isinstance(default, str) else ""
            yield f"| {names} | {_cell(one.parameter.help or '')} | {_cell(shown)} |"
        yield ""


def _names() -> Iterator[str]:
    """Every public name of `knapsack_prune`, with its signature and text."""
    import knapsack_prune as kp

    yield "# Python\n\n`import knapsack_prune as kp`.\n\n"
    yield "Settings may be given by name: `kp.plan(model, example, flops_budget=0.3)`.\n"
    for name in sorted(kp.__all__, key=str.lower):
        if name.startswith("_"):
            continue
        value = getattr(kp, name)
        text = inspect.getdoc(value) or ""
        if inspect.isclass(value):
            yield f"## {name}\n\n```text\n{text}\n```\n"
            fields = getattr(value, "model_fields", {})
            described = {key: one for key, one in fields.items() if one.description}
            if described:
                yield "| field | meaning | default |\n|---|---|---|"
                for key, one in described.items():
                    yield f"| `{key}` | {_cell(one.description)} | {_cell(str(one.get_default()))} |"
                yield ""
        else:
            yield f"## {name}\n\n```python\nkp.{name}{inspect.signature(value)}\n```\n\n```text\n{text}\n```\n"


def _schemas() -> Iterator[str]:
    """The JSON Schemas of what commands print."""
    from knapsack_prune.cli.outputs import OUTPUTS, output_schema

    yield "# Printed JSON\n\nWhat `--json` prints, as JSON Schema; the files are in `docs/schemas`.\n"
    for name in OUTPUTS:
        yield f"## {name}\n\n```json\n{json.dumps(output_schema(name), indent=1)}\n```\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
