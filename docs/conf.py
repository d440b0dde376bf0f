"""How Sphinx builds these pages; ``make docs`` does."""

from __future__ import annotations

from importlib import metadata

project = "panda_airflow"
author = "The panda_airflow developers"
release = metadata.version("panda-airflow")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"panda_airflow {release}"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
