"""Checks what describes Quiver on AWS, without AWS: `make check-aws`.

cfn-lint and AWS's own SAM translator read the template, and what comes of it; Terraform's files are parsed, and must
describe the same functions, queue, bucket, secret and database. `terraform validate` needs the provider for AWS, which
only the network has.
"""

import copy
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
from cfnlint import decode
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

HERE = Path(__file__).parent
TEMPLATE = HERE / "template.yaml"
TERRAFORM = HERE / "terraform"

# What the template has, by what Terraform calls it.
KINDS = {
    "AWS::EC2::SecurityGroup": "aws_security_group",
    "AWS::EC2::SecurityGroupIngress": "aws_vpc_security_group_ingress_rule",
    "AWS::IAM::ManagedPolicy": "aws_iam_role_policy",
    "AWS::IAM::Role": "aws_iam_role",
    "AWS::RDS::DBInstance": "aws_db_instance",
    "AWS::RDS::DBProxy": "aws_db_proxy",
    "AWS::RDS::DBProxyTargetGroup": "aws_db_proxy_target",
    "AWS::RDS::DBSubnetGroup": "aws_db_subnet_group",
    "AWS::S3::Bucket": "aws_s3_bucket",
    "AWS::SQS::Queue": "aws_sqs_queue",
    "AWS::SQS::QueuePolicy": "aws_sqs_queue_policy",
    "AWS::SecretsManager::Secret": "aws_secretsmanager_secret",
    "AWS::Serverless::Function": "aws_lambda_function",
    "AWS::Serverless::HttpApi": "aws_apigatewayv2_api",
}
# Properties that must be alike, by what Terraform calls them.
PROPERTIES = {
    "Database": {
        "Engine": "engine",
        "EngineVersion": "engine_version",
        "DBInstanceClass": "instance_class",
        "AllocatedStorage": "allocated_storage",
        "MaxAllocatedStorage": "max_allocated_storage",
        "StorageType": "storage_type",
        "StorageEncrypted": "storage_encrypted",
        "BackupRetentionPeriod": "backup_retention_period",
        "DBName": "db_name",
        "MasterUsername": "username",
        "PubliclyAccessible": "publicly_accessible",
        "DeletionProtection": "deletion_protection",
    },
    "Proxy": {"EngineFamily": "engine_family", "RequireTLS": "require_tls"},
    "Wake": {
        "VisibilityTimeout": "visibility_timeout_seconds",
        "MessageRetentionPeriod": "message_retention_seconds",
        "SqsManagedSseEnabled": "sqs_managed_sse_enabled",
    },
}


class Session:
    """What the translator asks a session of AWS for: where it is."""

    region_name = "eu-central-1"


def main() -> int:
    problems = [*_lint(TEMPLATE), *_translate(), *_compare(), *_compare_the_rest(), *_format()]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print("infra/aws: the template and Terraform's files are well formed, and describe the same.")
    return bool(problems)


