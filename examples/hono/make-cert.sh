#!/bin/sh
# Creates a certificate for localhost. Use it for this example only.
set -eu
cd "$(dirname "$0")"
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
  -subj /CN=localhost -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' \
  -keyout localhost.key -out localhost.pem 2>/dev/null
echo "made localhost.pem and localhost.key"
