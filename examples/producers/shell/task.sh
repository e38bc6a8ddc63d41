#!/bin/sh
# The minimal message, published by RabbitMQ's own tool; the result read with redis-cli. Needs nothing else.
# RabbitMQ 3.x ships this rabbitmqadmin (in Debian's rabbitmq-server; otherwise the management interface
# serves it at /cli/). The management API does not confirm: good for trying out, not for production.
set -eu
: "${GLEITZEIT_RABBITMQ_API:?set it to the management address, such as http://127.0.0.1:15672}"
: "${GLEITZEIT_REDIS_URL:?set it, such as redis://127.0.0.1:6379/0}"

id=$(cat /proc/sys/kernel/random/uuid)
rabbitmqadmin --base-uri="$GLEITZEIT_RABBITMQ_API" --vhost="${GLEITZEIT_RABBITMQ_VHOST:-/}" \
    --username="${GLEITZEIT_RABBITMQ_USER:-guest}" --password="${GLEITZEIT_RABBITMQ_PASSWORD:-guest}" \
    publish exchange=gleitzeit.tasks routing_key=python.v1 \
    payload='{"method": "execute", "params": {"code": "print(6*7)"}}' \
    properties="{\"message_id\": \"$id\", \"delivery_mode\": 2}" >&2

deadline=$(($(date +%s) + 30))
while :; do
    # The braces are part of the key.
    result=$(redis-cli -u "$GLEITZEIT_REDIS_URL" GET "${GLEITZEIT_REDIS_PREFIX:-gleitzeit}:{$id}:result")
    [ -z "$result" ] || break
    if [ "$(date +%s)" -ge "$deadline" ]; then
        echo "no result of $id within 30 s" >&2
        exit 1
    fi
    sleep 0.2
done
printf '%s\n' "$result"
case $result in
    *'"status":"completed"'*) ;;
    *) exit 1 ;;
esac