def _lint(template: Path) -> Iterator[str]:
    command = [str(Path(sys.executable).with_name("cfn-lint")), str(template)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield done.stdout + done.stderr


def _translate() -> Iterator[str]:
    template = _template()
    names = {name: value.get("Default", "http://example.com") for name, value in template["Parameters"].items()}
    for function in _functions(template).values():
        function["CodeUri"] = "s3://bucket/package"  # as `sam package` puts it
    translator = Translator({}, Parser(), boto_session=Session())
    translated = translator.translate(template, names)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(translated, file)
        file.flush()
        yield from _lint(Path(file.name))


def _compare() -> Iterator[str]:
    template = _template()
    variables = template["Globals"]["Function"]["Environment"]["Variables"]
    ours = {
        function["Handler"]: {
            "memory_size": function["MemorySize"],
            "timeout": function["Timeout"],
            "ephemeral": function.get("EphemeralStorage", {}).get("Size", 512),
            "package": Path(function["CodeUri"]).name,
            "variables": sorted(variables),
        }
        for function in _functions(template).values()
    }
    theirs = {function["handler"]: function for function in _terraform_functions()}
    for handler in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(handler), theirs.get(handler)
        if mine is None or other is None or mine != {name: other[name] for name in mine}:
            yield f"The template and Terraform differ in {handler}: {mine} and {other}."
    schedules = [event["Properties"]["ScheduleExpression"] for event in _events(template, "ScheduleV2")]
    text = (TERRAFORM / "main.tf").read_text()
    if schedules != re.findall(r'schedule_expression\s*=\s*"([^"]+)"', text):
        yield f"The template and Terraform differ in their schedules: {schedules}."
    statements = template["Resources"]["Access"]["Properties"]["PolicyDocument"]["Statement"]
    actions = {action for statement in statements for action in _listed(statement["Action"])}
    if missing := {action for action in actions if f'"{action}"' not in text}:
        yield f"Terraform's policy lacks {', '.join(sorted(missing))}."


def _compare_the_rest() -> Iterator[str]:
    resources = _template()["Resources"]
    theirs = _terraform_resources()
    for name, resource in resources.items():
        kind = KINDS.get(resource["Type"])
        if kind not in theirs:
            yield f"Terraform has nothing for {name}, of {resource['Type']}; KINDS would tell {kind}."
            continue
        names = PROPERTIES.get(name, {})
        mine = {other: str(resource["Properties"][own]) for own, other in names.items()}
        if not any(mine.items() <= {key: str(value) for key, value in one.items()}.items() for one in theirs[kind]):
            yield f"The template and Terraform differ in {name}: {mine} and {theirs[kind]}."
    text = (TERRAFORM / "main.tf").read_text()
    for setting in json.loads(resources["Settings"]["Properties"]["SecretString"]["Fn::Sub"][0]):
        if not re.search(rf"^ +{setting} += ", text, re.MULTILINE):
            yield f"Terraform's secret lacks {setting}."


def _terraform_resources() -> dict[str, list[dict[str, Any]]]:
    """Terraform's resources by their types."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(TERRAFORM.glob("*.tf")):
        for resource in _terraform(path).get("resource", []):
            for kind, named in resource.items():
                found.setdefault(kind, []).extend(named.values())
    return found


def _terraform(path: Path) -> dict[str, Any]:
    with path.open() as file:
        return _plain(hcl2.load(file))


def _terraform_functions() -> Iterator[dict[str, Any]]:
    document = _terraform(TERRAFORM / "main.tf")
    functions = next(local["functions"] for local in document["locals"] if "functions" in local)
    variables = next(local["variables"] for local in document["locals"] if "variables" in local)
    for name, function in functions.items():
        yield {**function, "package": name, "variables": sorted(variables)}


def _plain(value: Any) -> Any:
    """Without the quotes that the parser leaves around texts and names, and its own notes."""
    match value:
        case dict():
            return {_plain(name): _plain(one) for name, one in value.items() if not str(name).startswith("__")}
        case list():
            return [_plain(one) for one in value]
        case str():
            return value.strip('"')
        case _:
            return value


def _format() -> Iterator[str]:
    if shutil.which("terraform") is None:
        return
    command = ["terraform", "fmt", "-check", "-recursive", "-diff", str(TERRAFORM)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield done.stdout + done.stderr


def _template() -> dict[str, Any]:
    template, problems = decode.decode(str(TEMPLATE))
    assert template is not None, problems
    return copy.deepcopy(json.loads(json.dumps(template)))


def _functions(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kind = "AWS::Serverless::Function"
    return {name: one["Properties"] for name, one in template["Resources"].items() if one["Type"] == kind}


def _events(template: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    for function in _functions(template).values():
        yield from (event for event in function["Events"].values() if event["Type"] == kind)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


if __name__ == "__main__":
    sys.exit(main())
