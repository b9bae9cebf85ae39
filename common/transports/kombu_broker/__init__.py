"""Every broker but RabbitMQ, through kombu: the sink, the source, and what each transport can't promise."""

from common.transports.kombu_broker.connecting import KombuSettings, look
from common.transports.kombu_broker.receiving import KombuSource
from common.transports.kombu_broker.routes import declare_queue
from common.transports.kombu_broker.sending import KombuSink
from common.transports.kombu_broker.traits import KNOWN, Traits, features_for, schemes_of

__all__ = [
    "KNOWN",
    "KombuSettings",
    "KombuSink",
    "KombuSource",
    "Traits",
    "declare_queue",
    "features_for",
    "look",
    "schemes_of",
]
