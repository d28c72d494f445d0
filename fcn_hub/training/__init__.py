"""Training: from pictures with labels to a checkpoint, on any number of processes.

Read options.py for what can be chosen, start.py for how a run begins, loop.py for what happens in
a step and state.py for the files that it leaves.

`train` is the whole loop. It runs on Hugging Face Accelerate, so the same command serves one
CPU, one GPU and many nodes. What happens in step n depends on the configuration, the seed and n
alone, so a run that is killed and resumed goes on as if nothing had happened.
"""

# Before Accelerate is imported, fcn_hub.evaluation says what to install where it is missing.
from fcn_hub.training.loop import learning_rate_factor, train
from fcn_hub.training.options import TrainingConfig, TrainingError, parse_config
from fcn_hub.training.start import check_data

__all__ = [
    "TrainingConfig",
    "TrainingError",
    "check_data",
    "learning_rate_factor",
    "parse_config",
    "train",
]
