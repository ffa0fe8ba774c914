"""Let the tests here import ``function_cases``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
