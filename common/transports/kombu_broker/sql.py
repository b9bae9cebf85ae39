"""kombu's SQLAlchemy transport, with what it lacks: taken messages come again or are deleted, sessions are closed."""

from typing import TYPE_CHECKING, Any

from common.transports.kombu_broker.untyped import kombu_sqlalchemy

if TYPE_CHECKING:
    # kombu has no types: this is the part of it that we rely on.
    class _KombuChannel:
        session: Any
        queue_cls: Any
        message_cls: Any
        _session: Any

        def close(self) -> None: ...
        def _get_or_create(self, queue: str) -> Any: ...

    class _KombuTransport: ...
else:
    _KombuChannel = kombu_sqlalchemy.Channel
    _KombuTransport = kombu_sqlalchemy.Transport


class Channel(_KombuChannel):
    """kombu hides a message when it is read, before anybody acknowledged it, and never deletes it."""

    def recover_held(self, queue: str) -> int:
        """Show again what a reader of `queue` had taken when it ended; returns how many."""
        # Without this, `timestamp` would be set, and messages are ordered by it first.
        changes = {self.message_cls.visible: True, self.message_cls.sent_at: None}
        count = self._taken(queue).update(changes, synchronize_session=False)
        self.session.commit()
        return int(count)

    def forget_held(self, queue: str) -> None:
        """Delete what readers of `queue` have taken: all of it is acknowledged."""
        self._taken(queue).delete(synchronize_session=False)
        self.session.commit()

    def queue_names(self, prefix: str) -> list[str]:
        """Return the queues in the database whose names start so."""
        column = self.queue_cls.name
        names = [row[0] for row in self.session.query(column).filter(column.startswith(prefix, autoescape=True))]
        self.session.commit()
        return names

    def close(self) -> None:
        super().close()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _taken(self, queue: str) -> Any:
        own = self._get_or_create(queue)
        message = self.message_cls
        return self.session.query(message).filter(message.queue_id == own.id, message.visible.is_(False))


class Transport(_KombuTransport):
    """kombu's transport with our channel."""

    Channel = Channel
