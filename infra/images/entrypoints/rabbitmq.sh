#!/bin/sh
# First process of the RabbitMQ test image.  Understands the same variables as the official image
# (RABBITMQ_DEFAULT_USER, RABBITMQ_DEFAULT_PASS, RABBITMQ_DEFAULT_VHOST), so that the fixtures need not know which runs.
set -eu

if [ "${1:-rabbitmq-server}" != rabbitmq-server ]; then
    exec "$@"
fi

# The defaults count only while the broker makes its database, so rewriting the file on each start is harmless.
umask 022
mkdir -p /etc/rabbitmq/conf.d
{
    echo 'loopback_users = none'
    echo "default_user = ${RABBITMQ_DEFAULT_USER:-guest}"
    echo "default_pass = ${RABBITMQ_DEFAULT_PASS:-guest}"
    echo "default_vhost = ${RABBITMQ_DEFAULT_VHOST:-/}"
} >/etc/rabbitmq/conf.d/10-defaults.conf

chown -R rabbitmq:rabbitmq /etc/rabbitmq /var/lib/rabbitmq /var/log/rabbitmq
export HOME=/var/lib/rabbitmq
export RABBITMQ_LOGS=-
# The packaged wrapper of this name would send the log to a file; `docker logs` should show it.
exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups /usr/lib/rabbitmq/bin/rabbitmq-server
