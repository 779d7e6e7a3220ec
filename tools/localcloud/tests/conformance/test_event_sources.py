"""CloudFormation user guide: AWS::Lambda::EventSourceMapping."""

from conformance.support import LocalCloud, eventually

PRINTER = """
    def handler(event, context):
        print("taken")
"""


def test_the_numbers_of_a_mapping_may_come_from_parameters(cloud: LocalCloud) -> None:
    # GIVEN a mapping whose numbers are text, as a reference to a parameter is
    function, queue = cloud.function(PRINTER), cloud.queue()
    properties = {
        "FunctionName": function,
        "EventSourceArn": queue.arn,
        "MaximumBatchingWindowInSeconds": "0",
        "ScalingConfig": {"MaximumConcurrency": "2"},
    }
    stack = cloud.stack({"Mapping": {"Type": "AWS::Lambda::EventSourceMapping", "Properties": properties}})
    # WHEN a message comes
    queue.send({})
    # THEN it is delivered, and the mapping has numbers
    eventually(lambda: any("taken" in line for line in cloud.log(function)))
    found = cloud.client("lambda").get_event_source_mapping(UUID=stack["Mapping"])
    assert found["ScalingConfig"] == {"MaximumConcurrency": 2}
