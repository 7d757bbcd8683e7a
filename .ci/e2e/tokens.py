"""Tokens by PyJWT: reads lines of JSON with a key, headers and claims, and writes a token for each."""

import json
import sys

import jwt

for line in sys.stdin:
    asked = json.loads(line)
    algorithm, key = asked["algorithm"], asked["key"]
    key = key.encode() if isinstance(key, str) else jwt.PyJWK(key, algorithm).key
    print(jwt.encode(asked["claims"], key, algorithm=algorithm, headers=asked["header"]), flush=True)
