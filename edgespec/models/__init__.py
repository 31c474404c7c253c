"""Model files: which ones the catalogue lists, where they lie, and how they get here.

`catalogue.toml` and the lists of tokens (`*.kept.json`) are in this folder, and not in `models/` at the project's root,
because the code reads them: here they are found from the source tree, an editable installation and a wheel alike.
"""
