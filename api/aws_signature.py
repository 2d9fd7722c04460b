"""AWS's Signature Version 4, made by hand: boto3 takes half a second to load, in every new environment of Lambda."""

import hashlib
import hmac
import os
from datetime import datetime

import httpx

from api.errors import ConfigurationError


def signed_headers(
    endpoint: str, *, service: str, region: str, target: str, body: bytes, now: datetime, json_version: str = "1.1"
) -> dict[str, str]:
    """Headers of a POST with JSON to a service of AWS, by the credentials of the environment.

    Raises:
        ConfigurationError: the environment has none.
    """
    try:
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as error:
        raise ConfigurationError(
            "AWS is called with the credentials that a Lambda function has, in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY."
        ) from error
    headers = {
        "content-type": f"application/x-amz-json-{json_version}",
        "host": httpx.URL(endpoint).netloc.decode(),
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
        "x-amz-target": target,
    }
    if token := os.environ.get("AWS_SESSION_TOKEN"):
        headers["x-amz-security-token"] = token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{now:%Y%m%d}/{region}/{service}/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signing_key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    signature = hmac.digest(signing_key, to_sign.encode(), "sha256").hex()
    authorization = f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": authorization}
