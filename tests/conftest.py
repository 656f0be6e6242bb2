"""Settings that libraries read when they are loaded, so they stand before any test imports one."""

import os

# As the command line does: waiting threads of torch leave the cores to others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests need no hub, and must not wait for one.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
