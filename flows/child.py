"""``python -m flows.child PARENT MODULE ARGS...``: run a module in a process that never outlives its parent.

The parent starts it in a session of its own, so that Ctrl-C reaches the parent alone, which then ends things
in order.
"""

import runpy
import sys

from stemma.core.lifeline import die_with

if __name__ == "__main__":
    _, parent, module, *arguments = sys.argv
    die_with(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
