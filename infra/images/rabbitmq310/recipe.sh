# shellcheck shell=bash disable=SC2034
# RabbitMQ 3.10: the oldest broker that Rowferry supports.  Read by infra/scripts/test_services.sh.
SETTING=ROWFERRY_TEST_RABBITMQ310_IMAGE
OFFICIAL=rabbitmq:3.10
BUILT=rowferry-test/rabbitmq:3.10
SUITE=bookworm
PACKAGES=rabbitmq-server
ENTRYPOINT_SCRIPT=rabbitmq.sh
COMMAND='["rabbitmq-server"]'
PORT=5672
