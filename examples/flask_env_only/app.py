# SPDX-License-Identifier: Apache-2.0
"""A Flask app that knows nothing of OpenTelemetry or SPIFFE."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/hello")
def hello() -> str:
    return "hello"


if __name__ == "__main__":
    with app.test_client() as client:
        print(client.get("/hello").text)
