"""What the fork server imports before it forks the first server, as a server does before it loads its model."""

import os
import warnings

from handler.settings import PREFIX, Settings, prepare_process
from handler.vllm_core import import_vllm

for name in [name for name in os.environ if name.startswith(PREFIX)]:
    del os.environ[name]  # a server inherits none of them
warnings.simplefilter("ignore")
prepare_process(Settings())
import_vllm()
