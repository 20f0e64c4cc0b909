"""The Lambda template: it lints, what it names exists, roles may do little, and what is wrong is noticed."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from handler.emf import EmfWriter
from handler.finished import Finished
from handler.settings import Settings
from tests.infra.files import INFRA, PATCH, TEMPLATE, alarm_terms, read, walk
from tests.server import ROOT

DOCUMENT = read(TEMPLATE)
RESOURCES = DOCUMENT["Resources"]
CFN_LINT = str(Path(sys.executable).with_name("cfn-lint"))


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    """Run cfn-lint as `make check-infra` does."""
    command = [CFN_LINT, "--override-spec", str(PATCH), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("path", [TEMPLATE, INFRA / "sagemaker/template.yaml"], ids=["lambda", "sagemaker"])
def test_it_follows_the_vendors_schemas(path: Path) -> None:
    """cfn-lint with AWS' own schemas finds nothing."""
    done = lint(path)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("AllowedValues: [3, 6, 12, 16, 24, 48]", "AllowedValues: [5]", "AcceleratorConfig/AcceleratorMemorySize"),
        ("AcceleratorMemorySize: !Ref GpuMemoryGb", "AcceleratorMemory: 24", "E3002"),
        ("PackageType: Image", "PackageType: Container", "E3030"),
        ("!GetAtt Capacity.Arn", "!GetAtt Capacities.Arn", "E1010"),
        ("MaxVCpuCount: !Ref MaxVcpuCount", "MaxVCpuCount: 1", "E3034"),
    ],
)
def test_a_broken_template_is_noticed(tmp_path: Path, right: str, wrong: str, told: str) -> None:
    """The check can fail: for the property that we patch in too."""
    text = TEMPLATE.read_text()
    assert right in text
    broken = tmp_path / "template.yaml"
    broken.write_text(text.replace(right, wrong))
    assert told in lint(broken).stdout


def test_the_patch_says_what_the_api_says() -> None:
    """`AcceleratorConfig`, which the published schemas lack, has the members of the service model in botocore."""
    model = str(distribution("botocore").locate_file("botocore/data/lambda/2015-03-31/service-2.json.gz"))
    shapes = json.loads(gzip.decompress(Path(model).read_bytes()))["shapes"]
    (patch,) = read(PATCH)["Patches"]["AWS::Lambda::Function"]
    members = shapes["AcceleratorConfig"]["members"]
    assert patch["value"]["properties"].keys() == members.keys()
    assert (
        shapes[members["AcceleratorMemorySize"]["shape"]]["type"]
        == patch["value"]["properties"]["AcceleratorMemorySize"]["type"]
    )


def test_the_published_schemas_still_lack_it(tmp_path: Path) -> None:
    """When cfn-lint knows the property by itself, the patch can go."""
    command = [CFN_LINT, str(TEMPLATE)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path).stdout
    assert "AcceleratorConfig" in found


def test_port_path_and_limits_are_the_servers() -> None:
    """The adapter asks the port and path that are served, and the slots are Lambda's concurrency."""
    properties = RESOURCES["Function"]["Properties"]
    variables = properties["Environment"]["Variables"]
    assert variables["PORT"] == variables["AWS_LWA_PORT"] == str(Settings.model_fields["port"].default)
    assert variables["AWS_LWA_READINESS_CHECK_PATH"] == "/ready"
    assert variables["AWS_LWA_READINESS_CHECK_HEALTHY_STATUS"] == "200"
    per_environment = properties["CapacityProviderConfig"]["LambdaManagedInstancesCapacityProviderConfig"]
    assert variables["EMBED_MAX_CONCURRENT_REQUESTS"] == per_environment["PerExecutionEnvironmentMaxConcurrency"]
    assert int(variables["EMBED_MAX_BODY_BYTES"]) == 6 * 2**20
    assert properties["LoggingConfig"]["LogFormat"] == "JSON"  # managed instances know no other
    assert properties["Timeout"] >= Settings.model_fields["start_timeout_s"].default
    assert variables["EMBED_CACHE_DIR"].startswith("/tmp/")


