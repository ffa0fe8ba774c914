"""Let the tests of this folder import the cases of ``test_laws``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
