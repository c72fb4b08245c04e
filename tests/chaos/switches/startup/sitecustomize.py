"""Read by every Python process that a switched test starts: the guards that are off there are off here."""

import os
import sys
from pathlib import Path

if "SWITCHED_OFF" in os.environ:
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    try:
        from tests.chaos.switches.source_edits import switch_off_as_told
    finally:
        del sys.path[0]
    switch_off_as_told()
