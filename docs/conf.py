"""Sphinx configuration; built with warnings as errors by ``python3 dev.py docs``."""

import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import manifoldkit

HERE = Path(__file__).resolve().parent

project = "manifoldkit"
author = "The manifoldkit developers"
copyright = "2026, the manifoldkit developers"
version = release = manifoldkit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "results", "jupyter_execute"]
autosummary_generate = True
templates_path = ["_templates"]
autodoc_typehints = "none"
numpydoc_show_class_members = True
numpydoc_show_inherited_class_members = False
numpydoc_class_members_toctree = False
warnings.filterwarnings("ignore", category=DeprecationWarning)
suppress_warnings = ["ref.ref"]  # labels in docstrings inherited from scikit-learn

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Formulas without a network: MathJax comes from a package where that is installed
# (extra ``docs``), else from its usual address.
offline = find_spec("sphinx-mathjax-offline")
if offline is not None:
    MATHJAX = Path(offline.origin).parent / "static" / "mathjax"
    mathjax_path = "mathjax/tex-chtml.js"


def copy_mathjax(app, error):
    """Copy the script and its fonts, a tenth of the package."""
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "mathjax"
        shutil.copytree(MATHJAX / "output", target / "output", dirs_exist_ok=True)
        shutil.copy2(MATHJAX / "tex-chtml.js", target)


def setup(app):
    """Connect the steps of the build that Sphinx does not know."""
    if offline is not None:
        app.connect("build-finished", copy_mathjax)


# The tutorials are the notebooks, copied beside the pages and executed in fast mode.
tutorials = HERE / "tutorials"
for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
    shutil.copy2(notebook, tutorials / notebook.name)
os.environ.setdefault("MANIFOLDKIT_FAST", "1")
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "pydata_sphinx_theme"
html_title = "manifoldkit"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
}
_ALONE = ("index", "installation", "getting_started", "choosing", "comparison")
_ALONE += ("reproductions", "performance", "guide/scaling")
_ALONE += ("architecture",)  # no section beside
html_sidebars = {page: [] for page in _ALONE}
