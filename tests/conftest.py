"""What all tests share: one thread per process, and no time limit for a hypothesis on a busy machine."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the processes that tests start
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
