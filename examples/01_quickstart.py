# SPDX-License-Identifier: Apache-2.0
"""x"""

import sys

from hf_ckt.cli.demo import run
from hf_ckt.cli.main import run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded("01_quickstart.py", lambda: run(sys.argv[1:])))
