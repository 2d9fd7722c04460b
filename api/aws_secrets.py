"""One call of AWS's Secrets Manager, without boto3."""

import os
import re
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import orjson

from api.aws_signature import signed_headers
from api.errors import ConfigurationError

SERVICE: Final = "secretsmanager"
TARGET: Final = "secretsmanager.GetSecretValue"
SECONDS: Final = 3
ATTEMPTS: Final = 2  # with the first one, within the ten seconds that Lambda has for initialising

ARN = re.compile(r"arn:[a-z-]+:secretsmanager:([a-z0-9-]+):\d{12}:secret:.+")


def read(arn: str) -> dict[str, str]:
    """The settings that a secret holds, by their names in the environment.

    Raises:
        ConfigurationError: the secret cannot be read, or is no JSON object of texts.
    """
    found = ARN.fullmatch(arn)
    if found is None:
        raise ConfigurationError(f"QUIVER_SECRET_ARN must be the ARN of a secret of Secrets Manager, not {arn!r}.")
    region = found[1]
    endpoint = os.environ.get("AWS_ENDPOINT_URL_SECRETS_MANAGER") or f"https://{SERVICE}.{region}.amazonaws.com"
    text = _call(endpoint, region, orjson.dumps({"SecretId": arn})).get("SecretString")
    try:
        settings: Any = orjson.loads(text or "")
    except orjson.JSONDecodeError:
        settings = None
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):  # pyright: ignore[reportUnknownVariableType]
        raise ConfigurationError(
            'The secret of QUIVER_SECRET_ARN must be a JSON object of texts, such as {"DATABASE_URL": "postgresql://…"}.'
        )
    return settings  # pyright: ignore[reportUnknownVariableType]  # looked at just now


def _call(endpoint: str, region: str, body: bytes) -> dict[str, Any]:
    now = datetime.now(UTC)
    headers = signed_headers(endpoint, service=SERVICE, region=region, target=TARGET, body=body, now=now)
    transport = httpx.HTTPTransport(retries=ATTEMPTS - 1)
    try:
        with httpx.Client(transport=transport, timeout=SECONDS) as client:
            answer = client.post(endpoint, content=body, headers=headers)
    except httpx.TransportError as error:
        raise ConfigurationError(
            "Secrets Manager cannot be reached: a function in a VPC needs an endpoint of it, or a NAT gateway."
        ) from error
    if answer.is_error:
        kind = re.search(r'"__type"\s*:\s*"(?:[^"#]*#)?(\w+)"', answer.text)
        raise ConfigurationError(
            f"Secrets Manager refuses the secret of QUIVER_SECRET_ARN ({kind[1] if kind else answer.status_code}): "
            "check the ARN, and that the function's role has secretsmanager:GetSecretValue on it."
        )
    return orjson.loads(answer.content)