def test_every_path_of_weights_is_a_real_one() -> None:
    """Mounted weights lie under the mount; weights from a bucket are named as the server wants them."""
    properties = RESOURCES["Function"]["Properties"]
    _, mounted, bucket = properties["Environment"]["Variables"]["EMBED_MODEL_PATH"]["Fn::If"]
    condition, systems, absent = properties["FileSystemConfigs"]["Fn::If"]
    assert (condition, absent) == ("HasMount", {"Ref": "AWS::NoValue"})
    assert mounted["Fn::Sub"].startswith(systems[0]["LocalMountPath"] + "/")
    assert bucket["Fn::Sub"] == "s3://${WeightsBucket}/${WeightsPrefix}/"


def statements() -> list[dict[str, Any]]:
    """Every statement of the roles' policies."""
    policies = [
        node["PolicyDocument"] for node in walk(RESOURCES) if isinstance(node, dict) and "PolicyDocument" in node
    ]
    return [statement for policy in policies for statement in policy["Statement"]]


def test_roles_may_do_little() -> None:
    """No wildcard action, no wildcard resource but a file system that the access point narrows, and only reading."""
    allowed = statements()
    assert len(allowed) >= 6
    for statement in allowed:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert all("*" not in action for action in actions)
        assert statement["Resource"] != "*"
        written = [
            action
            for action in actions
            if not re.search(r":(Get|List|ClientMount|CreateLogStream|PutLogEvents)", action)
        ]
        assert written == []
        if "file-system/*" in str(statement["Resource"]):
            assert "AccessPointArn" in str(statement["Condition"])


