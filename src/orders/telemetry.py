"""Logger, Tracer and Metrics, set up once for every function."""

import warnings

from aws_lambda_powertools import Logger, Metrics, Tracer

logger = Logger()
metrics = Metrics()
# An invocation that counts nothing is nothing to warn of.
warnings.filterwarnings("ignore", "No application metrics to publish")
# Patching all that the X-Ray SDK knows would import it; botocore is the only one that makes calls here.
tracer = Tracer(patch_modules=("botocore",))
