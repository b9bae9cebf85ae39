# shellcheck shell=bash disable=SC2034
# RabbitMQ 4: the broker that Rowferry recommends.  Read by infra/scripts/test_services.sh.
SETTING=ROWFERRY_TEST_RABBITMQ_IMAGE
OFFICIAL=rabbitmq:4-management
BUILT=rowferry-test/rabbitmq:4
SUITE=trixie
PACKAGES=rabbitmq-server
ENTRYPOINT_SCRIPT=rabbitmq.sh
COMMAND='["rabbitmq-server"]'
PORT=5672
