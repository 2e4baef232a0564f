"""What the environment said when bcos_zoo was imported."""

import os

MANIFEST = os.environ.get("BCOS_ZOO_MANIFEST", "")
# A relative path, and the variable itself, may mean something else by the time timm is imported.
if MANIFEST:
    MANIFEST = os.path.abspath(os.path.expanduser(MANIFEST))
