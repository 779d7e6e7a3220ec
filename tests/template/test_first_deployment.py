"""What a first deployment to an account would meet, and what no later deployment could mend."""

from __future__ import annotations

import pytest

from tests.template.cloudformation import Template, load_raw, load_workflow


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(load_raw(), load_workflow())


# ---- One stage


def test_the_api_has_one_stage(template: Template) -> None:
    # SAM names a stage in the deployment unless OpenApiVersion is set: a second, public one without throttling.
    assert [properties["StageName"] for _, properties in template.of_type("ApiGateway::Stage")] == ["v1"]
    deployments = [properties for _, properties in template.of_type("ApiGateway::Deployment")]
    assert deployments
    assert not any("StageName" in properties for properties in deployments)
