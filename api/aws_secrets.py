"""One call of AWS's Secrets Manager, signed by hand: boto3 takes half a second to load, in every new environment."""

import hashlib
import hmac
import os
import re
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import orjson

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


def signed_headers(endpoint: str, *, region: str, target: str, body: bytes, now: datetime) -> dict[str, str]:
    """Headers of a POST with JSON to a service of AWS: Signature Version 4, by the credentials of the environment."""
    try:
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as error:
        raise ConfigurationError("QUIVER_SECRET_ARN is read with the credentials of a Lambda function.") from error
    headers = {
        "content-type": "application/x-amz-json-1.1",
        "host": httpx.URL(endpoint).netloc.decode(),
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
        "x-amz-target": target,
    }
    if token := os.environ.get("AWS_SESSION_TOKEN"):
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{now:%Y%m%d}/{region}/{SERVICE}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signing_key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    signature = hmac.digest(signing_key, to_sign.encode(), "sha256").hex()
    authorization = f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": authorization}


def _call(endpoint: str, region: str, body: bytes) -> dict[str, Any]:
    headers = signed_headers(endpoint, region=region, target=TARGET, body=body, now=datetime.now(UTC))
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
