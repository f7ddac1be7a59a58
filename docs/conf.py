"""How the site is built: sphinx-build -W docs docs/_build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import senet

project = "senet"
author = "The senet developers"
copyright = "The senet developers. Apache-2.0"
version = release = senet.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "myst_parser", "project", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "evidence"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
default_role = "code"

napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"senet {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
