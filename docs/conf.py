"""The settings of the documentation: `make docs` builds it, with warnings as errors."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext"), str(ROOT / "benchmarks")]

project = "metarl-toolkit"
author = "the authors of metarl-toolkit"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docstrings",
    "generated",
]
exclude_patterns = ["_build", "pictures/README.md"]
nitpicky = False
smartquotes = False
default_role = "literal"  # `word` in the help of options

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

html_theme = "furo"
html_show_copyright = False
html_title = "metarl-toolkit"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_theme_options = {"source_directory": "docs/"}
copybutton_exclude = ".linenos, .gp, .go"
