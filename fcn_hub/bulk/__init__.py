"""Bulk prediction: any number of pictures into files, on one machine or a cluster.

The pictures are listed once, in a plan that cuts them into shards. A shard is the unit of work:
one worker segments its pictures and writes one file, whole or not at all. Whoever is killed,
worker or driver, leaves finished shards and nothing else, so that a rerun does what is missing
and every picture is in the output exactly once.
"""

from fcn_hub.bulk.predicting import PredictConfig, Report, predict
from fcn_hub.bulk.sources import SourceError

__all__ = ["PredictConfig", "Report", "SourceError", "predict"]
