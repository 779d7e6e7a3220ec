"""What Logger, Tracer and Metrics alone cost: one log line, one metric, no order."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics, Tracer

logger = Logger()
tracer = Tracer(patch_modules=("botocore",))
metrics = Metrics()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(correlation_id_path="requestContext.requestId", clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Accept nothing."""
    logger.append_keys(order_id="6f1c0a5e-30c5-5f1c-9d5c-3a1f0f6f9b11")
    metrics.add_metric("OrderAccepted", "Count", 1)
    logger.info("order accepted", extra={"lines": 3})
    return {"statusCode": 202}
