"""Settings of the documentation site. `docs/site/build.py` gathers the pages and runs Sphinx with these."""

project = "Ladle"
html_title = "Ladle"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"

# The pages are plain Markdown, so that they also read well in an editor or on a code host.
myst_heading_anchors = 4
myst_all_links_external = False

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
