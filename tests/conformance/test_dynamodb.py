"""CloudFormation user guide: AWS::DynamoDB::Table."""

from tests.conformance.support import LocalCloud


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
