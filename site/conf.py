"""Sphinx's settings: README, docs/ and the executed notebooks as pages; nothing is run again.

`make site` calls it.  GITHUB_REPOSITORY ("owner/name", as GitHub's workflows set it) gives every
notebook its buttons for Colab and Binder; without it there is no address to open from.
"""

import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

REPOSITORY = os.environ.get("GITHUB_REPOSITORY", "")
BRANCH, PUBLISHED = "main", "gh-pages"
CONTENTS = """

```{toctree}
:hidden:
site/explorer
```

```{toctree}
:hidden:
:glob:
:caption: Notebooks
notebooks/*
```

```{toctree}
:hidden:
:glob:
:caption: Guides
docs/*
CONTRIBUTING
SECURITY
```
"""

project, author = "DT-GAN kit", "the DT-GAN kit authors"
project_copyright = f"{author}, Apache-2.0"
root_doc = "README"
extensions = ["myst_nb", "sphinx.ext.githubpages"]
include_patterns = ["*.md", "docs/*.md", "notebooks/*.ipynb", "site/*.md"]
exclude_patterns = [".*", "build", "data", "runs", "**/.ipynb_checkpoints"]
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, Any] = {}  # no kernel, no widgets: nothing is loaded for them
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]
html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["static", "../build/site-parts"]
html_favicon = "static/icon.svg"
html_context = {"default_mode": "auto"}
html_css_files = ["explorer.css"]
html_theme_options: dict[str, Any] = {"use_download_button": True, "use_fullscreen_button": False}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": f"https://github.com/{REPOSITORY}",
        "repository_branch": BRANCH,
        "use_repository_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        },
    }


def prepare(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give README, which GitHub shows as well, the list of pages; let links to folders go there."""

    def link(found: re.Match[str]) -> str:
        target = Path(app.srcdir, docname).parent / found[2]
        if not target.is_dir():
            return found[0]
        path = target.resolve().relative_to(app.srcdir)
        address = f"https://github.com/{REPOSITORY}/tree/{BRANCH}/{path}"
        return f"[{found[1]}]({address})" if REPOSITORY else found[1]

    source[0] = re.sub(r"\[([^\[\]\n]*)\]\(([^():#\s\"\\]+)\)", link, source[0])
    if docname == root_doc:
        source[0] += CONTENTS


def open_published(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Let Colab open the copy below `_sources`: it installs the kit (see `tools/make_site.py`)."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("text") == "Colab":
                button["url"] = button["url"].replace(
                    f"/blob/{BRANCH}/", f"/blob/{PUBLISHED}/_sources/"
                )


def setup(app: Sphinx) -> None:
    """Join Sphinx's events."""
    app.connect("source-read", prepare)
    app.connect("html-page-context", open_published, priority=900)
