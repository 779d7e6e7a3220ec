"""CloudFormation user guide: AWS::DynamoDB::Table."""

from conformance.support import LocalCloud, policy, table_with_stream
from conformance.test_permissions import allow, limited_role

STREAM_READER = """
    import boto3

    def handler(event, context):
        streams = boto3.client("dynamodbstreams")
        iterator = streams.get_shard_iterator(ShardIteratorType="TRIM_HORIZON", **event)["ShardIterator"]
        return len(streams.get_records(ShardIterator=iterator)["Records"])
"""


def test_time_to_live_and_recovery_of_a_template_are_applied(cloud: LocalCloud) -> None:
    # GIVEN a template with both settings
    properties = {
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "TimeToLiveSpecification": {"AttributeName": "expires", "Enabled": True},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    # WHEN it is deployed
    stack = cloud.stack({"Table": {"Type": "AWS::DynamoDB::Table", "Properties": properties}})
    # THEN the table has them
    dynamodb, name = cloud.client("dynamodb"), stack["Table"]
    ttl = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires"}
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"


def test_a_policy_may_name_the_stream_that_is_read(cloud: LocalCloud) -> None:
    # GIVEN a stream with a record, and a function that may read another one only
    name, stream_arn = table_with_stream(cloud)
    cloud.client("dynamodb").put_item(TableName=name, Item={"id": {"S": "1"}})
    shards = cloud.client("dynamodbstreams").describe_stream(StreamArn=stream_arn)["StreamDescription"]["Shards"]
    event = {"StreamArn": stream_arn, "ShardId": shards[0]["ShardId"]}
    actions = ("dynamodb:GetShardIterator", "dynamodb:GetRecords")
    other = stream_arn.replace(name, "other")
    role = limited_role(cloud, "lambda.amazonaws.com", *(allow(action, other) for action in actions))
    function = cloud.function(STREAM_READER, Role=role)
    # WHEN it reads, without and with the permission for this one
    _, refused = cloud.invoke(function, event)
    document = policy(*(allow(action, stream_arn) for action in actions))
    cloud.client("iam").put_role_policy(RoleName=role.rsplit("/", 1)[1], PolicyName="this", PolicyDocument=document)
    # THEN it is refused at first only
    assert "AccessDeniedException" in refused["errorMessage"]
    assert cloud.invoke(function, event) == (None, 1)
