"""The site: the pages of docs/, the notebooks, and the reference of every public name.

The source directory is the repository's root, so that a link from one file to another works on the site and in a
checkout. `make docs` builds it, and warnings are errors.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import functorch_optim

project = "functorch_optim"
author = "the functorch_optim developers"
version = release = functorch_optim.__version__

root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/reference/*.md", "notebooks/*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = ["**/.*", ".*", "build", "runs", "tests", "benchmarks", "functorch_optim"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "reference",
]
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"jax\..*")]  # the build needs no network, so JAX's own names are plain code

# Markdown
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs; `make notebooks` runs them
html_math_renderer = "mathml"

# Reference
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

# Appearance: everything is served by the site itself
html_theme = "furo"
html_title = "functorch_optim"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["root"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"
