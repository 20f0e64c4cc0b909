"""What the fork server imports before it forks the first server: what a server imports before it loads its model."""

import warnings

from handler.settings import Settings, prepare_process
from handler.vllm_core import import_vllm

warnings.simplefilter("ignore")
prepare_process(Settings())
import_vllm()
