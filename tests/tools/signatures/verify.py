"""Whether the reference implementation of Standard Webhooks takes a request: {"secret", "headers", "body"} on standard input."""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

request = json.load(sys.stdin)
try:
    Webhook(request["secret"]).verify(request["body"], request["headers"])
    print("taken")
except WebhookVerificationError as error:
    print(f"refused: {error}")