def test_every_condition_and_parameter_is_used() -> None:
    """A parameter that nothing reads would promise something."""
    text = json.dumps([RESOURCES, DOCUMENT["Conditions"], DOCUMENT["Rules"], DOCUMENT["Outputs"]])
    for name in [*DOCUMENT["Parameters"], *DOCUMENT["Conditions"]]:
        assert re.search(rf'"{name}"|\${{{name}}}', text), name
    grouped = [
        name
        for group in DOCUMENT["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        for name in group["Parameters"]
    ]
    assert sorted(grouped) == sorted(DOCUMENT["Parameters"])


def watched(namespace: str) -> set[tuple[str, tuple[str, ...]]]:
    """Name and dimensions of every metric of *namespace* that an alarm reads."""
    nodes = [node for node in walk(RESOURCES) if isinstance(node, dict) and node.get("Namespace") == namespace]
    return {(node["MetricName"], tuple(dimension["Name"] for dimension in node["Dimensions"])) for node in nodes}


def test_alarms_read_what_the_server_writes() -> None:
    """Names, dimensions and namespace are those of the lines of a server with the template's own variables."""
    variables = RESOURCES["Function"]["Properties"]["Environment"]["Variables"]
    stream = io.StringIO()
    writer = EmfWriter(variables["EMBED_EMF_NAMESPACE"], service="stack", in_flight=lambda: 1, stream=stream)
    writer.watch(Finished(method="POST", route="/v1/embeddings", status=200, total_ms=100, inputs=1, tokens=3))
    writer.close()
    line = json.loads(stream.getvalue())
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    (dimensions,) = directive["Dimensions"]
    names = {metric["Name"] for metric in directive["Metrics"]}
    alarms = watched(directive["Namespace"])
    assert {name for name, _ in alarms} <= names
    assert {of for _, of in alarms} == {tuple(dimensions)} == {("service",)}
    assert {name for name, _ in alarms} == {
        *("Errors", "Rejected", "Requests", "EngineDeaths", "Latency"),
    }
    values = [
        dimension["Value"]
        for node in walk(RESOURCES)
        if isinstance(node, dict) and node.get("Namespace") == directive["Namespace"]
        for dimension in node["Dimensions"]
    ]
    assert all(value == variables["EMBED_SERVICE_NAME"] == {"Ref": "AWS::StackName"} for value in values)


def test_the_page_says_which_alarms_rest_on_the_form_of_the_log() -> None:
    """Each alarm on a metric that CloudWatch makes of the log is named as unverified, and no other."""
    page = (INFRA / "monitoring.md").read_text()
    (told,) = re.findall(r"so that ([^.]+)\s+hear anything is\s+unverified", page)
    namespace = RESOURCES["Function"]["Properties"]["Environment"]["Variables"]["EMBED_EMF_NAMESPACE"]
    reading = {
        name
        for name, resource in RESOURCES.items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
        and any(isinstance(node, dict) and node.get("Namespace") == namespace for node in walk(resource))
    }
    assert set(re.findall(r"`(\w+)`", told)) == reading


def test_alarms_hear_what_the_server_logs() -> None:
    """Each term of the metric filter is in a line that the server writes when it cannot start or go on."""
    source = "".join(path.read_text() for path in (ROOT / "handler").glob("*.py"))
    terms = alarm_terms(DOCUMENT)
    assert {"start_failed", "engine_died"} < set(terms)
    for term in terms:
        assert re.search(rf'log\.(error|exception)\(\s*"{term}"|HaltServer\(f"[^"]*{term}"', source), term
    (metric,) = RESOURCES["StartFailures"]["Properties"]["MetricTransformations"]
    alarm = RESOURCES["StartFailuresAlarm"]["Properties"]
    assert (alarm["Namespace"], alarm["MetricName"]) == (metric["MetricNamespace"], metric["MetricName"])
    kinds = [name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::CloudWatch::Alarm"]
    assert sorted(kinds) == [
        *("EngineDeathsAlarm", "ErrorsAlarm", "GpuAlarm", "LatencyAlarm", "RejectedAlarm", "ServerErrorsAlarm"),
        *("StartFailuresAlarm", "ThrottlesAlarm"),
    ]


def test_the_alarm_on_gpus_reads_every_type_of_instance() -> None:
    """Lambda counts by capacity provider and type of instance together: an alarm on the first alone finds nothing."""
    (metric,) = RESOURCES["GpuAlarm"]["Properties"]["Metrics"]
    query = metric["Expression"]["Fn::Sub"]
    assert 'FROM SCHEMA("AWS/Lambda", CapacityProviderName, InstanceType)' in query
    assert query.endswith("WHERE CapacityProviderName = '${Capacity}'")
    assert metric["Period"] == 300


def test_the_url_is_open_to_the_servers_own_keys_only() -> None:
    """Both permissions that a public URL needs, on the alias; responses are streamed."""
    url = RESOURCES["Url"]["Properties"]
    assert (url["AuthType"], url["InvokeMode"]) == ("NONE", "RESPONSE_STREAM")
    assert url["Qualifier"] == RESOURCES["Alias"]["Properties"]["Name"]
    permissions = [each["Properties"] for each in RESOURCES.values() if each["Type"] == "AWS::Lambda::Permission"]
    assert all(each["FunctionName"] == {"Ref": "Alias"} and each["Principal"] == "*" for each in permissions)
    conditions = {
        each["Action"]: (each.get("FunctionUrlAuthType"), each.get("InvokedViaFunctionUrl")) for each in permissions
    }
    assert conditions == {"lambda:InvokeFunctionUrl": ("NONE", None), "lambda:InvokeFunction": (None, True)}
    variables = RESOURCES["Function"]["Properties"]["Environment"]["Variables"]
    assert "EMBED_API_KEYS_SECRET_ID" in variables
    assert "EMBED_TRUST_PLATFORM_AUTH" not in variables


def test_logs_end_and_outputs_tell_the_first_call() -> None:
    """Retention is a parameter with a default; the outputs have the URL and a curl line of a route that exists."""
    assert RESOURCES["LogGroup"]["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    assert DOCUMENT["Parameters"]["LogRetentionDays"]["Default"] > 0
    outputs = {name: str(output["Value"]) for name, output in DOCUMENT["Outputs"].items()}
    assert "${Url.FunctionUrl}v1" in outputs["BaseUrl"]
    assert "curl ${Url.FunctionUrl}v1/embeddings" in outputs["Curl"]


@pytest.mark.parametrize("path", [TEMPLATE, INFRA / "sagemaker/template.yaml"], ids=["lambda", "sagemaker"])
def test_the_policy_scanner_is_told_why(path: Path) -> None:
    """Each exception stands at its resource, with its reason; none is made for everything."""
    skipped = [
        entry
        for resource in read(path)["Resources"].values()
        for entry in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    ]
    assert len(skipped) >= 3
    assert all(re.fullmatch(r"CKV_AWS_\d+", entry["id"]) and len(entry["comment"]) > 20 for entry in skipped)
    assert "skip-check" not in read(INFRA / "checkov.yaml")
