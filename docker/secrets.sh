#!/bin/sh
# Makes what compose.yaml needs and what nobody else may know: random secrets in docker/secrets, and in docker/.env the
# user that may read them. Secrets that exist are kept.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
for name in postgres_password mlflow_password mlflow_secret_key ray_token; do
    [ -s "secrets/$name" ] || random >"secrets/$name"
done
for client in operator worker; do
    [ -s "secrets/$client" ] || echo "$client $(random)" >"secrets/$client"
done
# The clients that the service knows. Delete a line to shut one out; the service notices.
[ -s secrets/clients ] || cat secrets/operator secrets/worker >secrets/clients
[ -s .env ] || echo "AUTOWARMUP_UID=$(id -u)" >.env
